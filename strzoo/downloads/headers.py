"""What a server says in its headers, read so that nothing it says can do harm.

Numbers are ASCII digits and bounded, texts printable and short. What is neither is no value.
"""

from __future__ import annotations

import re
from typing import Any

LARGEST = 2**63 - 1  # bytes or seconds; every number above it is read as this one
_DIGITS = len(str(LARGEST))
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_VALIDATOR = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")


def parse_count(text: str) -> int | None:
    """A number of bytes or seconds, at most `LARGEST`; None if the text is no such number."""
    text = text.strip()
    # str.isdigit alone accepts "²", on which int fails, as it does on thousands of digits.
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return LARGEST if len(digits) > _DIGITS else min(int(digits or "0"), LARGEST)


def parse_content_range(text: str) -> tuple[int, int, int] | None:
    """First byte, last byte and size of a Content-Range header; None if it is none."""
    match = _RANGE.fullmatch(text.strip())
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def parse_validator(value: Any) -> str | None:
    """An ETag or Last-Modified that can be sent back as If-Range; None if `value` is none."""
    return value if isinstance(value, str) and _VALIDATOR.fullmatch(value) else None
