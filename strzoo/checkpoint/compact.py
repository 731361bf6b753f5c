"""The compact sparse file: per tensor a bitmask and the nonzero values, inside safetensors.

`docs/compact-format.md` documents the bytes. The code is lossless, bit for bit, signed zeros
and NaN payloads included: a value is left out only if all its bits are zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from strzoo.errors import IntegrityError
from strzoo.settings import Limits

FORMAT = "strzoo-compact"
VERSION = "1"
_MOST_AXES = 64
_MASK, _VALUES = ".mask", ".values"
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def encode(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header fields of a compact file.

    A tensor is stored as mask and values where that is smaller, otherwise as it is.
    """
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for key, value in state.items():
        flat = value.detach().cpu().contiguous().reshape(-1)
        nonzero = flat.view(_BITS[flat.element_size()]) != 0
        count = int(nonzero.sum())
        packed_size = (flat.numel() + 7) // 8 + count * flat.element_size()
        if packed_size >= flat.numel() * flat.element_size():
            tensors[key] = flat.reshape(value.shape)
            continue
        mask = np.packbits(nonzero.numpy(), bitorder="little")
        tensors[key + _MASK] = torch.from_numpy(mask)
        tensors[key + _VALUES] = flat[nonzero]
        shapes[key] = list(value.shape)
    return tensors, {"format": FORMAT, "version": VERSION, "shapes": json.dumps(shapes)}


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
    if header.get("version") != VERSION:
        raise IntegrityError(
            f"compact version {header.get('version')!r} is not supported; "
            f"this strzoo reads {VERSION}"
        )
    text = header.get("shapes", "null")
    limits.check("text", len(text), "the shapes of the compact header")
    shapes = json.loads(text)
    if not isinstance(shapes, dict):
        raise IntegrityError("the compact header has no shapes")
    rest = dict(tensors)
    state: dict[str, Tensor] = {}
    total = 0
    for key, shape in shapes.items():
        mask, values = rest.pop(key + _MASK, None), rest.pop(key + _VALUES, None)
        if mask is None or values is None:
            raise IntegrityError(f"{key}: its mask or its values are missing")
        size = _check_shape(key, shape, mask)
        total += size * values.element_size()
        limits.check("elements", size, f"{key} of a compact file")
        limits.check("bytes", total, "the tensors of a compact file")
        state[key] = _expand(key, shape, size, mask, values)
    for key, value in rest.items():
        if key in state:
            raise IntegrityError(f"{key} is stored twice, plain and compact")
        state[key] = value
    return state


def _check_shape(key: str, shape: object, mask: Tensor) -> int:
    """The elements of a tensor of that shape, which its mask must have too."""
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_AXES
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise IntegrityError(f"{key}: {str(shape)[:60]} is not a shape")
    size = math.prod(shape)
    if mask.dtype != torch.uint8 or mask.dim() != 1 or mask.numel() != (size + 7) // 8:
        raise IntegrityError(
            f"{key}: its mask does not have the bytes of {str(shape)[:60]}, one bit for each weight"
        )
    return size


def _expand(key: str, shape: list[int], size: int, mask: Tensor, values: Tensor) -> Tensor:
    bits = np.unpackbits(mask.numpy(), bitorder="little")
    if bits[size:].any():
        raise IntegrityError(f"{key}: the padding bits of its mask are not zero")
    nonzero = torch.from_numpy(bits[:size].view(np.bool_))
    count = int(nonzero.sum())
    if values.dim() != 1 or values.numel() != count:
        raise IntegrityError(f"{key}: {values.numel()} values for {count} bits set in its mask")
    flat = torch.zeros(size, dtype=values.dtype)
    flat[nonzero] = values
    return flat.reshape(shape)
