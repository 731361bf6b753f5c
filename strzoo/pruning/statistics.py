"""What pruning asks of a layer: how its inputs vary together, and how much its outputs matter.

The loss of a network whose layer changes by dW rises, to second order, by

    1/2 sum_i G_i dW_i A dW_i^T

with A = E[x x^T] over the inputs x that the row of weights W_i meets, and G_i the curvature of the
loss in output i, summed over its positions (K-FAC, arXiv:1503.05671, with a diagonal second
factor). The curvature is that of Gauss and Newton: labels are drawn from the network's own answers,
so no labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from strzoo.errors import UsageError, one_line
from strzoo.models.scores import find_scores, flatten_scores

# Input vectors that are enough for a layer, and for each of its inputs: neighbours are alike.
_VECTORS, _VECTORS_EACH = 8192, 4
# Inputs of a row beyond which only the diagonal of A is kept: the whole would take gigabytes.
WIDEST = 8192


@dataclass
class LayerStatistics:
    """Of a layer whose weights are [groups, rows, inputs] (`as_rows`).

    Args:
        gram: E[x x^T], float32 [groups, inputs, inputs]; [groups, inputs], its diagonal, of layers
            of more than `WIDEST` inputs.
        curvature: of the loss in each output, float32 [groups, rows].
        vectors: input vectors that were seen; 0 of a layer that the images never reach.
    """

    gram: Tensor
    curvature: Tensor
    vectors: int = 0

    @property
    def diagonal(self) -> Tensor:
        """E[x_j^2], [groups, inputs]."""
        return self.gram if self.gram.dim() == 2 else self.gram.diagonal(dim1=1, dim2=2)


def as_rows(layer: nn.Module, weight: Tensor) -> Tensor:
    """A weight of that layer as [groups, rows, inputs]: a row meets the inputs of its group."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def collect_statistics(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Tensor],
    *,
    seed: int = 0,
    on_batch: Callable[[int], object] = lambda images: None,
) -> dict[str, LayerStatistics]:
    """The statistics of `layers` on images, by layer name.

    Args:
        network: in evaluation mode; its parameters need gradients.
        layers: convolutions and linears of it.
        batches: images [N, C, H, W] as the network takes them.
        seed: of the labels and the patches that are drawn.
        on_batch: told the images so far.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {name: _empty(layer) for name, layer in layers.items()}
    seen = 0
    with _watching(layers, found, len(batches), generator):
        for images in batches:
            logits = read_logits(network, images)
            chances = torch.softmax(logits.detach(), dim=1)
            labels = torch.multinomial(chances, 1, generator=generator)[:, 0]
            # The sum: each image has the gradient that it has alone.
            functional.cross_entropy(logits, labels, reduction="sum").backward()
            network.zero_grad(set_to_none=True)
            seen += len(images)
            on_batch(seen)
    for one in found.values():
        one.gram /= max(one.vectors, 1)
        one.curvature /= max(seen, 1)
    return found


def read_logits(network: nn.Module, images: Tensor) -> Tensor:
    """What the network answers, float32 [N, classes].

    Raises:
        UsageError: it does not run on such images, or answers something else.
    """
    try:
        output = network(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UsageError(
            f"the network does not run on images of shape {tuple(images.shape)} "
            f"({one_line(str(error), 120)})"
        ) from error
    return flatten_scores(find_scores(output, "the network"), "the network")


def _empty(layer: nn.Module) -> LayerStatistics:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    groups, rows, inputs = as_rows(layer, weight).shape
    square = (inputs,) if inputs > WIDEST else (inputs, inputs)
    return LayerStatistics(torch.zeros(groups, *square), torch.zeros(groups, rows))


@contextmanager
def _watching(
    layers: Mapping[str, nn.Module],
    found: Mapping[str, LayerStatistics],
    batches: int,
    generator: torch.Generator,
) -> Iterator[None]:
    def hook(one: LayerStatistics) -> Callable[..., None]:
        enough = max(_VECTORS, _VECTORS_EACH * one.gram.shape[1])
        most = -(-enough // batches)

        def see(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            vectors = _input_vectors(layer, inputs[0].detach(), most, generator)
            one.vectors += vectors.shape[1]
            if one.gram.dim() == 2:
                one.gram += vectors.square().sum(1)
            else:
                one.gram.baddbmm_(vectors.mT, vectors)
            if output.requires_grad:
                output.register_hook(_adding(layer, one))

        return see

    handles = [layer.register_forward_hook(hook(found[name])) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(layer: nn.Module, one: LayerStatistics) -> Callable[[Tensor], None]:
    def add(gradient: Tensor) -> None:
        squares = gradient.float().square()
        axis = 1 if isinstance(layer, nn.Conv2d) else squares.dim() - 1
        total = squares.sum([d for d in range(squares.dim()) if d != axis])
        one.curvature += total.reshape(one.curvature.shape)

    return add


def _input_vectors(
    layer: nn.Module, inputs: Tensor, most: int, generator: torch.Generator
) -> Tensor:
    """What the rows of a layer are multiplied with, [groups, vectors, inputs]: all of it, or
    `most` drawn at random."""
    if not isinstance(layer, nn.Conv2d):
        rows = inputs.reshape(1, -1, inputs.shape[-1])
        chosen = _draw(rows.shape[1], most, generator)
        return rows[:, chosen].float()
    if any(layer._reversed_padding_repeated_twice):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    patches: Any = inputs
    for axis in (0, 1):
        reach = (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
        patches = patches.unfold(2 + axis, reach, layer.stride[axis])
    patches = patches[..., :: layer.dilation[0], :: layer.dilation[1]]
    count, _, height, width = patches.shape[:4]
    chosen = _draw(count * height * width, most, generator)
    image, place = chosen // (height * width), chosen % (height * width)
    taken = patches.permute(0, 2, 3, 1, 4, 5)[image, place // width, place % width]
    return taken.reshape(len(chosen), layer.groups, -1).transpose(0, 1).float()


def _draw(count: int, most: int, generator: torch.Generator) -> Tensor:
    if count <= most:
        return torch.arange(count)
    return torch.randint(count, (most,), generator=generator)
