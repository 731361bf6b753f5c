"""Numbers as people read them."""

from __future__ import annotations


def spell_change(value: float) -> str:
    """A change with its sign and two digits: +0.25, -1.00; one that rounds to zero is +0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"
