"""What the commands for all models ask of a FastGRNN network: report, convert, export.

`strzoo.hub.families` recognises the networks and their files, and imports this module then.
"""

from __future__ import annotations

import math
import time
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from strzoo.analysis.results import LayerReport, Report
from strzoo.checkpoint.convert import Conversion
from strzoo.errors import UsageError, VerificationError
from strzoo.hub.families import FamilySource
from strzoo.onnx.results import Agreement, OnnxExport
from strzoo.onnx.sessions import read_versions
from strzoo.rnn.cell import LEARNED, SIDES, FastGRNNCell
from strzoo.rnn.classifier import SequenceClassifier
from strzoo.rnn.conversion import convert_rnn
from strzoo.rnn.export_onnx import BATCH, CHECKED, TOLERANCE, export_rnn
from strzoo.rnn.files import best_file, load_rnn, names_gates
from strzoo.rnn.onnx_graph import BATCH as BATCH_AXIS
from strzoo.rnn.onnx_graph import INPUT, OUTPUT, STEPS
from strzoo.rnn.report import report_rnn

ARCHITECTURE = "fastgrnn"
_SAME = 1e-5  # of the largest logit
_GATES = (
    "the file names no nonlinearities: sigmoid and tanh are assumed; strzoo rnn has --gate, "
    "--update and --orientation"
)


class FastGRNNSource(FamilySource):
    """A FastGRNN network: in memory, in a file of strzoo's or EdgeML's, or a training's best."""

    described = "a FastGRNN network for sequences"
    wanted = "strzoo rnn --help shows what it takes"

    @cached_property
    def path(self) -> Path | None:
        """The file or EdgeML folder; of a training's folder the best network's file."""
        return None if self._file is None else best_file(self._file)

    @cached_property
    def network(self) -> nn.Module:
        if self._network is not None:
            return self._network
        assert self.path is not None
        return load_rnn(self.path)

    @property
    def architecture(self) -> str:
        return ARCHITECTURE

    @cached_property
    def notes(self) -> tuple[str, ...]:
        known = self.path is None or names_gates(self.path)
        return () if known else (_GATES,)

    def build_network(self, format: str | None = None) -> nn.Module:
        return self._folded() if format == "dense" else self.network

    def _folded(self) -> SequenceClassifier:
        if not isinstance(self.network, SequenceClassifier):
            raise UsageError(
                f"a {type(self.network).__name__} has no linear layer; give a SequenceClassifier"
            )
        return self.network.fold().eval()

    @torch.no_grad()
    def report(self, input_size: tuple[int, ...] | int | None) -> Report:
        """Matrix by matrix; MACs are of one sequence."""
        steps = self._steps(input_size)
        made = report_rnn(self.network, steps=steps)
        cells = _cells(self.network)
        layers = [
            layer
            for name, cell in cells.items()
            for side in SIDES
            for layer in _list_factors(f"{name}.{side}".lstrip("."), cell, side, made.steps)
        ]
        if isinstance(self.network, SequenceClassifier):
            weight = self.network.fc.weight
            shape, count = tuple(weight.shape), int(torch.count_nonzero(weight))
            size = weight.numel()
            layers.append(LayerReport("fc", "linear", shape, shape[:1], size, count, None, size))
        ranks = [f"{m.name} {m.rank}" for m in made.matrices if m.inner is not None]
        notes = (*self.notes, *([f"ranks: {', '.join(ranks)}"] if ranks else []))
        features = next(iter(cells.values())).input_size
        return Report(
            str(self.path or self.name), "weights", (made.steps, features), tuple(layers),
            made.params, {}, {"gates and sums of a step": len(cells) * made.steps}, notes,
            ARCHITECTURE,
        )  # fmt: skip

    def _steps(self, input_size: tuple[int, ...] | int | None) -> int | None:
        if input_size is None or isinstance(input_size, int):
            return input_size
        features = next(m.input_size for m in self.network.modules() if isinstance(m, FastGRNNCell))
        if len(input_size) != 2 or input_size[1] != features:
            raise UsageError(
                f"{self.name} takes sequences of {features} features: input_size is the number of "
                "steps (on the command line: strzoo rnn report --steps)"
            )
        return input_size[0]

    def convert(self, destination: Path, *, verify: bool, force: bool) -> Conversion:
        folded = self._folded()
        learned = any(LEARNED in (c.rank_w, c.rank_u) for c in _cells(self.network).values())

        def check(temporary: Path) -> None:
            _verify(self.network, load_rnn(temporary), destination)

        convert_rnn(folded, destination, force=force, check=check if verify else None)
        ours = self.path is not None and not self.path.is_dir()
        return Conversion(
            path=destination,
            architecture=ARCHITECTURE,
            source_format="learned ranks" if learned else "dense",
            format="dense",
            layout="strzoo",
            compact=False,
            half=False,
            sparsity=report_rnn(folded).sparsity,
            bytes=destination.stat().st_size,
            source_bytes=self.path.stat().st_size if self.path and ours else 0,
            verified=verify,
            notes=self.notes,
        )

    def export(self, path: Path, *, precision: str, opset: int, force: bool) -> OnnxExport:
        started = time.perf_counter()
        folded = self._folded()
        made = export_rnn(folded, path, precision=precision, opset=opset, force=force)
        assert made.relative_difference is not None
        assert made.largest_difference is not None
        assert made.top1_agreement is not None
        measured = (made.largest_difference, made.relative_difference, made.top1_agreement)
        sparsity = report_rnn(folded).sparsity
        return OnnxExport(
            path=path,
            report_path=path.with_name(path.name + ".json"),
            model=made.metadata["strzoo.model"],
            precision=precision,
            opset=opset,
            input_name=INPUT,
            input_type="float32",
            input_shape=(BATCH_AXIS, folded.steps or STEPS, folded.rnn.input_size),
            output_name=OUTPUT,
            output_shape=(BATCH_AXIS, folded.num_classes),
            bytes=made.bytes,
            sparsity=sparsity,
            source_sparsity=sparsity,
            largest_difference=made.largest_difference,
            relative_difference=made.relative_difference,
            top1_agreement=made.top1_agreement,
            tolerance=TOLERANCE,
            checks=(Agreement("random sequences", BATCH, CHECKED, *measured),),
            metadata=made.metadata,
            versions=read_versions(),
            seconds=time.perf_counter() - started,
        )


