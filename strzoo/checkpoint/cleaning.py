"""From the tensors of a file to the state dict of a network of the zoo: dense, fp32, plain keys."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from strzoo.checkpoint.layouts import fit_head, from_layout
from strzoo.checkpoint.masks import multiply_masks
from strzoo.checkpoint.parametrised import fold_parts
from strzoo.checkpoint.prefixes import Stripped, strip_prefixes
from strzoo.checkpoint.recognise import drop_thresholded_copies, is_known, is_mostly
from strzoo.checkpoint.stored import densify
from strzoo.models.spec import ModelSpec
from strzoo.settings import Limits

# float8 and the like are not among them: they need a scale that is kept elsewhere.
_CONVERTED = (torch.float64, torch.float16, torch.bfloat16)
_COUNTER = ".num_batches_tracked"  # of BatchNorm; files of torch before 0.4.1 have none
_PUBLISHED = "module."
_MATRICES = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


@dataclass(frozen=True)
class Cleaned:
    """A state dict in our key layout.

    Args:
        state: dense and fp32.
        notes: what was done to it.
        options: of the network, as far as the layout of the keys tells them.
        as_matrices: whether weights were stored as matrices of one row per filter.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    as_matrices: bool = False


def clean_state(
    state: Mapping[str, Tensor],
    limits: Limits,
    *,
    published: bool = False,
    spec: ModelSpec | None = None,
) -> Cleaned:
    """`state` in the form that the networks of the zoo load, as far as it can be told without
    knowing which one it is.

    Args:
        state: tensors by the keys of a file.
        limits: how large sparse tensors may be when dense.
        published: the file has the published form, whose prefix is not worth a note.
        spec: the network from elsewhere that it is known to be of, whose keys stay as they are.

    Raises:
        IntegrityError: a sparse tensor is above a limit.
    """
    as_matrices = any(value.layout in _MATRICES for value in state.values())
    dense, notes = _densify(state, limits)
    folded, done = fold_parts(dense)

    def fits(keys: Mapping[str, Tensor]) -> bool:
        return is_known(from_layout(keys)[0]) if spec is None else is_mostly(keys, spec)

    if spec is not None and published and all(key.startswith(_PUBLISHED) for key in folded):
        # Its own keys may begin like a wrapper's: one prefix goes.
        plain = {key.removeprefix(_PUBLISHED): value for key, value in folded.items()}
        stripped = Stripped(plain, (_PUBLISHED,)) if fits(plain) else strip_prefixes(folded, fits)
    else:
        stripped = strip_prefixes(folded, fits)
    if not (published and stripped.prefixes == (_PUBLISHED,)):
        notes += stripped.notes
    single, converted = _to_single(drop_thresholded_copies(stripped.state))
    ours, layout = from_layout(single) if spec is None else (single, None)
    options = layout.options if layout is not None else {}
    notes += [*done, *converted]
    notes += [f"{layout.library}'s network: {k}={v}" for k, v in options.items() if layout and v]
    return Cleaned(ours, tuple(notes), options, as_matrices)


def finish_state(cleaned: Cleaned, spec: ModelSpec) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of the network `spec`, and notes: classifier and matrices in its shapes,
    masks of pruning multiplied in, the counters that old files lack."""
    shapes, missing = spec.shapes(), 0
    masked, notes = multiply_masks(cleaned.state, shapes)
    state = fit_head(masked, spec)
    for key, shape in shapes.items():
        value = state.get(key)
        if key.endswith(_COUNTER):
            missing += value is None
            if value is None or value.numel() == 1:  # averages of networks have them as floats
                state[key] = torch.zeros((), dtype=torch.int64) if value is None else _whole(value)
        elif (
            cleaned.as_matrices
            and value is not None
            and value.shape[:1] == shape[:1]
            and value.numel() == math.prod(shape)
        ):
            state[key] = value.reshape(shape)
    if missing:
        notes.append(f"{missing} layers without num_batches_tracked: 0")
    return state, notes


def _densify(state: Mapping[str, Tensor], limits: Limits) -> tuple[dict[str, Tensor], list[str]]:
    sparse = sum(value.layout != torch.strided for value in state.values())
    left = limits.bytes
    dense: dict[str, Tensor] = {}
    for key, value in state.items():
        dense[key] = densify(value, key, limits)
        if sparse and dense[key] is not value:
            left -= dense[key].nbytes
            limits.check("bytes", limits.bytes - left, "the sparse tensors, when dense,")
    return dense, [f"{sparse} sparse tensors written out"] if sparse else []


def _to_single(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    counts = Counter(value.dtype for value in state.values() if value.dtype in _CONVERTED)
    made = {key: v.float() if v.dtype in _CONVERTED else v for key, v in state.items()}
    names = (f"{n} tensors from {str(t).removeprefix('torch.')}" for t, n in counts.items())
    return made, [f"{text} to float32" for text in names]


def _whole(value: Tensor) -> Tensor:
    return value.reshape(()).long()
