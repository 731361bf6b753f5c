"""The compact sparse file: per tensor a bitmask and the nonzero values, inside safetensors.

`docs/compact-format.md` documents the bytes. The code is lossless, bit for bit, signed zeros
and NaN payloads included: a value is left out only if all its bits are zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from strzoo.errors import IntegrityError

FORMAT = "strzoo-compact"
VERSION = "1"
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


def decode(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, Tensor]:
    """The state dict that `encode` was given.

    Raises:
        IntegrityError: the version is unknown, or masks, values and shapes disagree.
    """
    if header.get("version") != VERSION:
        raise IntegrityError(
            f"compact version {header.get('version')!r} is not supported; "
            f"this strzoo reads {VERSION}"
        )
    shapes = json.loads(header.get("shapes", "null"))
    if not isinstance(shapes, dict):
        raise IntegrityError("the compact header has no shapes")
    rest = dict(tensors)
    state: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        mask, values = rest.pop(key + _MASK, None), rest.pop(key + _VALUES, None)
        if mask is None or values is None:
            raise IntegrityError(f"{key}: its mask or its values are missing")
        state[key] = _expand(key, shape, mask, values)
    for key, value in rest.items():
        if key in state:
            raise IntegrityError(f"{key} is stored twice, plain and compact")
        state[key] = value
    return state


def _expand(key: str, shape: object, mask: Tensor, values: Tensor) -> Tensor:
    if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)):
        raise IntegrityError(f"{key}: {shape!r} is not a shape")
    size = int(np.prod(shape, dtype=object)) if shape else 1
    if mask.dtype != torch.uint8 or mask.dim() != 1 or mask.numel() != (size + 7) // 8:
        raise IntegrityError(
            f"{key}: its mask does not have the {(size + 7) // 8} bytes of {shape}"
        )
    bits = np.unpackbits(mask.numpy(), bitorder="little")
    if bits[size:].any():
        raise IntegrityError(f"{key}: the padding bits of its mask are not zero")
    nonzero = torch.from_numpy(bits[:size]).bool()
    count = int(nonzero.sum())
    if values.dim() != 1 or values.numel() != count:
        raise IntegrityError(f"{key}: {values.numel()} values for {count} bits set in its mask")
    flat = torch.zeros(size, dtype=values.dtype)
    flat[nonzero] = values
    return flat.reshape(shape)
