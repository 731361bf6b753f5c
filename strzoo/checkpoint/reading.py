"""Read a checkpoint file of any known format into a `Checkpoint`, strictly and safely.

Pickles are read by an interpreter that runs nothing (`pickles`): what they hold beside tensors and
plain values is skipped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.arguments import checked
from strzoo.borders import reading
from strzoo.checkpoint.cleaning import clean_state, finish_state
from strzoo.checkpoint.raw import READERS, Raw, only_tensors, read_raw, sniff
from strzoo.checkpoint.rebuilding import StandIn
from strzoo.checkpoint.recognise import (
    THRESHOLD,
    UnknownKeysError,
    check_state,
    declare,
    fit_classes,
    infer_spec,
    is_name_of,
    stated_spec,
)
from strzoo.checkpoint.record import Checkpoint, TrainedOn, recall_data
from strzoo.checkpoint.stored import Budget, Stored
from strzoo.checkpoint.structure import check_structure, guess_source, stated_source
from strzoo.errors import IntegrityError, UsageError
from strzoo.files import run_checkpoint
from strzoo.models.registry import known_architectures, list_architectures
from strzoo.settings import Limits
from strzoo.sparse.blocks import check_block
from strzoo.sparse.selection import str_layers
from strzoo.sparse.unwrap import plain_network
from strzoo.strict_json import build_record, convert

log = logging.getLogger(__name__)


@checked
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
        path: the file, or the folder of a training run, whose best checkpoint is read.
        architecture: expected architecture; by default whatever the file holds. A network from
            elsewhere ("timm:NAME", "torchvision:NAME", "package.module:function") has to be named
            where the file does not say it, and where it is code, which is then run.
        entry: name of the entry to take where several hold weights; by default the weights as
            trained, and an average of them only if there are no others.
        limits: what the file may take; by default those of the environment.

    Returns:
        The checked weights with plain keys in our layout, and what was stored beside them. They do
        not depend on the file any more.

    Raises:
        StrzooError: the file is missing or unreadable.
        UsageError: there is no such entry.
        IntegrityError: it is empty, a web page, damaged, calls a function that does harm, belongs
            to another architecture, has missing, unexpected or misshapen entries, or a value is
            not finite. The message names the first offender.
    """
    made = map_checkpoint(path, architecture=architecture, entry=entry, limits=limits)
    return replace(made, state_dict=_copy(made.state_dict))


