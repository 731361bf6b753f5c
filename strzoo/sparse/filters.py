"""Filter pruning by STR: an importance for each output channel, soft-thresholded as a vector.

The structured form of STR (arXiv:2002.03231, appendix A.5): the filter f of a channel becomes m f,
and STR acts on the vector m. The convolutions here are followed by BatchNorm, which would undo the
factor, so m scales what comes out of it. A channel whose m is zero then puts out zeros, and its
removal changes nothing: `remove_filters` makes smaller dense layers with the same logits.

Which layers share channels a network says itself, by a method `channel_groups`: the branches of a
residual stage, and a depthwise convolution with the one before it, agree on their channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from strzoo.arguments import checked
from strzoo.errors import UsageError
from strzoo.sparse.layers import SparseLayer, resolve_g
from strzoo.sparse.soft_threshold import soft_threshold

DEFAULT_S_INIT = -8.0  # sigmoid 0.0003: the channels begin at importance 1 and threshold 0


@dataclass(frozen=True)
class ChannelGroup:
    """Layers that have the same channels, by name.

    `convolutions` write them (their output channels), `norms` normalise them, `depthwise`
    convolutions carry them on one by one, `readers` take them in (input channels). `gates` are the
    norms at which a channel's importance acts: all branches of a sum, the last norm of a chain.
    """

    convolutions: tuple[str, ...]
    norms: tuple[str, ...]
    readers: tuple[str, ...]
    gates: tuple[str, ...]
    depthwise: tuple[str, ...] = ()


@runtime_checkable
class HasChannelGroups(Protocol):
    """A network that says which of its layers share channels."""

    def channel_groups(self) -> list[ChannelGroup]:
        """All groups whose channels can be removed; the network's outputs are none."""
        ...


