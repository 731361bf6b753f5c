"""prune: a network made sparse at once, without training."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.arguments import checked
from strzoo.checkpoint import Checkpoint, build_checkpoint, save_checkpoint
from strzoo.checkpoint.record import TrainedOn
from strzoo.checkpoint.writing import check_form
from strzoo.data.calibration import Images
from strzoo.data.imageset import ImageSet
from strzoo.data.preprocessing import fit_image_size
from strzoo.errors import UsageError
from strzoo.evaluation.evaluate import Batches, evaluate
from strzoo.evaluation.results import EvalResult
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import ImageSize, Source, check_image_size
from strzoo.pruning.batchnorm import renew_statistics
from strzoo.pruning.images import load_calibration
from strzoo.pruning.results import PrunedLayer, PruneResult
from strzoo.pruning.second_order import (
    Rows,
    count_zeros,
    most_zeros,
    prune_by_magnitude,
    prune_second_order,
    relative_error,
)
from strzoo.pruning.statistics import LayerStatistics, as_rows, collect_statistics
from strzoo.settings import Settings
from strzoo.sparse.selection import convertible_layers, prunable_layers

log = logging.getLogger(__name__)

METHODS = ("obc", "magnitude")
_PIXELS = 8 * 224**2  # of a batch: its activations are kept for the gradients


@checked
def prune(
    model: Model,
    data: Images,
    sparsity: float,
    *,
    method: str = "obc",
    images: int = 512,
    validation: str | os.PathLike[str] | ImageSet | Batches | None = None,
    output: str | os.PathLike[str] | None = None,
    skip: Iterable[str] = (),
    input_size: tuple[int, ...] | int | None = None,
    workers: int | None = None,
    force: bool = False,
    settings: Settings | None = None,
    on_step: Callable[[str], object] = log.info,
) -> PruneResult:
    """Make a network sparse at once, without training and without labels.

    The network is run on some images. From the second moments of each layer's inputs and the
    curvature of the loss in its outputs follows what each weight costs; the cheapest of the whole
    network go, in rounds, and those that stay are solved for, so that each layer's outputs change
    least (`strzoo/pruning/second_order.py`; the family of Optimal Brain Compression,
    arXiv:2208.11580). Then BatchNorm statistics are taken again. A start for fine-tuning, and an
    answer to how sparse a network can be at once.

    Args:
        model: a model id, a checkpoint file, a run folder, a `Checkpoint` or an `nn.Module`; it
            is not changed. Of a network with thresholds the effective weights are pruned further.
        data: the images to calibrate on: a folder (its `train`, if it has one), "photographs" or
            "digits" (bundled), an `ImageSet`, or a tensor of network inputs [N, C, H, W].
        sparsity: the fraction of all convolution and linear weights to be zero, in (0, 1).
        method: "obc"; or "magnitude": the smallest weights of each layer go, as many as the
            layer's sensitivity allows, and no other changes.
        images: how many of the images to use, spread over them.
        validation: labelled images, as `evaluate` takes data, to measure the accuracy on before
            and after.
        output: a checkpoint file to write, ending in .pth, .pt or .safetensors.
        skip: names or patterns of layers to leave dense; they count in the sparsity.
        input_size: channels, height, width (or height and width, or a side); by default what the
            network was made for. The file keeps it.
        workers: processes that decode validation images; by default one per core.
        force: overwrite an existing file.
        settings: cache folder, registries, network switches; from the environment by default.
        on_step: told what happens next, in one line.

    Returns:
        The network, its layers and the accuracies.

    Raises:
        UsageError: an argument is not valid, the network is as sparse already, cannot be that
            sparse, or does not run on the images.
        UnknownNameError: the id is unknown, or a skip pattern matches no layer.
        StrzooError and its subclasses: the model or the images cannot be had or read, or the file
            cannot be written.
    """
    started = time.perf_counter()
    if not 0 < sparsity < 1:
        hint = f"; {sparsity:g} % is {sparsity / 100:g}" if 1 <= sparsity < 100 else ""
        raise UsageError(f"sparsity {sparsity:g} is not a fraction in (0, 1){hint}")
    if method not in METHODS:
        raise UsageError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if images < 1:
        raise UsageError(f"images is {images}; it must be at least 1")
    on_step("loading the network")
    source = resolve(model, settings=settings)
    network = source.build_dense()
    checkpoint = _check_output(source, network, output, force=force)
    calibration = load_calibration(
        source, data, images, check_image_size(input_size, source.input_size[0])
    )
    channels, height, width = calibration.shape[1:]
    size: ImageSize = (channels, height, width)
    steps = fit_image_size(source.preprocessing, size)
    batches = calibration.split(max(1, min(64, _PIXELS // (height * width))))
    layers = convertible_layers(network, "gmp", skip)
    begun = _sparsity(network)
    rows = {name: Rows.of(as_rows(layer, _weight(layer))) for name, layer in layers.items()}
    _check_reach(network, rows, sparsity)
    if isinstance(validation, Iterator):  # it is gone through twice
        validation = list(validation)

    def measure(what: str) -> EvalResult | None:
        if validation is None:
            return None
        on_step(f"evaluating the {what} network")
        return evaluate(network, validation, preprocessing=steps, workers=workers)

    before = measure("given")
    count = sum(len(batch) for batch in batches)
    on_step(f"taking second-order statistics on {count} images")
    network.requires_grad_(True)
    statistics = collect_statistics(
        network, layers, batches, on_batch=lambda done: on_step(f"statistics: {done} of {count}")
    )
    network.requires_grad_(False)
    if unseen := [name for name, one in statistics.items() if not one.vectors]:
        log.warning("%s are left dense: the network did not use them", ", ".join(unseen))
        rows = {name: row for name, row in rows.items() if name not in unseen}
        _check_reach(network, rows, sparsity)
    _prune_rows(rows, statistics, _zeros_to_make(network, rows, sparsity), method, on_step)
    for name, row in rows.items():
        weight = _weight(layers[name])
        weight.copy_(row.weight.reshape(weight.shape))
    on_step("taking BatchNorm statistics again")
    renewed = renew_statistics(network, batches)
    after = measure("pruned")
    if output is not None and checkpoint is not None:
        output = Path(output)
        state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
        made = replace(checkpoint, format="dense", state_dict=state)
        if size != source.input_size:
            made = replace(made, trained_on=TrainedOn(size, steps, source.class_names))
        save_checkpoint(made, output, force=force)
    return PruneResult(
        network=network.requires_grad_(True),
        model=source.name,
        method=method,
        before_sparsity=begun,
        sparsity=_sparsity(network),
        images=count,
        batchnorms=renewed,
        layers=_describe(layers, rows, statistics),
        before=before,
        after=after,
        file=None if output is None else Path(output),
        seconds=time.perf_counter() - started,
    )


def _check_output(
    source: Source, network: nn.Module, output: Any, *, force: bool
) -> Checkpoint | None:
    """The checkpoint that a file would begin as; None without a file. What is said of a training
    (its epoch, its accuracy) does not hold any more, so it is left out."""
    if output is None:
        return None
    try:
        found = source.checkpoint
    except UsageError:  # a network in memory
        found = build_checkpoint(network, architecture=source.settings.architecture or None)
    check_form(Path(output), found.architecture, format="dense", force=force)
    return replace(found, metadata={"epoch": 0}, notes=())


def _check_reach(network: nn.Module, rows: Mapping[str, Rows], sparsity: float) -> None:
    """Raise a UsageError unless pruning `rows` can bring the network to that sparsity."""
    there, total = _count(network)
    if round(sparsity * total) <= there:
        raise UsageError(
            f"the network has {100 * there / total:.2f} % zeros already; choose a sparsity above "
            f"{there / total:.4g}"
        )
    most = there - count_zeros(rows) + most_zeros(rows)
    if round(sparsity * total) > most:
        raise UsageError(
            f"a sparsity of {sparsity:g} is out of reach: {most:,} of the network's {total:,} "
            f"weights can be zero; choose at most {most / total:.4g}, or skip fewer layers"
        )


def _zeros_to_make(network: nn.Module, rows: Mapping[str, Rows], sparsity: float) -> int:
    """Zeros that `rows` hold when the network has that sparsity; other layers are left alone."""
    there, total = _count(network)
    return round(sparsity * total) - (there - count_zeros(rows))


def _prune_rows(
    rows: Mapping[str, Rows],
    statistics: Mapping[str, LayerStatistics],
    zeros: int,
    method: str,
    on_step: Callable[[str], object],
) -> None:
    """Prune until so many weights are zero, in place."""
    statistics = {name: statistics[name] for name in rows}
    on_step("pruning")
    if method == "magnitude":
        prune_by_magnitude(rows, statistics, zeros)
    else:
        prune_second_order(
            rows, statistics, zeros,
            on_round=lambda done, total: on_step(f"pruning: round {done} of {total}"),
        )  # fmt: skip


def _describe(
    layers: Mapping[str, nn.Module],
    rows: Mapping[str, Rows],
    statistics: Mapping[str, LayerStatistics],
) -> tuple[PrunedLayer, ...]:
    return tuple(
        PrunedLayer(
            name,
            tuple(_weight(layers[name]).shape),
            row.kept.numel(),
            100.0 * float((~row.kept).float().mean()),
            relative_error(row, statistics[name]),
        )
        for name, row in rows.items()
    )


def _count(network: nn.Module) -> tuple[int, int]:
    """Zeros among all convolution and linear weights, and these."""
    weights = [_weight(layer) for layer in prunable_layers(network).values()]
    total = sum(weight.numel() for weight in weights)
    return total - sum(int(torch.count_nonzero(weight)) for weight in weights), total


def _sparsity(network: nn.Module) -> float:
    zeros, total = _count(network)
    return 100.0 * zeros / total if total else 0.0


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight
