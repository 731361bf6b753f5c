"""Builds strzoo-runtime, the distribution that runs .strz files with NumPy alone.

    python tools/build_runtime.py [-o dist]

It holds the modules of strzoo that running a compiled network needs, found by following the
imports of `ROOTS`, under the name `strzoo_runtime`: with a name of its own it can be installed
beside strzoo, and removing one leaves the other whole.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from strzoo.version import VERSION  # noqa: E402

NAME = "strzoo_runtime"
ROOTS = ("engine.session", "engine.runtime.load")
# Imported in functions that only all of strzoo can serve.
LEFT_OUT = ("engine.compile", "hub")
_IMPORT = re.compile(r"^(\s*)(from|import) strzoo\b", re.MULTILINE)


def find_modules() -> list[Path]:
    """The files of the modules, relative to the package `strzoo`, packages' own included."""
    package = CHECKOUT / "strzoo"
    found: set[Path] = set()
    waiting = [*ROOTS]
    while waiting:
        name = waiting.pop()
        if name.startswith(LEFT_OUT):
            continue
        path = _find_file(package, name)
        if path is None or path.relative_to(package) in found:
            continue
        found.add(path.relative_to(package))
        if name:
            waiting.append(name.rpartition(".")[0])
            waiting += _list_imports(path)
    # The package's own list of public names is that of the distribution.
    return sorted(found - {Path("__init__.py")})


def _find_file(package: Path, name: str) -> Path | None:
    base = package.joinpath(*name.split(".")) if name else package
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _list_imports(path: Path) -> Iterator[str]:
    """The names after "strzoo." that a module imports, also in functions; none of them for types
    alone."""
    tree = ast.parse(path.read_text())
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name):
            continue  # TYPE_CHECKING
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("strzoo."):
            module = str(node.module).partition(".")[2]
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def write_sources(folder: Path) -> Path:
    """Write what the distribution is built from to `folder`, which must not exist."""
    shutil.copytree(CHECKOUT / "runtime", folder)
    shutil.copy2(CHECKOUT / "LICENSE", folder)
    package = folder / NAME
    for path in [*find_modules(), Path("py.typed")]:
        target = package / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / "strzoo" / path, target)
    for path in package.rglob("*.py"):
        path.write_text(_IMPORT.sub(rf"\1\2 {NAME}", path.read_text()))
    version = f'"""The version of strzoo that this was made of."""\n\nVERSION = "{VERSION}"\n'
    (package / "version.py").write_text(version)
    settings = (folder / "setup.cfg").read_text()
    (folder / "setup.cfg").write_text(settings.replace("version = 0\n", f"version = {VERSION}\n"))
    return folder


def build(output: Path, *options: str) -> None:
    """Build the distribution into `output`; `options` are those of `python -m build`."""
    with tempfile.TemporaryDirectory() as folder:
        source = write_sources(Path(folder) / "source")
        command = [sys.executable, "-m", "build", *options, "-o", str(output), str(source)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("-o", "--output", type=Path, default=CHECKOUT / "dist")
    build(parser.parse_args().output.resolve())


if __name__ == "__main__":
    main()
