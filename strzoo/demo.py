"""The tutorial: train a sparse network on real digits, and take it all the way to ONNX.

Every step is one call of the public API. `strzoo demo` runs it and prints what it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import strzoo
from strzoo.analysis.results import Report
from strzoo.errors import VerificationError
from strzoo.training.fit import EpochResult, FitConfig

DIGIT = (3, 8, 8)  # channels, height, width
SPARSITY_WANTED = 90.0  # percent
TOP1_ALLOWED_LOSS = 2.0  # percentage points

# The thresholds start near zero (sigmoid(-8) = 0.0003) and rise because they decay towards
# sigmoid(0) = 0.5; in the 30 epochs of the demo they need a stronger decay than the weights.
S_INIT = -8.0
CONFIG = FitConfig(epochs=30, weight_decay=5e-4, threshold_decay=8e-3)


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured, on 360 held-out digits; top-1 in percent. `files` were written."""

    dense_twin_top1: float
    str_top1: float
    dense_top1: float
    onnx_top1: float
    report: Report
    history: tuple[EpochResult, ...]
    files: tuple[Path, ...]

    @property
    def sparsity(self) -> float:
        return self.report.sparsity or 0.0


def run_demo(
    folder: Path,
    config: FitConfig = CONFIG,
    *,
    seed: int = 0,
    on_step: Callable[[str], None] = lambda text: None,
    on_epoch: Callable[[str, EpochResult], None] = lambda network, result: None,
) -> DemoResult:
    """Run the whole road in `folder` (made if missing; earlier demo files are overwritten).

    Args:
        folder: where the checkpoints and the ONNX file go.
        config: how both networks are trained.
        seed: of the initial weights.
        on_step: told what happens next, in one line.
        on_epoch: called after each epoch with the network's name, "dense twin" or "STR".

    Raises:
        VerificationError: STR, dense and ONNX disagree, or sparsity or top-1 fall short.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, test = strzoo.load_digits("train"), strzoo.load_digits("test")

    on_step(f"training the dense twin: ResNet20, {len(train)} digits, {config.epochs} epochs")
    torch.manual_seed(seed)
    twin = strzoo.create_model("resnet20", num_classes=train.num_classes)
    strzoo.fit(twin, train, config, on_epoch=partial(on_epoch, "dense twin"))
    twin_top1 = strzoo.evaluate(twin, test).top1

    on_step("training the same network with STR: its thresholds are learned")
    torch.manual_seed(seed)
    network = strzoo.create_model("resnet20", num_classes=train.num_classes)
    strzoo.sparsify_(network, "str", s_init=S_INIT)
    history = strzoo.fit(network, train, config, on_epoch=partial(on_epoch, "STR"))

    on_step("saving a checkpoint in the published format, converting it to dense")
    str_file, dense_file = folder / "digits_str.pth", folder / "digits_dense.pth"
    made = strzoo.build_checkpoint(network, {"epoch": config.epochs})
    strzoo.save_checkpoint(made, str_file, force=True)
    strzoo.convert(str_file, dense_file, verify=True, force=True)

    on_step(f"evaluating both on {len(test)} held-out digits")
    sparse = strzoo.evaluate(strzoo.load(str_file), test)
    dense = strzoo.evaluate(strzoo.load(dense_file), test)

    on_step("counting sparsity and MACs per layer")
    report = strzoo.report(str_file, input_size=DIGIT)

    on_step("exporting ONNX and running it with onnxruntime")
    onnx_file = folder / "digits.onnx"
    strzoo.export_onnx(dense_file, onnx_file, input_size=DIGIT, force=True)
    onnx = strzoo.evaluate(onnx_file, test)

    if not torch.equal(sparse.predictions, dense.predictions):
        raise VerificationError("the STR and the dense network predict different digits")
    if not torch.equal(dense.predictions, onnx.predictions):
        raise VerificationError("torch and onnxruntime predict different digits")
    result = DemoResult(
        twin_top1,
        sparse.top1,
        dense.top1,
        onnx.top1,
        report,
        tuple(history),
        (str_file, dense_file, onnx_file),
    )
    _check(result)
    return result


def _check(result: DemoResult) -> None:
    if result.sparsity < SPARSITY_WANTED:
        raise VerificationError(
            f"sparsity is {result.sparsity:.2f} %, the demo promises {SPARSITY_WANTED:.0f} %"
        )
    loss = result.dense_twin_top1 - result.str_top1
    if loss > TOP1_ALLOWED_LOSS:
        raise VerificationError(
            f"top-1 is {loss:.2f} points below the dense twin's, the demo promises at most "
            f"{TOP1_ALLOWED_LOSS:.0f}"
        )
