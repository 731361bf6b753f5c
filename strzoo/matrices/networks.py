"""The matrix products of a torch network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from strzoo.analysis.counting import prunable_layers
from strzoo.data.calibration import Images, load_samples, random_samples
from strzoo.errors import NetworkError, OfflineError, StrzooError
from strzoo.hub.network_sources import CardSource
from strzoo.hub.source import ImageSize, Source
from strzoo.matrices.products import Geometry, Product, Products, activations_file
from strzoo.models.spec import stated_network
from strzoo.sparse.magnitude_mask import magnitude_mask_of
from strzoo.zoo.budgets import load_budget

log = logging.getLogger(__name__)

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Sizes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def read_network(
    source: Source, size: ImageSize | None, images: Images | None, max_images: int, folder: Path
) -> Products:
    """The layers of `source`; their inputs for up to `max_images` images are saved in `folder`.

    Raises:
        StrzooError: the network does not run on such images.
    """
    network, budget = _find_network(source)
    size = size or source.input_size
    layers = prunable_layers(network)
    skipped = tuple(name for name, layer in layers.items() if isinstance(layer, _TRANSPOSED))
    chosen = {name: layer for name, layer in layers.items() if name not in skipped}
    sizes, count = _run(source, network, size, chosen, images, max_images, folder)
    products = tuple(_product(name, layer, sizes) for name, layer in chosen.items())
    return Products(products, skipped, size, count, budget)


def _find_network(source: Source) -> tuple[nn.Module, str | None]:
    """The dense network, or random weights and the name of the budget that they follow."""
    if not isinstance(source, CardSource) or not source.card or not source.card.budget:
        return source.build_dense(), None
    try:
        return source.build_dense(), None
    except (OfflineError, NetworkError) as error:
        log.warning(
            "%s: the weights are not at hand (%s); random ones are pruned to its published budget, "
            "layer by layer", source.name, str(error).split(";")[0],
        )  # fmt: skip
    return make_random(source.card.budget, source.card.num_classes), source.card.budget


def make_random(budget: str, num_classes: int = 1000) -> nn.Module:
    """A network of random weights, always the same, with as many nonzeros in each layer as a
    report of the budget counts."""
    read = load_budget(budget)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = stated_network(read.architecture, num_classes).build()
    with torch.no_grad():
        for name, percent in read.layers.items():
            weight = network.get_submodule(name).get_parameter("weight")
            dropped = weight.numel() - round(weight.numel() * (1 - percent / 100))
            weight.mul_(magnitude_mask_of(weight, torch.tensor(dropped)))
    return network.requires_grad_(False).eval()


def _run(
    source: Source,
    network: nn.Module,
    size: ImageSize,
    layers: dict[str, nn.Module],
    images: Images | None,
    max_images: int,
    folder: Path,
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
                np.save(folder / activations_file(name), inputs[0].numpy())

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


def _product(name: str, layer: nn.Module, sizes: Sizes) -> Product:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    inputs, outputs = sizes.get(name, ((), ()))
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    groups, positions = 1, outputs[:-1]
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        stride, padding, dilation = layer.stride, layer.padding, layer.dilation
        groups, positions = layer.groups, outputs[1:]
    geometry = Geometry(
        layer=name,
        type=type(layer).__name__,
        shape=tuple(weight.shape),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_size=inputs,
        output_size=outputs,
    )
    return Product(geometry, weight.detach().float().reshape(len(weight), -1).numpy(), positions)
