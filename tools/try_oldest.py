"""Runs the tests with the oldest Python and the lowest versions that setup.cfg allows.

    python tools/try_oldest.py [--folder .venv-oldest] [--python 3.10] [-- arguments of pytest]

What strzoo needs has the lowest version that is declared; what that needs has the newest that fits
it. So warnings are no errors here: an old package may call what a newer one has deprecated. Needs
uv and the package index; 6 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.pythons import clean_environment, find_python, make_environment  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv-oldest")
    parser.add_argument("--python", default="3.10")
    parser.add_argument("--keep", action="store_true", help="use the folder as it is")
    parser.add_argument("arguments", nargs="*", help="of pytest")
    options = parser.parse_args()
    python: Path | None = options.folder / "bin" / "python"
    if not options.keep:
        python = find_python(options.python)
        if python is None:
            sys.exit(f"Python {options.python} is not at hand")
        packages = ["--resolution", "lowest-direct", "pip>=24", "--editable", f"{ROOT}[test]"]
        python = make_environment(python, options.folder, packages)
    assert python is not None
    command = [
        str(python),
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-o",
        "filterwarnings=default",
        *options.arguments,
    ]
    path = os.pathsep.join([str(python.absolute().parent), os.environ.get("PATH", "")])
    environment = clean_environment(PATH=path)
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
