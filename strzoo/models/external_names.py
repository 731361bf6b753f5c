"""The names of networks from elsewhere, told apart without importing torch."""

from __future__ import annotations

from typing import Any

LIBRARIES = ("timm", "torchvision")


def is_external(name: Any) -> bool:
    """Whether a name means a network from elsewhere: it has a colon."""
    return isinstance(name, str) and ":" in name


def runs_code(name: str) -> bool:
    """Whether building that network runs code that is not a known library's."""
    return name.partition(":")[0] not in LIBRARIES
