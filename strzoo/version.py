"""The version of this package, importable without anything else.

It comes from the git tags: setuptools-scm writes `strzoo/_version.py` when strzoo is installed or
built. A checkout that never was has no such file, and git is not asked at run time.
"""

import importlib

FALLBACK = "0.1.dev0"  # fallback_version in pyproject.toml


def _read_version() -> str:
    try:
        return str(importlib.import_module("strzoo._version").VERSION)
    except ModuleNotFoundError:
        return FALLBACK


VERSION = _read_version()
