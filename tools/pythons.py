"""Interpreters and environments of their own, for what is tried outside this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


def find_python(version: str) -> Path | None:
    """An interpreter of that version, such as "3.10": on the path, or one that pyenv has."""
    for path in _candidates(version):
        program = "import sys, ssl; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([path, "-c", program], capture_output=True, text=True)
        if done.stdout.strip() == version:
            return path
    return None


def _candidates(version: str) -> Iterator[Path]:
    found = shutil.which(f"python{version}")
    if found:
        yield Path(found)
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True)


def make_environment(python: Path, folder: Path, packages: Sequence[str]) -> Path:
    """A virtual environment with these arguments of `uv pip install`; its Python."""
    uv = [shutil.which("uv", path=_path()) or "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", python, folder], check=True)
    made = folder / "bin" / "python"
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", made, *packages], check=True)
    return made


def _path() -> str:
    """Where the commands of this interpreter's environment are, first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def clean_environment(**more: str) -> dict[str, str]:
    """The variables of this process, less those of its Python."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, **more}
