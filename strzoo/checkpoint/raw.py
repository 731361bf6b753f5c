"""What a file holds before it is understood: tensors by its own keys, and values beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from strzoo.borders import open_file
from strzoo.checkpoint.containers import Document, read_pickles, read_tar, read_zip
from strzoo.checkpoint.envelopes import AVERAGED, Weights, find_weights, spell_path
from strzoo.checkpoint.masks import join_masks
from strzoo.checkpoint.parts import list_parts
from strzoo.checkpoint.safetensors_files import read_safetensors
from strzoo.checkpoint.stored import Budget, QuantisedError, Stored
from strzoo.errors import IntegrityError, UsageError
from strzoo.files import INDEX_SUFFIX, refuse_foreign
from strzoo.settings import Limits

_SCRIPT_ADVICE = (
    "; it is a TorchScript file (a frozen one has no weights by name): save the state_dict() of "
    "the network that it was made from"
)


@dataclass(frozen=True)
class Raw:
    """Tensors by the keys of a file, the values beside them, and what was done to get them.

    `advice` ends the message of an error; `published` says that the file has the published form.
    """

    state: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    advice: str = ""
    published: bool = False


def sniff(path: Path) -> str:
    """The kind of a file from its first bytes: "zip", "pickle", "tar", "safetensors" or "index"."""
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(512)
    if size == 0:
        raise IntegrityError(f"{path} is empty; fetch it again")
    # First, as the length of its header may begin like a pickle.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if path.name.endswith(INDEX_SUFFIX) and head.lstrip().startswith(b"{"):
        return "index"
    if head.startswith(b"\x80") and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    refuse_foreign(path, "a checkpoint")
    if head[257:262] == b"ustar":
        return "tar"
    raise IntegrityError(
        f"{path} is not a checkpoint: it starts with {head[:8]!r}; expected a torch .pth "
        "(zip, pickle or tar) or a safetensors file"
    )


READERS = {"zip": read_zip, "pickle": read_pickles, "tar": read_tar}


def read_raw(path: Path, entry: str | None, limits: Limits) -> Raw:
    """The state dict in a file, or in its entry of that name, and what is beside it.

    Raises:
        UsageError: there is no such entry.
        IntegrityError: it holds no state dict, or claims more than it holds.
        Exception: of any kind, if it is damaged; the caller has the border.
    """
    kind = sniff(path)
    if kind == "safetensors":
        state, metadata = read_safetensors(path, limits)
        if entry is not None:
            raise UsageError(f"{path} has no entries: leave out {entry!r}")
        return only_tensors(state, metadata)
    if kind == "index":
        return _read_parts(path, limits)
    try:
        document = READERS[kind](path, limits)
    except QuantisedError as error:
        raise IntegrityError(f"{path}: {error}") from error
    advice = _SCRIPT_ADVICE if document.is_script else ""
    try:
        weights = find_weights(document.value, entry)
        own = _own_metadata(weights.attributes)
        metadata, budget = {**own, **weights.metadata}, Budget(document.size)
        raw = only_tensors(weights.state, metadata, budget)
        masks, notes = join_masks(
            _restore_masks(weights.masks, budget), weights.odd_masks, raw.state
        )
        raw = replace(raw, state={**masks, **raw.state}, notes=(*raw.notes, *notes))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}{advice}") from error
    return _describe(document, weights, replace(raw, advice=advice))


def _restore_masks(
    entries: Mapping[str, Mapping[str, Any]], budget: Budget
) -> dict[str, dict[str, Tensor]]:
    done: dict[int, Tensor] = {}  # entries may share their tensors

    def restore(key: str, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value
        if id(value) not in done:
            done[id(value)] = budget.restore(key, value)
        return done[id(value)]

    return {
        name: {key: restore(key, value) for key, value in masks.items()}
        for name, masks in entries.items()
    }


def _read_parts(path: Path, limits: Limits) -> Raw:
    """The state dict that an index divides among files beside it, as Hugging Face's libraries do.

    Raises:
        IntegrityError: it names files outside its folder, or tensors that they do not hold.
    """
    places, files = list_parts(path)
    state: dict[str, Tensor] = {}
    total = 0
    for part in files:
        total += part.stat().st_size
        limits.check("bytes", total, f"{path}, with the files beside it,")
        if sniff(part) == "index":
            raise IntegrityError(f"{path}: {part.name[:80]!r} is an index, too")
        state.update(read_raw(part, None, limits).state)
    if lost := [key for key in places if key not in state]:
        raise IntegrityError(f"{path}: {places[lost[0]]} does not hold {lost[0][:80]!r}")
    return Raw(state, {}, (f"weights from {len(files)} files",))


def _own_metadata(attributes: Any) -> dict[str, Any]:
    """What we note in the `_metadata` of a state dict in another library's layout."""
    found = attributes.get("_metadata") if isinstance(attributes, dict) else None
    root = found.get("") if isinstance(found, Mapping) else None
    own = root.get("strzoo") if isinstance(root, Mapping) else None
    return {"strzoo": own} if isinstance(own, dict) else {}


def _describe(document: Document, weights: Weights, raw: Raw) -> Raw:
    """`raw` with notes on where the weights were. The published form needs none."""
    notes = []
    published = weights.path == ("state_dict",) and "arch" in weights.metadata
    if weights.path and not published:
        average = ", an average" if set(weights.path) & set(AVERAGED) else ""
        notes.append(f"weights from entry {spell_path(weights.path)}{average}")
    if weights.others:
        others = ", ".join(map(repr, weights.others))
        notes.append(
            f"entry {others} holds weights too and was not taken; convert --entry takes it"
        )
    if document.is_script:
        notes.append("weights of a TorchScript file; its code was left out")
    elif weights.network:
        notes.append(f"weights of a whole network, {weights.network[:80]}; its code was left out")
    return replace(raw, notes=(*notes, *raw.notes), published=published)


def only_tensors(
    state: Mapping[Any, Any], metadata: Mapping[str, Any], budget: Budget | None = None
) -> Raw:
    """The tensors of a state dict; values that are none are left out, and noted."""
    if not state:
        raise IntegrityError("the state dict is empty")
    found: dict[str, Tensor] = {}
    odd = []
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            found[key] = value
        elif isinstance(key, str) and isinstance(value, Stored) and budget is not None:
            found[key] = budget.restore(key, value)
        elif key not in metadata:
            odd.append((str(key)[:60], getattr(value, "kind", type(value).__name__)))
    if not found:
        key, kind = odd[0] if odd else ("its first", "plain value")
        raise IntegrityError(f"entry {key!r} is a {kind}, not a tensor, and no other is one")
    more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
    notes = (f"left out {odd[0][0]!r} ({odd[0][1]}){more}: no tensor",) if odd else ()
    return Raw(found, metadata, notes)
