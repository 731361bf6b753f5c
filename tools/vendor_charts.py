"""Fetch what HTML reports and their test need from the npm registry, by npm.

    python tools/vendor_charts.py           # Chart.js; setup.py does this whenever strzoo is built
    python tools/vendor_charts.py --tests   # axe-core too; `make test-slow` does this

Chart.js, which draws the charts, goes to strzoo/pages/vendor/, which git ignores and a wheel
holds; axe-core, which checks that the pages are accessible, to tests/vendor/. Each file is checked
against its hash. Without npm, or without a network, this ends soon: reports then have no charts.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Vendored:
    """A file of an npm package, beside which its licence goes."""

    package: str
    member: str
    licence: str
    sha256: str
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / Path(self.member).name

    def is_there(self) -> bool:
        path = self.path
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256


CHARTS = Vendored(
    "chart.js@4.6.1",
    "package/dist/chart.umd.min.js",
    "package/LICENSE.md",
    "87364cc2b2a76a6684929e7d6b80b18a897794db38400caff1fcf1791c6925d2",
    ROOT / "strzoo" / "pages" / "vendor",
)
AXE = Vendored(
    "axe-core@4.14.1",
    "package/axe.min.js",
    "package/LICENSE",
    "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
    ROOT / "tests" / "vendor",
)
_OPTIONS = ("--silent", "--fetch-retries=0", "--fetch-timeout=20000")
_SECONDS = 60.0


def fetch(file: Vendored, npm: str) -> str | None:
    """Put the file in its place; what went wrong, if anything."""
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", *_OPTIONS, file.package]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"npm pack {file.package} failed: {error}"
        if done.returncode:
            return f"npm pack {file.package} failed: {done.stderr.strip()[-300:] or 'no network?'}"
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            content, licence = (archive.extractfile(n) for n in (file.member, file.licence))
            assert content is not None
            assert licence is not None
            data, terms = content.read(), licence.read()
    if hashlib.sha256(data).hexdigest() != file.sha256:
        return f"{file.package} holds another {file.member} than the one that was looked at"
    file.folder.mkdir(exist_ok=True)
    (file.folder / f"LICENSE-{file.package.partition('@')[0]}").write_bytes(terms)
    file.path.write_bytes(data)
    return None


def main(arguments: list[str]) -> int:
    npm = shutil.which("npm")
    missing = [f for f in (CHARTS, *([AXE] if "--tests" in arguments else [])) if not f.is_there()]
    if missing and npm is None:
        print("npm is not installed: HTML reports will have no charts", file=sys.stderr)
        return 1
    problems = [fetch(file, npm) for file in missing if npm is not None]
    for problem in filter(None, problems):
        print(problem, file=sys.stderr)
    return int(any(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
