"""A network as its callers see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """An input or an output of a network.

    Args:
        name: as the network calls it.
        dtype: of NumPy, such as "float32".
        shape: the batch included; None where a size is open.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
