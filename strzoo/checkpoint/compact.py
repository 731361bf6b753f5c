"""The compact sparse file: per tensor a bitmask and the nonzero values, inside safetensors.

`docs/compact-format.md` documents the bytes. The code is lossless, bit for bit, signed zeros
and NaN payloads included: a value is left out only if all its bits are zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strzoo.errors import IntegrityError
from strzoo.settings import Limits
from strzoo.sparse.blocks import ENGINE_BLOCK, LARGEST_BLOCK, cut_blocks

FORMAT = "strzoo-compact"
VERSION = "1"
BLOCKED = "2"  # has tensors whose zeros come in blocks of input channels
_MOST_AXES = 64
_MASK, _VALUES = ".mask", ".values"
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def encode(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header fields of a compact file.

    A tensor is stored as mask and values where that is smaller, otherwise as it is; the mask has a
    bit for each block of `ENGINE_BLOCK` input channels where that is smaller still.
    """
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    blocks: dict[str, int] = {}
    for key, value in state.items():
        flat = value.detach().cpu().contiguous().reshape(-1)
        nonzero = flat.view(_BITS[flat.element_size()]) != 0
        count = int(nonzero.sum())
        packed_size = (flat.numel() + 7) // 8 + count * flat.element_size()
        values = flat[nonzero]
        if value.dim() > 1 and value.numel():
            parts = _in_blocks(flat.reshape(value.shape), ENGINE_BLOCK)
            living = (parts.view(_BITS[flat.element_size()]) != 0).any(1)
            size = (len(living) + 7) // 8 + int(living.sum()) * ENGINE_BLOCK * flat.element_size()
            if size < packed_size:
                packed_size, nonzero = size, living
                values, blocks[key] = parts[living].reshape(-1), ENGINE_BLOCK
        if packed_size >= flat.numel() * flat.element_size():
            tensors[key] = flat.reshape(value.shape)
            blocks.pop(key, None)
            continue
        mask = np.packbits(nonzero.numpy(), bitorder="little")
        tensors[key + _MASK] = torch.from_numpy(mask)
        tensors[key + _VALUES] = values
        shapes[key] = list(value.shape)
    header = {"format": FORMAT, "version": VERSION, "shapes": json.dumps(shapes)}
    if blocks:  # other files are as readers of the first version know them
        header |= {"version": BLOCKED, "blocks": json.dumps(blocks)}
    return tensors, header


def _in_blocks(value: Tensor, block: int) -> Tensor:
    """[blocks, block]: a row for each block, in the order of output channel, block, place of the
    kernel; the last block of an output channel is filled up with zeros."""
    return cut_blocks(value, block).transpose(2, 3).reshape(-1, block)


def decode(
    tensors: Mapping[str, Tensor], header: Mapping[str, str], limits: Limits | None = None
) -> dict[str, Tensor]:
    """The state dict that `encode` was given.

    Args:
        tensors: what the file holds.
        header: its fields.
        limits: how large a tensor may be, and all of them together, once its zeros are written
            out; by default those of the environment.

    Raises:
        IntegrityError: the version is unknown, masks, values and shapes disagree, or the tensors
            are above a limit.
        ValueError, RecursionError: the header is no JSON.
    """
    limits = limits or Limits.from_env()
    if header.get("version") not in (VERSION, BLOCKED):
        raise IntegrityError(
            f"compact version {header.get('version')!r} is not supported; "
            f"this strzoo reads {VERSION} and {BLOCKED}"
        )
    shapes = _read_field(header, "shapes", limits)
    blocks = _read_field(header, "blocks", limits) if header["version"] == BLOCKED else {}
    if odd := [key for key in blocks if key not in shapes]:
        raise IntegrityError(f"the compact header has blocks for {odd[0][:60]!r}, but no shape")
    rest = dict(tensors)
    state: dict[str, Tensor] = {}
    total = 0
    for key, shape in shapes.items():
        mask, values = rest.pop(key + _MASK, None), rest.pop(key + _VALUES, None)
        if mask is None or values is None:
            raise IntegrityError(f"{key}: its mask or its values are missing")
        block = _check_block(key, blocks.get(key, 1), shape)
        size = _check_shape(key, shape, mask, block)
        total += size * values.element_size()
        limits.check("elements", size, f"{key} of a compact file")
        limits.check("bytes", total, "the tensors of a compact file")
        state[key] = _expand(key, shape, mask, values, block)
    for key, value in rest.items():
        if key in state:
            raise IntegrityError(f"{key} is stored twice, plain and compact")
        state[key] = value
    return state


def _read_field(header: Mapping[str, str], name: str, limits: Limits) -> dict[str, Any]:
    text = header.get(name, "null")
    limits.check("text", len(text), f"the {name} of the compact header")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise IntegrityError(f"the compact header has no {name}")
    return found


def _check_block(key: str, block: object, shape: object) -> int:
    if block == 1 and type(block) is int:
        return 1
    if type(block) is not int or not 1 < block <= LARGEST_BLOCK:
        raise IntegrityError(f"{key}: {str(block)[:60]} is no number of channels in a block")
    if not isinstance(shape, list) or len(shape) < 2:
        raise IntegrityError(f"{key}: it has blocks of input channels, but no input channels")
    return block


def _check_shape(key: str, shape: object, mask: Tensor, block: int) -> int:
    """The elements of a tensor of that shape, which its mask must have too."""
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_AXES
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise IntegrityError(f"{key}: {str(shape)[:60]} is not a shape")
    size = math.prod(shape)
    bits = _count_bits(shape, block)
    if mask.dtype != torch.uint8 or mask.dim() != 1 or mask.numel() != (bits + 7) // 8:
        each = "block" if block > 1 else "weight"
        raise IntegrityError(
            f"{key}: its mask does not have the bytes of {str(shape)[:60]}, one bit for each {each}"
        )
    return size


def _count_bits(shape: list[int], block: int) -> int:
    """Bits of a mask: one for each weight, or for each block of them."""
    if block == 1:
        return math.prod(shape)
    return shape[0] * -(-shape[1] // block) * math.prod(shape[2:])


def _expand(key: str, shape: list[int], mask: Tensor, values: Tensor, block: int) -> Tensor:
    size = _count_bits(shape, block)
    bits = np.unpackbits(mask.numpy(), bitorder="little")
    if bits[size:].any():
        raise IntegrityError(f"{key}: the padding bits of its mask are not zero")
    nonzero = torch.from_numpy(bits[:size].view(np.bool_))
    count = int(nonzero.sum())
    if values.dim() != 1 or values.numel() != count * block:
        raise IntegrityError(f"{key}: {values.numel()} values for {count} bits set in its mask")
    parts = torch.zeros(size, block, dtype=values.dtype)
    parts[nonzero] = values.reshape(-1, block)
    if block == 1:
        return parts.reshape(shape)
    whole = parts.reshape(shape[0], -(-shape[1] // block), math.prod(shape[2:]), block)
    whole = whole.transpose(2, 3).reshape(shape[0], -1, whole.shape[2])
    if (whole[:, shape[1] :].contiguous().view(_BITS[values.element_size()]) != 0).any():
        raise IntegrityError(f"{key}: its last blocks have values beyond its input channels")
    return whole[:, : shape[1]].reshape(shape)
