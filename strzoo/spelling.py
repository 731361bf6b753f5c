"""Numbers as people read them."""

from __future__ import annotations

# Characters that a terminal obeys instead of showing them, and those that turn the direction of
# writing, by which a text looks like another.
_OBEYED = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for codes in (range(0x20), range(0x7F, 0xA0), range(0x202A, 0x202F), range(0x2066, 0x206A))
    for code in codes
    if chr(code) not in "\n\t"
}


def printable(text: str) -> str:
    """`text` from anywhere as a terminal may get it: what it would obey is spelled out (\\x1b)."""
    return text.translate(_OBEYED)


def spell_change(value: float) -> str:
    """A change with its sign and two digits: +0.25, -1.00; one that rounds to zero is +0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"
