"""Read a checkpoint file of any known format into a `Checkpoint`, strictly and safely.

Pickles are read by an interpreter that runs nothing (`pickles`): what they hold beside tensors and
plain values is skipped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from strzoo.borders import open_file, reading
from strzoo.checkpoint.cleaning import clean_state, finish_state
from strzoo.checkpoint.containers import Document, read_pickles, read_tar, read_zip
from strzoo.checkpoint.envelopes import AVERAGED, Weights, find_weights
from strzoo.checkpoint.rebuilding import StandIn
from strzoo.checkpoint.recognise import (
    THRESHOLD,
    check_state,
    declare,
    infer_spec,
    is_name_of,
)
from strzoo.checkpoint.record import Checkpoint
from strzoo.checkpoint.safetensors_files import read_safetensors
from strzoo.checkpoint.stored import Budget, Stored
from strzoo.errors import IntegrityError, UsageError
from strzoo.files import refuse_foreign
from strzoo.models.registry import known_architectures, list_architectures
from strzoo.settings import Limits
from strzoo.sparse.unwrap import plain_network

log = logging.getLogger(__name__)


def read_checkpoint(
    path: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    entry: str | None = None,
    limits: Limits | None = None,
) -> Checkpoint:
    """Read a checkpoint: a file of torch's of any year (zip, pickle or tar), or safetensors.

    Understood are the published form; a bare state dict; the mappings in which training code
    wraps one (`model`, `state_dict_ema`, ..., see `envelopes`); a network that was saved whole,
    by TorchScript too; the prefixes of wrappers and frameworks; our key layout, torchvision's and
    timm's; pruning masks, weight and spectral norms, sparse and half or double precision tensors;
    and the double-size STR files (the thresholded copies are dropped). `Checkpoint.notes` says
    what was done. What is beside the weights (optimizer, arguments) is skipped, never executed.

    Args:
        path: the file.
        architecture: expected architecture; by default whatever the file holds.
        entry: name of the entry to take where several hold weights; by default the weights as
            trained, and an average of them only if there are no others.
        limits: what the file may take; by default those of the environment.

    Raises:
        StrzooError: the file is missing or unreadable.
        UsageError: there is no such entry.
        IntegrityError: it is empty, a web page, damaged, calls a function that does harm, belongs
            to another architecture, has missing, unexpected or misshapen entries, or a value is
            not finite. The message names the first offender.
    """
    path = Path(path)
    with reading(path, "a checkpoint", hint="fetch it again"):
        raw = _read_raw(path, entry, limits or Limits.from_env())
        try:
            made = _build(raw, path, architecture, limits or Limits.from_env())
        except IntegrityError as error:
            raise IntegrityError(f"{path}: {error}{raw.advice}") from error
    for note in made.notes:
        log.info("%s: %s", path, note)
    return made


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict of a file as it is, keys and layout untouched. Errors as `read_checkpoint`."""
    path = Path(path)
    with reading(path, "a checkpoint", hint="fetch it again"):
        return dict(_read_raw(path, None, Limits.from_env()).state)


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All that a `.pth` file holds, beside the state dict too: tensors and plain values.

    Raises:
        StrzooError: the file is missing or unreadable.
        IntegrityError: it is damaged, no `.pth` file, or holds more than tensors and plain values.
    """
    path = Path(path)
    with reading(path, "a checkpoint", hint="fetch it again"):
        limits = Limits.from_env()
        kind = _sniff(path)
        document = None if kind == "safetensors" else _READERS[kind](path, limits)
        if document is None or not isinstance(document.value, dict):
            raise IntegrityError(f"{path} is not a checkpoint in the published form (.pth)")
        budget = Budget(os.fspath(path), document.size)
        found: dict[str, Any] = _restore_all(document.value, budget, limits.nesting, {})
        return found


def build_checkpoint(
    source: nn.Module | Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    path: Path | None = None,
    architecture: str | None = None,
) -> Checkpoint:
    """A checked `Checkpoint` from a network of this zoo, or from a raw state dict.

    Args:
        source: a network made by `create_model` (sparse layers included), wrapped, compiled or
            pruned by torch.nn.utils as it may be, or its state dict.
        metadata: plain values to keep beside the weights, such as `epoch` or `best_acc1`.

    Raises:
        IntegrityError: as `read_checkpoint`.
    """
    metadata = dict(metadata or {})
    state: Mapping[str, Any] = {}
    if isinstance(source, nn.Module):
        network = plain_network(source)
        state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
        metadata.setdefault("strzoo", declare(network))
    else:
        state = source
    return _build(_only_tensors(state, metadata), path, architecture, Limits.from_env())


@dataclass(frozen=True)
class _Raw:
    """Tensors by the keys of a file, the values beside them, and what was done to get them.

    `advice` ends the message of an error; `published` says that the file has the published form.
    """

    state: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    advice: str = ""
    published: bool = False


def _build(raw: _Raw, path: Path | None, architecture: str | None, limits: Limits) -> Checkpoint:
    metadata = dict(raw.metadata)
    own, arch = metadata.pop("strzoo", None), metadata.get("arch")
    cleaned = clean_state(raw.state, limits, published=raw.published)
    options = {**cleaned.options, **(own if isinstance(own, Mapping) else {})}
    spec = infer_spec(cleaned.state, options, arch)
    notes = [*raw.notes, *cleaned.notes]
    if not is_name_of(arch, spec.record) and arch is not None:
        if any(is_name_of(arch, record) for record in known_architectures().values()):
            raise _other_architecture(spec.architecture, "its arch field", arch)
        notes.append(f"its arch field says {str(arch)[:60]!r}; recognised by its keys")
    if architecture is not None and not is_name_of(architecture, spec.record):
        raise _other_architecture(spec.architecture, "the request", architecture)
    state, finished = finish_state(cleaned, spec)
    check_state(state, spec)
    format = "str" if any(key.endswith(THRESHOLD) for key in state) else "dense"
    return Checkpoint(spec, format, state, metadata, path, notes=(*notes, *finished))


def _other_architecture(found: str, where: str, said: Any) -> IntegrityError:
    return IntegrityError(
        f"the weights are a {found}'s, but {where} says {said!r}; known architectures are "
        f"{', '.join(list_architectures())}"
    )


def _sniff(path: Path) -> str:
    """ "zip", "pickle", "tar" or "safetensors", from the first bytes."""
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(512)
    if size == 0:
        raise IntegrityError(f"{path} is empty; fetch it again")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80") and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    refuse_foreign(path, "a checkpoint")
    if head[257:262] == b"ustar":
        return "tar"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    raise IntegrityError(
        f"{path} is not a checkpoint: it starts with {head[:8]!r}; expected a torch .pth "
        "(zip, pickle or tar) or a safetensors file"
    )


_READERS = {"zip": read_zip, "pickle": read_pickles, "tar": read_tar}


def _read_raw(path: Path, entry: str | None, limits: Limits) -> _Raw:
    kind = _sniff(path)
    if kind == "safetensors":
        state, metadata = read_safetensors(path, limits)
        if entry is not None:
            raise UsageError(f"{path} has no entries: leave out {entry!r}")
        return _only_tensors(state, metadata)
    document = _READERS[kind](path, limits)
    try:
        weights = find_weights(document.value, entry)
        own = _own_metadata(weights.attributes)
        metadata = {**own, **weights.metadata}
        raw = _only_tensors(weights.state, metadata, Budget(os.fspath(path), document.size))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from error
    return _describe(document, weights, raw)


def _own_metadata(attributes: Any) -> dict[str, Any]:
    """What we note in the `_metadata` of a state dict in another library's layout."""
    found = attributes.get("_metadata") if isinstance(attributes, dict) else None
    root = found.get("") if isinstance(found, Mapping) else None
    own = root.get("strzoo") if isinstance(root, Mapping) else None
    return {"strzoo": own} if isinstance(own, dict) else {}


