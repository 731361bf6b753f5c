"""Read safetensors files: our own, plain or compact, and those of other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from strzoo.borders import reading, utf8_path
from strzoo.checkpoint import compact
from strzoo.errors import IntegrityError, required
from strzoo.settings import Limits


def read_safetensors(path: Path, limits: Limits) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file; what other libraries wrote in its header is
    left alone.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is damaged, or claims more than it holds.
    """
    with required("safetensors", f"reading {path}"):
        from safetensors import safe_open

    with reading(path, "a safetensors file", hint="fetch it again") as place:
        with utf8_path(path) as name, safe_open(name, framework="pt") as stream:
            header = stream.metadata() or {}
            state = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        place.at = "its header"
        metadata: dict[str, Any] = {}
        if "strzoo" in header:
            metadata = _parse(header.get("metadata", "{}"), limits)
            metadata["strzoo"] = _parse(header["strzoo"], limits)
        if header.get("format") == compact.FORMAT:
            try:
                state = compact.decode(state, header, limits)
            except IntegrityError as error:
                raise IntegrityError(f"{path}: {error}") from error
    return state, metadata


def _parse(text: str, limits: Limits) -> dict[str, Any]:
    limits.check("text", len(text), "the header of a safetensors file")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"its metadata is a {type(found).__name__}, not an object")
    return found