def map_checkpoint(
    path: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    entry: str | None = None,
    limits: Limits | None = None,
) -> Checkpoint:
    """As `read_checkpoint`, but the tensors lie in the file as long as they live.

    For what copies the numbers itself or is done with them at once. They are not for users: a file
    that is written over changes them, and one that is cut ends the process.
    """
    path = run_checkpoint(path)
    limits = limits or Limits.from_env()
    # Also where networks are built without memory, on the device "meta".
    with reading(path, "a checkpoint", hint="fetch it again"), torch.device("cpu"):
        raw = read_raw(path, entry, limits)
        try:
            made = _build(raw, path, architecture, limits)
        except IntegrityError as error:
            raise IntegrityError(f"{path}: {error}{raw.advice}") from error
    for note in made.notes:
        log.info("%s: %s", path, note)
    return made


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict of a file as it is, keys and layout untouched. Errors as `read_checkpoint`."""
    path = run_checkpoint(path)
    with reading(path, "a checkpoint", hint="fetch it again"):
        return _copy(read_raw(path, None, Limits.from_env()).state)


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in memory of their own, not in that of the file."""
    return {key: value.clone() for key, value in state.items()}


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All that a `.pth` file holds, beside the state dict too: tensors and plain values.

    Raises:
        StrzooError: the file is missing or unreadable.
        IntegrityError: it is damaged, no `.pth` file, or holds more than tensors and plain values.
    """
    path = Path(path)
    with reading(path, "a checkpoint", hint="fetch it again"):
        limits = Limits.from_env()
        kind = sniff(path)
        document = None if kind == "safetensors" else READERS[kind](path, limits)
        if document is None or not isinstance(document.value, dict):
            raise IntegrityError(f"{path} is not a checkpoint in the published form (.pth)")
        budget = Budget(document.size)
        try:
            found: dict[str, Any] = _restore_all(document.value, budget, limits.nesting, {})
        except IntegrityError as error:
            raise IntegrityError(f"{path}: {error}") from error
        return found


@checked
def build_checkpoint(
    source: nn.Module | Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    path: Path | None = None,
    architecture: str | None = None,
    trained_on: TrainedOn | None = None,
) -> Checkpoint:
    """A checked `Checkpoint` from a network of this zoo, or from a raw state dict.

    Args:
        source: a network made by `create_model` or by timm (sparse layers included), wrapped,
            compiled or pruned by torch.nn.utils as it may be, or its state dict.
        metadata: plain values to keep beside the weights, such as `epoch` or `best_acc1`.
        path: the file the weights came from, for messages.
        architecture: expected architecture; by default whatever the weights are. A network of your
            own needs its "package.module:function", by which its checkpoint is built again.
        trained_on: the data; by default what `metadata["strzoo"]` says, or a network's checkpoint
            did.

    Returns:
        The weights with plain keys in our layout, complete and finite.

    Raises:
        IntegrityError: as `read_checkpoint`.
        UsageError: an STR layer has another threshold than sigmoid(s), which the published form
            cannot say.
    """
    metadata = dict(metadata or {})
    if not isinstance(source, nn.Module):
        raw = only_tensors(source, metadata)
        return _build(raw, path, architecture, Limits.from_env(), trained_on)
    network = plain_network(source)
    _check_thresholds(network)
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    metadata.setdefault("strzoo", declare(network))
    trained_on = trained_on or recall_data(network)
    known = stated_source(network)
    named = architecture or (known and known.architecture) or guess_source(network)
    try:
        made = _build(only_tensors(state, metadata), path, named, Limits.from_env(), trained_on)
    except UnknownKeysError as error:
        raise IntegrityError(
            f"{error}; a {type(network).__name__} of your own is kept with "
            "architecture='package.module:function', which builds it again"
        ) from error
    if made.spec.record.any_options and not known:
        check_structure(network, made.spec)
    return made


def _build(
    raw: Raw,
    path: Path | None,
    architecture: str | None,
    limits: Limits,
    trained_on: TrainedOn | None = None,
) -> Checkpoint:
    metadata = dict(raw.metadata)
    own, arch = metadata.pop("strzoo", None), metadata.get("arch")
    stated = stated_spec(own, architecture)
    cleaned = clean_state(raw.state, limits, published=raw.published, spec=stated)
    if stated is not None:
        spec = stated if stated.num_classes else fit_classes(cleaned.state, stated)
    else:
        options = {**cleaned.options, **(own if isinstance(own, Mapping) else {})}
        spec = infer_spec(cleaned.state, options, arch)
    notes = [*raw.notes, *cleaned.notes]
    if not is_name_of(arch, spec.record) and arch is not None and stated is None:
        if any(is_name_of(arch, record) for record in known_architectures().values()):
            raise _other_architecture(spec.architecture, "its arch field", arch)
        notes.append(f"its arch field says {str(arch)[:60]!r}; recognised by its keys")
    if architecture is not None and not is_name_of(architecture, spec.record):
        raise _other_architecture(spec.architecture, "the request", architecture)
    state, finished = finish_state(cleaned, spec)
    check_state(state, spec, _declared_dense(own))
    format = "str" if any(key.endswith(THRESHOLD) for key in state) else "dense"
    trained_on = trained_on or _read_trained_on(own, spec.num_classes)
    return Checkpoint(
        spec, format, state, metadata, path, trained_on, (*notes, *finished), _declared_block(own)
    )


def _declared_dense(own: Any) -> tuple[str, ...]:
    """The layers without a threshold that the `strzoo` entry of a file names."""
    names = own.get("dense_layers", []) if isinstance(own, Mapping) else []
    found: tuple[str, ...] = convert(tuple[str, ...], names, "strzoo.dense_layers")
    return found


def _declared_block(own: Any) -> int:
    """The input channels whose weights become zero together, by the `strzoo` entry of a file."""
    try:
        return check_block(own.get("block", 1) if isinstance(own, Mapping) else 1)
    except UsageError as error:
        raise IntegrityError(f"strzoo.block: {error}") from None


def _read_trained_on(own: Any, num_classes: int) -> TrainedOn | None:
    if not isinstance(own, Mapping) or own.get("trained_on") is None:
        return None
    found = build_record(TrainedOn, own["trained_on"], "strzoo.trained_on")
    if found.class_names and len(found.class_names) != num_classes:
        raise IntegrityError(
            f"strzoo.trained_on names {len(found.class_names)} classes, the network has "
            f"{num_classes} outputs"
        )
    return found


def _check_thresholds(model: nn.Module) -> None:
    for name, layer in str_layers(model).items():
        if layer.g is not torch.sigmoid:
            raise UsageError(
                f"{name} has a threshold other than sigmoid(s), the only one that a checkpoint can "
                "hold; call strzoo.to_dense_ and keep the sparse weights"
            )
    blocks = sorted({layer.block for layer in str_layers(model).values()})
    if len(blocks) > 1:
        raise UsageError(
            f"the layers have blocks of {' and '.join(map(str, blocks))} input channels, a "
            "checkpoint holds one size; call strzoo.to_dense_ and keep the sparse weights"
        )


def _other_architecture(found: str, where: str, said: Any) -> IntegrityError:
    return IntegrityError(
        f"the weights are a {found}'s, but {where} says {said!r}; known architectures are "
        f"{', '.join(list_architectures())}"
    )


def _restore_all(value: Any, budget: Budget, depth: int, done: dict[int, Any]) -> Any:
    """`value` with torch's tensors in place of their descriptions, in memory of their own."""
    if id(value) in done:
        return done[id(value)]
    if depth < 0:
        raise IntegrityError("it holds values nested too deeply")
    made: Any = value
    if isinstance(value, Stored):
        made = budget.restore("a tensor", value).clone()
    elif isinstance(value, StandIn):
        raise IntegrityError(
            f"it holds a {value.kind[:80]}, where only tensors and plain values can be"
        )
    elif isinstance(value, dict):
        made = {k: _restore_all(v, budget, depth - 1, done) for k, v in value.items()}
    elif isinstance(value, list | tuple):
        made = type(value)(_restore_all(v, budget, depth - 1, done) for v in value)
    done[id(value)] = made
    return made
