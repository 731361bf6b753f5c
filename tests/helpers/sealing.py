"""Files whose lengths and hashes are made right again after a change."""

from __future__ import annotations

import hashlib
import struct

from strzoo.files import PLAN_MAGIC


def seal(content: bytes) -> bytes:
    """A `.strz` file with that content."""
    digest = hashlib.sha256(content).digest()
    return struct.pack("<8sIIQ32s8x", PLAN_MAGIC, 1, 0, len(content), digest) + content


def split_header(whole: bytes) -> bytes:
    """Header and numbers of a safetensors file, or of a `.strz` file's content, with a zero byte
    between."""
    (length,) = struct.unpack("<Q", whole[:8])
    return whole[8 : 8 + length] + b"\0" + whole[8 + length :]


def join_header(content: bytes) -> bytes:
    """What `split_header` made such a content of."""
    header, _, numbers = content.partition(b"\0")
    return struct.pack("<Q", len(header)) + header + numbers
