"""report: any id, checkpoint or network, layer by layer: sparsity, thresholds, MACs.

Nothing here imports torch before weights are looked at: a report from a budget needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from strzoo.analysis.comparison import MISMATCH, MISPRINT, compare_published
from strzoo.analysis.dense_counts import INPUT_SIZE, shipped_counts
from strzoo.analysis.results import DenseCounts, LayerReport, Report
from strzoo.arguments import checked
from strzoo.errors import UnknownNameError, UsageError
from strzoo.hub.families import FamilySource
from strzoo.hub.graph_sources import OnnxSource
from strzoo.hub.network_sources import CardSource, ModuleSource
from strzoo.hub.resolve import resolve
from strzoo.settings import Settings
from strzoo.zoo.budgets import Budget, is_rounded, load_budget

if TYPE_CHECKING:
    from torch import nn

    from strzoo.checkpoint import Checkpoint
    from strzoo.hub.resolve import Model
    from strzoo.models.spec import ModelSpec

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class _Sparsity:
    """Nonzeros and thresholds by layer name, and where they come from."""

    source: str
    nonzeros: Mapping[str, int] | None = None
    zero_blocks: Mapping[str, int] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@checked
def report(
    target: Model,
    *,
    input_size: tuple[int, ...] | int | None = None,
    settings: Settings | None = None,
) -> Report:
    """Parameters, sparsity and MACs of each layer of `target`, and their totals.

    Args:
        target: a model id (its weights if they are in the cache, else its budget, else the
            architecture alone; `Report.source` and `notes` say which), a checkpoint or ONNX file,
            a `Checkpoint`, any `nn.Module`; or a FastGRNN network or its file.
        input_size: channels, height, width of one image, or the side of a square one; by default
            what the network was trained on or made for (32 pixels for ResNet20 and small stems),
            and 3, 224, 224 where nothing says it. Of a FastGRNN network the steps of a sequence.
        settings: cache folder and registries; from the environment by default.

    Returns:
        Weights and nonzeros are counts, sparsity is percent, MACs are multiply-accumulates of one
        image.

    Raises:
        UnknownNameError: the id is unknown.
        UsageError: a compiled plan, which has no weights to report on.
        StrzooError, IntegrityError: the file cannot be read, or the network does not run on
            that input size.
    """
    source = resolve(target, settings=settings)
    if isinstance(source, FamilySource):
        found: Report = source.report(input_size)
        return found
    size = input_size
    if isinstance(size, int):
        size = (source.input_size[0], size, size)
    if isinstance(source, CardSource):
        assert source.card is not None
        made = _report_card(source, size or source.input_size)
        notes = (*made.notes, *_differences(source, made))
        return replace(made, notes=notes, num_classes=source.card.num_classes)
    if isinstance(source, ModuleSource):
        made = _report_module(source.model, size or source.input_size)
        made = replace(made, architecture=source.architecture)
        return _state(made, source.spec) if source.spec else made
    if isinstance(source, OnnxSource):
        from strzoo.analysis.inspect_onnx import inspect_onnx

        return inspect_onnx(source, input_size=size).report
    return _report_checkpoint(source.checkpoint, size or source.input_size)


@checked
def report_budget(
    budget: Budget,
    *,
    input_size: tuple[int, ...] | int | None = None,
    num_classes: int | None = None,
    name: str | None = None,
) -> Report:
    """The report of `budget` applied to its architecture.

    Args:
        budget: sparsity in percent by layer.
        input_size: channels, height, width of one image, or the side of a square one; by default
            the budget's, and what the architecture is made for where it states none.
        num_classes: of the network; by default the budget's, else the architecture's.
        name: for the report; by default the budget's.

    Returns:
        As `report`; nonzeros follow from the budget, and a note says what it does not state.

    Raises:
        UnknownNameError: the architecture is not known, or is code, or has other layers.
        UsageError: options of the architecture that it does not have.
        StrzooError: the network does not run on that input size.
    """
    classes, size = num_classes or budget.num_classes, input_size or budget.input_size
    assumed = [
        said
        for said, known in (("number of classes", classes), ("input size", size))
        if known is None
    ]
    try:
        counts, classes = _architecture_counts(budget.architecture, classes, size, budget.options)
    except (UnknownNameError, UsageError) as error:
        raise type(error)(f"budget {budget.name!r}: {error}") from error
    spelled = "x".join(map(str, counts.input_size))
    note = f"counted with {classes or 'its own number of'} classes and an input of {spelled}"
    if assumed:
        lacking = " and no ".join(assumed)
        note += f"; the budget states no {lacking}: {budget.architecture}'s usual was assumed"
    weights = {layer.name: layer.weights for layer in counts.layers}
    if odd := sorted(set(weights) ^ set(budget.layers)):
        where = "the budget lacks" if odd[0] in weights else f"{budget.architecture} has no layer"
        raise UnknownNameError(f"budget {budget.name!r}: {where} {odd[0]!r}")
    nonzeros = {n: round(weights[n] * (1 - percent / 100)) for n, percent in budget.layers.items()}
    rounded = is_rounded(budget.layers, weights)
    how = " (rounded to 0.01 points per layer)" if rounded else ""
    odd_total = budget.contradiction(weights)
    notes = (f"sparsity from budget {budget.name}{how}", note, *([odd_total] if odd_total else []))
    made = _combine(name or budget.name, counts, _Sparsity("budget", nonzeros, notes=notes))
    return replace(
        made, architecture=budget.architecture, num_classes=classes, options=budget.options
    )


def _differences(source: CardSource, made: Report) -> list[str]:
    """A note for each published figure that does not follow from the report."""
    assert source.card is not None
    if made.input_size != source.input_size:  # published for that size
        return []
    return [
        f"published {line.quantity} {line.published}, computed {line.computed}: {line.verdict}"
        + (f" ({line.note})" if line.note else "")
        for line in compare_published(source.card, made)
        if line.verdict in (MISPRINT, MISMATCH)
    ]


def _report_card(source: CardSource, input_size: tuple[int, ...]) -> Report:
    card, folder = source.card, source.settings.cache_dir
    assert card is not None
    if source.cached_file is not None:
        return _report_checkpoint(source.checkpoint, input_size, name=card.id)
    hint = f"`strzoo download {card.id}` fetches them"
    if card.budget:
        made = report_budget(
            load_budget(card.budget), input_size=input_size, num_classes=card.num_classes,
            name=card.id,
        )  # fmt: skip
        return replace(made, notes=(*made.notes, f"weights not in {folder}; {hint}"))
    counts, _ = _architecture_counts(card.architecture, card.num_classes, input_size)
    if card.method == "dense":
        nonzeros = {layer.name: layer.weights for layer in counts.layers}
        note = "counted from the architecture: a dense model has no zeros to count"
        return _combine(card.id, counts, _Sparsity("architecture", nonzeros, notes=(note,)))
    note = (
        f"the paper prints no per-layer sparsity of {card.id}: it comes from the published file, "
        f"which is not in {folder}; {hint}"
    )
    return _combine(card.id, counts, _Sparsity("architecture", notes=(note,)))


def _report_checkpoint(
    checkpoint: Checkpoint, input_size: tuple[int, ...], *, name: str | None = None
) -> Report:
    import torch

    from strzoo.models.spec import ModelSpec
    from strzoo.sparse.blocks import count_zero_blocks

    spec = checkpoint.spec
    counts = None
    if spec == ModelSpec(spec.architecture, 1000) and input_size == INPUT_SIZE:
        counts = shipped_counts(spec.architecture)
    if counts is None:
        from strzoo.analysis.counting import count_dense

        counts = count_dense(spec.build(), input_size, name=spec.architecture)
    weights = checkpoint.effective_weights()
    nonzeros = {name: int(torch.count_nonzero(weight)) for name, weight in weights.items()}
    blocks = {name: count_zero_blocks(weight) for name, weight in weights.items()}
    sparsity = _Sparsity("weights", nonzeros, blocks, checkpoint.thresholds(), checkpoint.notes)
    made = _combine(name or str(checkpoint.path or spec.architecture), counts, sparsity)
    return _state(made, spec)


def _state(made: Report, spec: ModelSpec) -> Report:
    """The report, which says by which arguments `create_model` builds the network."""
    return replace(
        made,
        architecture=spec.architecture,
        num_classes=spec.num_classes or None,
        options=spec.chosen,
    )


def _report_module(model: nn.Module, input_size: tuple[int, ...]) -> Report:
    import torch
    from torch import Tensor

    from strzoo.analysis.counting import count_dense, prunable_layers
    from strzoo.sparse.blocks import count_zero_blocks
    from strzoo.sparse.layers import SparseLayer, mean_threshold
    from strzoo.sparse.selection import TRANSPOSED
    from strzoo.sparse.unwrap import plain_network

    model = plain_network(model)
    counts = count_dense(model, input_size)
    nonzeros: dict[str, int] = {}
    blocks: dict[str, int] = {}
    thresholds: dict[str, float] = {}
    with torch.no_grad():
        for name, layer in prunable_layers(model).items():
            weight = layer.effective_weight() if isinstance(layer, SparseLayer) else layer.weight
            assert isinstance(weight, Tensor)
            nonzeros[name] = int(torch.count_nonzero(weight))
            if not isinstance(layer, TRANSPOSED):  # whose input channels come first
                blocks[name] = count_zero_blocks(weight)
            if (threshold := mean_threshold(layer)) is not None:
                thresholds[name] = threshold
    notes = () if nonzeros else ("the network has no convolution or linear layer",)
    return _combine(counts.model, counts, _Sparsity("weights", nonzeros, blocks, thresholds, notes))


def _architecture_counts(
    architecture: str,
    num_classes: int | None,
    input_size: tuple[int, ...] | int | None,
    options: Mapping[str, Any] = _NOTHING,
) -> tuple[DenseCounts, int | None]:
    """The counts of the network that these describe, and its number of classes if it is known.
    What is None is as the architecture usually has it."""
    shipped = shipped_counts(architecture)
    size = input_size if isinstance(input_size, int) else tuple(input_size or INPUT_SIZE)
    usual = num_classes in (None, 1000) and not options and size in (INPUT_SIZE, INPUT_SIZE[-1])
    if shipped is not None and usual:
        return shipped, 1000
    from strzoo.analysis.counting import count_dense
    from strzoo.models.spec import stated_network

    spec = stated_network(architecture, num_classes, options)
    size = input_size or spec.input_size
    if isinstance(size, int):
        size = (spec.input_size[0], size, size)
    counts = count_dense(spec.build(), size, name=architecture)
    return counts, spec.num_classes or None


def _combine(model: str, counts: DenseCounts, sparsity: _Sparsity) -> Report:
    layers = tuple(
        LayerReport(
            layer.name,
            layer.type,
            layer.shape,
            layer.output,
            layer.weights,
            None if sparsity.nonzeros is None else sparsity.nonzeros[layer.name],
            sparsity.thresholds.get(layer.name),
            layer.macs,
            sparsity.zero_blocks.get(layer.name),
        )
        for layer in counts.layers
    )
    return Report(
        model,
        sparsity.source,
        counts.input_size,
        layers,
        counts.params,
        counts.other_macs,
        counts.uncounted,
        (*sparsity.notes, *counts.notes),
        counts.model,
    )