FAMILY_SOURCE = FastGRNNSource


def _cells(network: nn.Module) -> dict[str, FastGRNNCell]:
    return {n: m for n, m in network.named_modules() if isinstance(m, FastGRNNCell)}


def _list_factors(name: str, cell: FastGRNNCell, side: str, steps: int) -> list[LayerReport]:
    """The factors of a matrix as layers. What folding cuts is zero in both; the first has the
    `threshold` of a learned rank, exp(s)."""
    factors, threshold = cell.factors(side), None
    if cell.effective_m(side) is not None:
        threshold = math.exp(float(getattr(cell, f"s_{side}").detach()))
        alive = (factors[0] != 0).any(0)
        factors = (factors[0], factors[1] * alive[:, None])
    names = [name] if len(factors) == 1 else [f"{name}1", f"{name}2"]
    layers = []
    for label, factor in zip(names, factors, strict=True):
        shape, size, left = tuple(factor.shape), factor.numel(), int(torch.count_nonzero(factor))
        output = (steps, shape[1])
        layers.append(
            LayerReport(label, "linear", shape, output, size, left, threshold, size * steps)
        )
        threshold = None
    return layers


@torch.inference_mode()
def _verify(expected: nn.Module, found: SequenceClassifier, path: Path) -> None:
    """Raise a VerificationError unless both give the same logits on random sequences."""
    shape = (3, found.steps or 17, found.rnn.input_size)
    sequences = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wanted = expected(sequences.to(next(expected.parameters())))
    difference = float((wanted - found(sequences.to(found.mean))).abs().max())
    if not difference <= _SAME * float(wanted.abs().max()):
        raise VerificationError(f"{path}: logits differ from the source's by {difference:.3g}")
