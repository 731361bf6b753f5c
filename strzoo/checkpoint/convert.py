"""STR to dense, and the check that a converted file computes what its source computes."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.arguments import checked
from strzoo.checkpoint.layouts import check_layout
from strzoo.checkpoint.reading import map_checkpoint, read_tensors
from strzoo.checkpoint.recognise import THRESHOLD
from strzoo.checkpoint.record import Checkpoint
from strzoo.errors import UsageError, VerificationError
from strzoo.models.external_names import is_external
from strzoo.sparse.blocks import sparse_weight

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote. `sparsity` in percent, `bytes` on disk; `notes` as `Checkpoint.notes`
    of the source."""

    path: Path
    architecture: str
    source_format: str
    format: str
    layout: str
    compact: bool
    half: bool
    sparsity: float
    bytes: int
    source_bytes: int
    verified: bool
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self), "path": str(self.path), "notes": list(self.notes)}


@checked
def to_dense(checkpoint: Checkpoint) -> Checkpoint:
    """The same network with plain convolutions: each weight is the effective weight.

    Exact: the network computes the same logits bit for bit. A dense checkpoint is returned
    as it is.

    Args:
        checkpoint: in either format.

    Returns:
        A dense checkpoint without metadata, as published converted files are.
    """
    if checkpoint.format == "dense":
        return checkpoint
    state: dict[str, Tensor] = {}
    for key, value in checkpoint.state_dict.items():
        if key.endswith(THRESHOLD):
            continue
        threshold = checkpoint.state_dict.get(key.removesuffix(".weight") + THRESHOLD)
        if threshold is not None:
            value = sparse_weight(value, threshold.sigmoid(), checkpoint.block)
        state[key] = value
    # As in published converted files: epoch, arch and state_dict are all that is kept.
    return Checkpoint(
        checkpoint.spec,
        "dense",
        state,
        {"epoch": 0},
        checkpoint.path,
        checkpoint.trained_on,
        checkpoint.notes,
        checkpoint.block,
    )


def verify_conversion(
    source: Checkpoint, path: Path, *, layout: str = "strzoo", half: bool = False
) -> float:
    """Largest difference of the logits of `source` and of the network that `path` loads into.

    Both run one random image on the CPU; in another library's layout the network is that
    library's own.

    Raises:
        VerificationError: it exceeds 1e-5 of the largest logit (1e-2 for `half`).
    """
    # The code of a network from elsewhere was named, and run, to read the source.
    own = source.spec.architecture if is_external(source.spec.architecture) else None
    converted = map_checkpoint(path, architecture=own)
    other = converted.build_model() if layout == "strzoo" else _foreign(converted, path, layout)
    size = source.trained_on.input_size if source.trained_on else source.spec.input_size
    image = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = source.build_model()(image), other.eval()(image)
    difference = float((expected - found).abs().max())
    allowed = (1e-2 if half else 1e-5) * float(expected.abs().max())
    if difference > allowed:
        raise VerificationError(
            f"{path}: logits differ from the source's by {difference:.3g}, more than {allowed:.3g}"
        )
    log.info("%s: logits differ from the source's by at most %.3g", path, difference)
    return difference


def _foreign(checkpoint: Checkpoint, path: Path, layout: str) -> nn.Module:
    """The other library's own network with the weights of `path`, loaded strictly."""
    spec = checkpoint.spec
    foreign = check_layout(layout, spec.architecture, spec.options)
    assert foreign is not None
    has = {**spec.record.options, **foreign.options}
    given = {name: value for name, value in spec.options.items() if name != "head_bias"}
    if odd := [name for name, value in given.items() if value != has.get(name)]:
        raise UsageError(f"{foreign.creation} has no option {odd[0]!r}, which these weights need")
    model = foreign.create(spec.num_classes)
    model.load_state_dict(read_tensors(path), strict=True)
    return model.float()