def _describe(document: Document, weights: Weights, raw: _Raw) -> _Raw:
    """`raw` with notes on where the weights were. The published form needs none."""
    notes, advice = [], ""
    published = weights.path == ("state_dict",) and "arch" in weights.metadata
    if weights.path and not published:
        shown = " > ".join(repr(name[:40]) for name in weights.path)
        average = ", an average" if set(weights.path) & set(AVERAGED) else ""
        notes.append(f"weights from entry {shown}{average}")
    if weights.others:
        others = ", ".join(map(repr, weights.others))
        notes.append(
            f"entry {others} holds weights too and was not taken; convert --entry takes it"
        )
    if document.is_script:
        notes.append("weights of a TorchScript file; its code was left out")
        advice = "; it is a TorchScript file: load it with torch and save its state_dict()"
    elif weights.network:
        notes.append(f"weights of a whole network, {weights.network[:80]}; its code was left out")
    return _Raw(raw.state, raw.metadata, (*notes, *raw.notes), advice, published)


def _only_tensors(
    state: Mapping[Any, Any], metadata: Mapping[str, Any], budget: Budget | None = None
) -> _Raw:
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
    return _Raw(found, metadata, notes)


def _restore_all(value: Any, budget: Budget, depth: int, done: dict[int, Any]) -> Any:
    """`value` with torch's tensors in place of their descriptions."""
    if id(value) in done:
        return done[id(value)]
    if depth < 0:
        raise IntegrityError(f"{budget.name} holds values nested too deeply")
    made: Any = value
    if isinstance(value, Stored):
        made = budget.restore("a tensor", value)
    elif isinstance(value, StandIn):
        raise IntegrityError(
            f"{budget.name} holds a {value.kind}, where only tensors and plain values can be"
        )
    elif isinstance(value, dict):
        made = {k: _restore_all(v, budget, depth - 1, done) for k, v in value.items()}
    elif isinstance(value, list | tuple):
        made = type(value)(_restore_all(v, budget, depth - 1, done) for v in value)
    done[id(value)] = made
    return made
