"""The architectures that strzoo knows: those of this folder and those that users register."""

from __future__ import annotations

import pkgutil
import re
from functools import lru_cache
from importlib import import_module

import strzoo.models
from strzoo.arguments import checked
from strzoo.errors import UsageError
from strzoo.models.architecture import Architecture
from strzoo.models.external import external_architecture
from strzoo.models.external_names import is_external
from strzoo.zoo.names import resolve_name

_registered: dict[str, Architecture] = {}


@lru_cache(maxsize=1)
def _built_in() -> dict[str, Architecture]:
    """The records in the files of this folder, by name."""
    found = {}
    for module in pkgutil.iter_modules(strzoo.models.__path__, "strzoo.models."):
        for record in getattr(import_module(module.name), "ARCHITECTURES", ()):
            found[record.name] = record
    return found


@checked
def register_architecture(architecture: Architecture) -> Architecture:
    """Make an architecture known to everything that takes a name or reads a checkpoint.

    Args:
        architecture: the record. A record that is equal to the registered one is accepted again.

    Returns:
        `architecture`.

    Raises:
        UsageError: the name is taken or is not lower-case letters and digits.
    """
    name = architecture.name
    if not re.fullmatch(r"[a-z][a-z0-9]*", name):
        raise UsageError(f"architecture name {name!r} is not lower-case letters and digits")
    if known_architectures().get(name, architecture) != architecture:
        raise UsageError(f"architecture {name!r} is registered already; choose another name")
    taken = [a.name for a in known_architectures().values() if a.name != name]
    for other in taken:
        if find_architecture(other).published.lower() == architecture.published.lower():
            raise UsageError(
                f"published name {architecture.published!r} is that of {other}; choose another"
            )
    _registered[name] = architecture
    return architecture


def known_architectures() -> dict[str, Architecture]:
    """Every architecture by name; registered ones first, as they are recognised first."""
    return {**_registered, **_built_in()}


def list_architectures() -> list[str]:
    """Names that `create_model` accepts."""
    return [*_built_in(), *(name for name in _registered if name not in _built_in())]


def find_architecture(name: str) -> Architecture:
    """The architecture of that name or unique prefix, or of a network from elsewhere
    (`timm:NAME`, `torchvision:NAME`, `package.module:function`).

    Raises:
        UnknownNameError: none or several match; the nearest are listed.
    """
    if is_external(name):
        return external_architecture(name)
    known = known_architectures()
    return known[resolve_name(name, known, kind="architecture")]