class ChannelImportance(nn.Module):
    """The importance m of each channel of a group, and its threshold parameter s.

    Args:
        channels: how many.
        s_init: initial s.
        g: maps s to the threshold.
    """

    def __init__(self, channels: int, s_init: float, g: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.g = g
        self.importance = nn.Parameter(torch.ones(channels))
        self.sparseThreshold = nn.Parameter(torch.full((1, 1), float(s_init)))

    def effective(self) -> Tensor:
        """sign(m) relu(|m| - g(s)), shape [channels]."""
        return soft_threshold(self.importance, self.g(self.sparseThreshold))


class GatedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose output is scaled by the importance of each channel."""

    channels: ChannelImportance

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        scale = self.channels.effective().to(self.weight.dtype)
        averages = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if averages is None:
                averages = 1.0 / float(self.num_batches_tracked)
        return functional.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight * scale,
            self.bias * scale,
            self.training,
            0.0 if averages is None else averages,
            self.eps,
        )


@checked
def sparsify_filters_(
    model: nn.Module,
    *,
    s_init: float = DEFAULT_S_INIT,
    g: Callable[[Tensor], Tensor] | str = "sigmoid",
    g_scale: float = 1.0,
) -> nn.Module:
    """Give every channel of `model` an importance that STR learns to remove, in place.

    Train with weight decay on `importance` and `sparseThreshold` (the optimizer groups of
    `strzoo.train` and `strzoo.fit` do), then call `remove_filters`.

    Args:
        model: a ResNet or MobileNetV1 of strzoo, or any network with a method `channel_groups`.
        s_init: initial threshold parameter, one for each group of channels.
        g: maps it to the threshold: "sigmoid", "exp" or a function.
        g_scale: times this.

    Returns:
        `model`, which computes what it did if g(s_init) is 0.

    Raises:
        UsageError: the network does not say which layers share channels, or a norm of it is no
            affine `nn.BatchNorm2d`.
    """
    function = resolve_g(g, g_scale)
    groups = _groups(model)
    for group in groups:
        for name in group.gates:
            norm = model.get_submodule(name)
            if type(norm) is not nn.BatchNorm2d or not norm.affine:
                raise UsageError(
                    f"{name} is a {type(norm).__name__}; filters are pruned at affine BatchNorm2d"
                )
    for group in groups:
        first = cast(nn.BatchNorm2d, model.get_submodule(group.gates[0]))
        shared = ChannelImportance(first.num_features, s_init, function).to(first.weight.device)
        for name in group.gates:
            norm = model.get_submodule(name)
            norm.__class__ = GatedBatchNorm2d
            norm.channels = shared
    return model


def count_filters(model: nn.Module) -> tuple[int, int]:
    """Channels that are left, and channels in all, over the groups of a network with importances.

    Raises:
        UsageError: `model` has none.
    """
    shared = _importances(model)
    with torch.no_grad():
        left = sum(int(torch.count_nonzero(each.effective())) for each in shared)
    return left, sum(each.importance.numel() for each in shared)


@checked
@torch.no_grad()
def remove_filters(model: nn.Module, *, multiple: int = 1) -> nn.Module:
    """A copy of `model` without the channels whose importance is zero, with plain layers.

    The importances that are left go into the BatchNorms. The logits are those of `model` up to
    rounding.

    Args:
        model: after `sparsify_filters_` and training.
        multiple: what the number of channels is rounded up to, at least one, by keeping dead ones,
            which put out zeros. onnxruntime computes multiples of 8 (16 with AVX-512) in blocks,
            and other numbers several times slower.

    Returns:
        A network of ordinary `nn.Conv2d` and `nn.BatchNorm2d`, whose layers have fewer channels.

    Raises:
        UsageError: `model` has no importances, or sparse weights (`to_dense_` makes them plain), or
            `multiple` is below 1.
    """
    if multiple < 1:
        raise UsageError(f"multiple is {multiple}; it must be at least 1")
    _importances(model)
    model = copy.deepcopy(model)
    for group in _groups(model):
        gates = [cast(GatedBatchNorm2d, model.get_submodule(name)) for name in group.gates]
        scale = gates[0].channels.effective()
        alive = int(torch.count_nonzero(scale))
        width = min(len(scale), -(-max(alive, 1) // multiple) * multiple)
        # The living channels have the largest importances; those after them put out zeros.
        order = gates[0].channels.importance.abs().argsort(descending=True, stable=True)
        kept = order[:width].sort().values
        for norm in gates:
            del norm.channels
            norm.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
            norm.weight.mul_(scale)
            norm.bias.mul_(scale)
        for name in group.norms:
            _cut_norm(cast(nn.BatchNorm2d, model.get_submodule(name)), kept)
        for name in group.convolutions:
            _cut_outputs(_plain(model, name), kept)
        for name in group.depthwise:
            layer = _plain(model, name)
            _cut_outputs(layer, kept)
            layer.in_channels = layer.groups = len(kept)
        for name in group.readers:
            layer = _plain(model, name)
            layer.weight = nn.Parameter(layer.weight[:, kept], layer.weight.requires_grad)
            layer.in_channels = len(kept)
    return model


def _groups(model: nn.Module) -> list[ChannelGroup]:
    if not isinstance(model, HasChannelGroups):
        raise UsageError(
            f"{type(model).__name__} does not say which layers share channels; give it a method "
            "channel_groups (strzoo.sparse.filters), or use a ResNet or MobileNetV1 of strzoo"
        )
    return model.channel_groups()


def _importances(model: nn.Module) -> list[ChannelImportance]:
    found = [module for module in model.modules() if isinstance(module, ChannelImportance)]
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no filters to prune; sparsify_filters_ makes them"
        )
    return found


def _plain(model: nn.Module, name: str) -> nn.Conv2d:
    layer = model.get_submodule(name)
    if isinstance(layer, SparseLayer):
        raise UsageError(f"{name} has sparse weights; call to_dense_ before remove_filters")
    return cast(nn.Conv2d, layer)


def _cut_outputs(layer: nn.Conv2d, kept: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight[kept], layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[kept], layer.bias.requires_grad)
    layer.out_channels = len(kept)


def _cut_norm(norm: nn.BatchNorm2d, kept: Tensor) -> None:
    norm.weight = nn.Parameter(norm.weight[kept], norm.weight.requires_grad)
    norm.bias = nn.Parameter(norm.bias[kept], norm.bias.requires_grad)
    for name in ("running_mean", "running_var"):
        if (values := getattr(norm, name)) is not None:
            setattr(norm, name, values[kept])
    norm.num_features = len(kept)


def residual_groups(
    stem: tuple[str, str], blocks: Iterable[tuple[str, nn.Module]], classifier: str
) -> list[ChannelGroup]:
    """The channel groups of a residual network.

    Args:
        stem: names of the first convolution and its norm.
        blocks: name and module of each block in order: `conv1`, `bn1`, `conv2`, ..., one after
            the other, and `downsample`, a Sequential of convolution and norm, or None.
        classifier: name of the layer that reads the last block.

    Returns:
        A group for the channels of each residual stream, and one inside each pair of layers.
    """
    groups: list[ChannelGroup] = []
    convolutions, norms, readers = [stem[0]], [stem[1]], list[str]()
    for name, block in blocks:
        depth = sum(child.startswith("conv") for child, _ in block.named_children())
        readers.append(f"{name}.conv1")
        if block.downsample is not None:
            readers.append(f"{name}.downsample.0")
            groups.append(_stream(convolutions, norms, readers))
            convolutions, norms = [f"{name}.downsample.0"], [f"{name}.downsample.1"]
            readers = []
        for number in range(1, depth):
            norm = (f"{name}.bn{number}",)
            inner = ((f"{name}.conv{number}",), norm, (f"{name}.conv{number + 1}",), norm)
            groups.append(ChannelGroup(*inner))
        convolutions.append(f"{name}.conv{depth}")
        norms.append(f"{name}.bn{depth}")
    groups.append(_stream(convolutions, norms, [*readers, classifier]))
    return groups


def _stream(convolutions: list[str], norms: list[str], readers: list[str]) -> ChannelGroup:
    """Every branch that adds to a residual stream is scaled alike."""
    return ChannelGroup(tuple(convolutions), tuple(norms), tuple(readers), tuple(norms))
