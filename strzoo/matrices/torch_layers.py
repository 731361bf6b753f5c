"""The layers of a torch network as matrix products; sizes and inputs come from one run of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from strzoo.analysis.counting import prunable_layers
from strzoo.data.calibration import Images, load_samples, random_samples
from strzoo.errors import NetworkError, OfflineError, StrzooError
from strzoo.hub.source import ImageSize, Source
from strzoo.matrices.layers import FROM_MODEL, RANDOM, Layer, Layers, activations_file, file_stems
from strzoo.models.create import create_model
from strzoo.sparse.sparsify import sparsify_, to_dense_
from strzoo.zoo.budgets import load_budget

log = logging.getLogger(__name__)

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Sizes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def read_network(
    source: Source, size: ImageSize | None, images: Images | None, max_images: int, folder: Path
) -> Layers:
    """The layers of `source` that run on one image of `size`; arguments as of `export_matrices`.

    Args:
        folder: where the layers' inputs go, if there are images.
    """
    network, weights, notes = _open(source)
    size = size or source.input_size
    layers = prunable_layers(network)
    skipped = tuple(name for name, layer in layers.items() if isinstance(layer, _TRANSPOSED))
    chosen = {name: layer for name, layer in layers.items() if name not in skipped}
    stems = file_stems(chosen)
    sizes, count = _run(source, network, size, chosen, images, max_images, folder, stems)
    made = tuple(_read(n, layer, stems[n], sizes, count > 0) for n, layer in chosen.items())
    return Layers(made, skipped, size, count, weights, notes)


def _open(source: Source) -> tuple[nn.Module, str, tuple[str, ...]]:
    """The network, where its weights come from, and notes on that."""
    budget = source.card.budget if source.card else None
    try:
        return source.build_dense(), FROM_MODEL, ()
    except OfflineError:
        if budget is None:
            raise
    except NetworkError as error:
        if budget is None:
            raise
        raise NetworkError(
            f"{error}; with STRZOO_OFFLINE=1 the matrices are random ones of the published budget"
        ) from error
    card = source.card
    assert card is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = create_model(card.architecture, num_classes=card.num_classes)
        rates = load_budget(budget).prune_rates()
        network = to_dense_(sparsify_(network, "gmp", prune_rate=rates))
    note = (
        f"random weights: those of {card.id} are not in {source.settings.cache_dir} (`strzoo "
        f"download {card.id}` fetches them); each layer has as many nonzeros as budget {budget} "
        "says, at the places of the largest random values"
    )
    log.warning(note)
    return network.requires_grad_(False).eval(), RANDOM, (note,)


def _run(
    source: Source,
    network: nn.Module,
    size: ImageSize,
    layers: dict[str, nn.Module],
    images: Images | None,
    max_images: int,
    folder: Path,
    stems: dict[str, str],
) -> tuple[Sizes, int]:
    """Run the network once; input and output size of each layer, and how many inputs were saved."""
    if images is None:
        batch = random_samples(size, 1).images
    else:
        batch = load_samples(images, size, source.preprocessing).images[:max_images]
    sizes: Sizes = {}

    def observe(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name in sizes:
                log.warning("%s runs more than once; its first input is kept", name)
                return
            sizes[name] = (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))
            if images is not None:
                np.save(folder / activations_file(stems[name]), inputs[0].numpy())

        return hook

    handles = [layer.register_forward_hook(observe(name)) for name, layer in layers.items()]
    try:
        with torch.inference_mode():
            network(batch)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        shown = "x".join(map(str, batch.shape[1:]))
        raise StrzooError(
            f"{source.name} does not run on one {shown} input ({reason}); pass the size it takes"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return sizes, 0 if images is None else len(batch)


def _read(name: str, layer: nn.Module, stem: str, sizes: Sizes, saved: bool) -> Layer:
    weight = layer.weight
    assert isinstance(weight, Tensor)

    def read_weight() -> NDArray[np.float32]:
        return weight.detach().float().reshape(len(weight), -1).numpy()

    inputs, outputs = sizes.get(name, ((), ()))
    found: dict[str, Any] = {}
    positions = outputs[:-1]
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        found = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
        positions = outputs[1:]
    return Layer(
        name=name,
        stem=stem,
        type=type(layer).__name__,
        shape=tuple(weight.shape),
        read_weight=read_weight,
        input_size=inputs,
        output_size=outputs,
        positions=int(np.prod(positions, dtype=int)) if outputs else 0,
        activations=activations_file(stem) if saved and name in sizes else None,
        **found,
    )
