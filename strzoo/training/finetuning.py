"""Fine-tuning: start from a zoo model or a checkpoint, keep its zeros, freeze parts of it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from strzoo.errors import IntegrityError, UnknownNameError
from strzoo.hub.load import load
from strzoo.hub.resolve import Model
from strzoo.settings import Settings
from strzoo.sparse.layers import SparseLayer
from strzoo.sparse.selection import prunable_layers


def load_pretrained(
    name_or_file: Model,
    *,
    num_classes: int | None = None,
    format: str | None = "dense",
    settings: Settings | None = None,
) -> nn.Module:
    """A network to train further, in training mode, with a fresh head if the classes differ.

    Args:
        name_or_file: a model id or unique prefix, or a checkpoint file.
        num_classes: of the new task; the head is replaced unless it has as many outputs.
        format: "dense" holds the effective weights, whose zeros a `ZeroMask` keeps; "str" goes
            on learning the thresholds; None takes what the file holds.
        settings: cache folder, registries, network switches; from the environment by default.

    Raises:
        StrzooError: as `strzoo.load`.
    """
    model = load(name_or_file, format=format, num_classes=num_classes, settings=settings)
    return model.train()


class ZeroMask:
    """Keeps the zero weights of a network zero: the sparsity it was loaded with.

    Taken from the effective weights of convolutions and linear layers, dense and sparse ones. A
    new head has no zeros and stays free. Call `apply` after each optimizer step: whatever the
    optimizer, its momentum or its decay did, the zeros are zeros again.

    Args:
        model: the network with its zeros; not wrapped by DDP or `compile`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = prunable_layers(model)
        with torch.no_grad():
            zeros = {name: _effective(layer) == 0 for name, layer in self._layers.items()}
            self._zeros = {name: zero for name, zero in zeros.items() if bool(zero.any())}
        self.apply()

    @property
    def sparsity(self) -> float:
        """Percent of the weights that are held at zero."""
        total = sum(_weight(layer).numel() for layer in self._layers.values())
        return 100.0 * sum(int(zero.sum()) for zero in self._zeros.values()) / max(total, 1)

    @torch.no_grad()
    def apply(self) -> None:
        """Set the masked weights to zero again."""
        for name, zero in self._zeros.items():
            _weight(self._layers[name]).masked_fill_(zero, 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """The masks by layer name; True where a weight is held at zero."""
        return dict(self._zeros)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Hold these weights at zero from now on.

        Raises:
            IntegrityError: a mask belongs to no layer, or has another shape.
        """
        for name, zero in state.items():
            layer = self._layers.get(name)
            if layer is None or _weight(layer).shape != zero.shape:
                raise IntegrityError(
                    f"the mask of {name!r}, shape {tuple(zero.shape)}, fits no layer; it belongs "
                    "to another network"
                )
        self._zeros = {
            name: zero.to(_weight(self._layers[name]).device) for name, zero in state.items()
        }
        self.apply()


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _effective(layer: nn.Module) -> Tensor:
    return layer.effective_weight() if isinstance(layer, SparseLayer) else _weight(layer)


class Frozen:
    """Parts of a network that do not train: no gradients, and BatchNorm statistics held.

    Args:
        model: the network.
        patterns: module or parameter names, or globs of them (`"layer1"`, `"*.bn1"`,
            `"layer?.0.conv1.weight"`); a module stands for all it contains.

    Raises:
        UnknownNameError: a pattern matches nothing.
    """

    def __init__(self, model: nn.Module, patterns: Iterable[str]) -> None:
        modules = {name: module for name, module in model.named_modules() if name}
        parameters = dict(model.named_parameters(remove_duplicate=False))
        frozen: dict[str, nn.Parameter] = {}
        self._normalisations: list[nn.Module] = []
        for pattern in patterns:
            matched = fnmatch.filter(modules, pattern)
            single = fnmatch.filter(parameters, pattern)
            if not matched and not single:
                raise UnknownNameError(
                    f"nothing to freeze matches {pattern!r}; top-level parts are "
                    f"{', '.join(name for name, _ in model.named_children())}"
                )
            frozen.update({name: parameters[name] for name in single})
            for name in matched:
                inside = dict(modules[name].named_parameters(name, remove_duplicate=False))
                frozen.update(inside)
                self._normalisations += [
                    m for m in modules[name].modules() if isinstance(m, _NormBase)
                ]
        for parameter in frozen.values():
            parameter.requires_grad_(False)
        self.parameters = [name for name in parameters if name in frozen]
        self.hold()

    def hold(self) -> None:
        """Keep the frozen BatchNorms in evaluation mode; call after each `model.train()`."""
        for module in self._normalisations:
            module.eval()
