"""report: any id, checkpoint or network, layer by layer: sparsity, thresholds, MACs.

Nothing here imports torch before weights are looked at: a report from a budget needs none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.analysis.comparison import MISMATCH, MISPRINT, compare_published
from strzoo.analysis.dense_counts import INPUT_SIZE, shipped_counts
from strzoo.analysis.results import DenseCounts, LayerReport, Report
from strzoo.downloads.cache import Cache
from strzoo.errors import UnknownNameError, UsageError
from strzoo.settings import Settings
from strzoo.zoo.budgets import Budget, load_budget
from strzoo.zoo.registry import ModelCard, get_card

if TYPE_CHECKING:
    from torch import nn

    from strzoo.checkpoint import Checkpoint


@dataclass(frozen=True)
class _Sparsity:
    """Nonzeros and thresholds by layer name, and where they come from."""

    source: str
    nonzeros: Mapping[str, int] | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def report(
    target: str | os.PathLike[str] | Checkpoint | nn.Module,
    *,
    input_size: tuple[int, ...] | int | None = None,
    settings: Settings | None = None,
) -> Report:
    """Parameters, sparsity and MACs of each layer of `target`, and their totals.

    Args:
        target: a model id (its weights if they are in the cache, else its budget, else the
            architecture alone; `Report.source` and `notes` say which), a checkpoint file, a
            `Checkpoint`, or any `nn.Module`.
        input_size: channels, height, width of one image, or the side of a square one; by default
            what the network was made for (3, 224, 224; 32 pixels for ResNet20 and small stems).
        settings: cache folder and registries; from the environment by default.

    Raises:
        UnknownNameError: the id is unknown.
        StrzooError, IntegrityError: the file cannot be read, or the network does not run on
            that input size.
    """
    size = (3, input_size, input_size) if isinstance(input_size, int) else input_size
    if isinstance(target, str | os.PathLike):
        text = os.fspath(target)
        if is_file_argument(text):
            from strzoo.checkpoint import read_checkpoint

            return _report_checkpoint(read_checkpoint(text), size)
        card = get_card(text, settings=settings)
        made = _report_card(card, size or INPUT_SIZE, settings or Settings.from_env())
        return replace(made, notes=(*made.notes, *_differences(card, made)))
    from torch import nn

    if isinstance(target, nn.Module):
        return _report_module(target, size or INPUT_SIZE)
    if not hasattr(target, "spec"):
        raise UsageError(f"cannot report on {target!r}; give an id, a file or a network")
    return _report_checkpoint(target, size)


def is_file_argument(text: str) -> bool:
    """Whether a MODEL argument means a file: it exists, or looks like a path."""
    path = Path(text)
    suffixes = (".pth", ".pt", ".safetensors", ".onnx", ".strz")
    return path.suffix in suffixes or os.sep in text or path.exists()


def report_budget(
    budget: Budget, *, input_size: tuple[int, ...] = INPUT_SIZE, name: str | None = None
) -> Report:
    """The report of `budget` applied to its architecture (1000 classes).

    Raises:
        UnknownNameError: the budget's layers are not the architecture's.
    """
    counts = _architecture_counts(budget.architecture, 1000, input_size)
    weights = {layer.name: layer.weights for layer in counts.layers}
    if odd := sorted(set(weights) ^ set(budget.layers)):
        where = "the budget lacks" if odd[0] in weights else f"{budget.architecture} has no layer"
        raise UnknownNameError(f"budget {budget.name!r}: {where} {odd[0]!r}")
    nonzeros = {n: round(weights[n] * (1 - percent / 100)) for n, percent in budget.layers.items()}
    notes = (f"sparsity from budget {budget.name} (rounded to 0.01 points per layer)",)
    return _combine(name or budget.name, counts, _Sparsity("budget", nonzeros, notes=notes))


def _differences(card: ModelCard, made: Report) -> list[str]:
    """A note for each published figure that does not follow from the report."""
    if made.input_size != INPUT_SIZE:  # published for that size
        return []
    return [
        f"published {line.quantity} {line.published}, computed {line.computed}: {line.verdict}"
        + (f" ({line.note})" if line.note else "")
        for line in compare_published(card, made)
        if line.verdict in (MISPRINT, MISMATCH)
    ]


def _report_card(card: ModelCard, input_size: tuple[int, ...], settings: Settings) -> Report:
    if found := find_weights(card, settings):
        from strzoo.checkpoint import read_checkpoint

        path, _ = found
        return _report_checkpoint(read_checkpoint(path), input_size, name=card.id)
    if card.budget:
        made = report_budget(load_budget(card.budget), input_size=input_size, name=card.id)
        hint = f"weights not in {settings.cache_dir}; `strzoo download {card.id}` fetches them"
        return replace(made, notes=(*made.notes, hint))
    counts = _architecture_counts(card.architecture, card.num_classes, input_size)
    if card.method == "dense":
        nonzeros = {layer.name: layer.weights for layer in counts.layers}
        note = "counted from the architecture: a dense model has no zeros to count"
        return _combine(card.id, counts, _Sparsity("architecture", nonzeros, notes=(note,)))
    note = (
        f"the paper prints no per-layer sparsity of {card.id}: it comes from the published file, "
        f"which is not in {settings.cache_dir}; `strzoo download {card.id}` fetches it"
    )
    return _combine(card.id, counts, _Sparsity("architecture", notes=(note,)))


def find_weights(card: ModelCard, settings: Settings) -> tuple[Path, str] | None:
    """Path and format of a cached file of that model, or None. STR first: it has thresholds."""
    cache = Cache(settings.cache_dir)
    for format in card.files:
        if (cached := cache.find(card, format)) is not None:
            return cached.path, format
    return None


def _report_checkpoint(
    checkpoint: Checkpoint, input_size: tuple[int, ...] | None, *, name: str | None = None
) -> Report:
    import torch

    spec = checkpoint.spec
    input_size = spec.input_size if input_size is None else input_size
    counts = None
    if spec == type(spec)(spec.architecture, 1000) and input_size == INPUT_SIZE:
        counts = shipped_counts(spec.architecture)
    if counts is None:
        from strzoo.analysis.counting import count_dense

        counts = count_dense(spec.build(), input_size, name=spec.architecture)
    nonzeros = {n: int(torch.count_nonzero(w)) for n, w in checkpoint.effective_weights().items()}
    sparsity = _Sparsity("weights", nonzeros, checkpoint.thresholds())
    return _combine(name or str(checkpoint.path or spec.architecture), counts, sparsity)


def _report_module(model: nn.Module, input_size: tuple[int, ...]) -> Report:
    import torch
    from torch import Tensor

    from strzoo.analysis.counting import count_dense, prunable_layers
    from strzoo.sparse.layers import SparseLayer, mean_threshold

    counts = count_dense(model, input_size)
    nonzeros: dict[str, int] = {}
    thresholds: dict[str, float] = {}
    with torch.no_grad():
        for name, layer in prunable_layers(model).items():
            weight = layer.effective_weight() if isinstance(layer, SparseLayer) else layer.weight
            assert isinstance(weight, Tensor)
            nonzeros[name] = int(torch.count_nonzero(weight))
            if (threshold := mean_threshold(layer)) is not None:
                thresholds[name] = threshold
    return _combine(counts.model, counts, _Sparsity("weights", nonzeros, thresholds))


def _architecture_counts(
    architecture: str, num_classes: int, input_size: tuple[int, ...]
) -> DenseCounts:
    shipped = shipped_counts(architecture)
    if shipped is not None and num_classes == 1000 and tuple(input_size) == INPUT_SIZE:
        return shipped
    from strzoo.analysis.counting import count_dense
    from strzoo.models import create_model

    model = create_model(architecture, num_classes=num_classes)
    return count_dense(model, input_size, name=architecture)


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
        sparsity.notes,
        counts.model,
    )
