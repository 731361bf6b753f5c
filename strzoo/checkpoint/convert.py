"""STR to dense, and dense to the files and key layouts that other libraries load."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from strzoo.checkpoint.layouts import CREATION
from strzoo.checkpoint.reading import read_tensors
from strzoo.checkpoint.record import THRESHOLD
from strzoo.errors import StrzooError, UsageError, VerificationError
from strzoo.files import check_destination
from strzoo.sparse.layers import soft_threshold

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote. `sparsity` in percent, `bytes` on disk."""

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

    def to_dict(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self), "path": str(self.path)}


def to_dense(checkpoint: Checkpoint) -> Checkpoint:
    """The same network with plain convolutions: each weight is the effective weight.

    Exact: the network computes the same logits bit for bit. A dense checkpoint is returned
    as it is.
    """
    if checkpoint.format == "dense":
        return checkpoint
    state: dict[str, Tensor] = {}
    for key, value in checkpoint.state_dict.items():
        if key.endswith(THRESHOLD):
            continue
        threshold = checkpoint.state_dict.get(key.removesuffix(".weight") + THRESHOLD)
        state[key] = value if threshold is None else soft_threshold(value, threshold.sigmoid())
    # As in published converted files: epoch, arch and state_dict are all that is kept.
    return Checkpoint(checkpoint.spec, "dense", state, {"epoch": 0}, checkpoint.path)


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    format: str = "dense",
    layout: str = "strzoo",
    compact: bool = False,
    half: bool = False,
    verify: bool = False,
    force: bool = False,
) -> Conversion:
    """Convert a checkpoint file and write the result, whole or not at all.

    Args:
        source: a file that `read_checkpoint` reads.
        destination: ends in .pth, .pt or .safetensors.
        format: "dense", or "str" to rewrite an STR checkpoint without its optimizer state.
        layout, compact, half, force: as `save_checkpoint`.
        verify: read the result back, run both networks on one random image, and require equal
            logits (within fp16 rounding for `half`) before the file gets its final name. The timm
            layout needs timm installed for this.

    Raises:
        UsageError: the combination is not possible.
        StrzooError, IntegrityError: the source or the destination is refused.
        VerificationError: the logits differ.
    """
    if format not in ("dense", "str"):
        raise UsageError(f"format {format!r} is not one of dense, str")
    check_destination(destination, force=force)
    read = read_checkpoint(source)
    if format == "str" and read.format == "dense":
        raise UsageError(f"{source} is dense: its thresholds are gone, it cannot become STR")
    result = read if format == "str" else to_dense(read)
    if verify and layout == "timm":
        _import_timm()
    check = partial(verify_conversion, read, layout=layout, half=half) if verify else None
    path = save_checkpoint(
        result, destination, layout=layout, compact=compact, half=half, force=force, check=check
    )
    return Conversion(
        path=path,
        architecture=read.architecture,
        source_format=read.format,
        format=format,
        layout=layout,
        compact=compact,
        half=half,
        sparsity=result.sparsity(),
        bytes=path.stat().st_size,
        source_bytes=Path(source).stat().st_size,
        verified=verify,
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
    converted = read_checkpoint(path)
    other = converted.build_model() if layout == "strzoo" else _foreign(converted, path, layout)
    image = torch.randn(1, *source.spec.input_size, generator=torch.Generator().manual_seed(0))
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
    if spec.small_stem or spec.width != 1.0:
        raise UsageError(f"{CREATION[layout, spec.architecture]} has no small stem and no width")
    if layout == "torchvision":
        import torchvision

        model: nn.Module = torchvision.models.get_model(
            spec.architecture, num_classes=spec.num_classes
        )
    else:
        name = "mobilenetv1_100" if spec.architecture == "mobilenetv1" else spec.architecture
        options = {"act_layer": "relu"} if spec.architecture == "mobilenetv1" else {}
        model = _import_timm().create_model(name, num_classes=spec.num_classes, **options)
    model.load_state_dict(read_tensors(path), strict=True)
    return model.float()


def _import_timm() -> Any:
    try:
        import timm
    except ImportError:
        raise StrzooError(
            "verifying the timm layout needs timm: pip install timm, or leave out --verify"
        ) from None
    return timm
