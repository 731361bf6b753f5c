"""What a checkpoint holds once read: a clean state dict and the network it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.checkpoint.recognise import THRESHOLD
from strzoo.data.preprocessing import check_preprocessing
from strzoo.errors import IntegrityError, UsageError
from strzoo.models.heads import count_outputs
from strzoo.models.spec import ModelSpec
from strzoo.sparse.blocks import sparse_weight
from strzoo.sparse.sparsify import sparsify_, to_dense_
from strzoo.strict_json import build_record
from strzoo.zoo.registry import Preprocessing

_REMEMBERED = "strzoo_trained_on"  # attribute of networks: plain values, as they may be pickled


@dataclass(frozen=True)
class TrainedOn:
    """The data that a network was trained on; files keep it as `strzoo.trained_on`.

    Args:
        input_size: channels, height and width that the network saw, in pixels.
        preprocessing: of its evaluation, from image files; None if it was trained on tensors.
        class_names: of the outputs, in order; () if they are not known.

    Raises:
        IntegrityError: a value is out of range.
    """

    input_size: tuple[int, int, int]
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.input_size) < 1:
            raise IntegrityError(f"input_size {self.input_size} must be positive")
        if self.preprocessing is not None:
            try:
                check_preprocessing(self.preprocessing)
            except UsageError as error:
                raise IntegrityError(str(error)) from None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as files hold them."""
        found = asdict(self)
        found["input_size"] = list(self.input_size)
        found["class_names"] = list(self.class_names)
        if self.preprocessing is not None:
            found["preprocessing"]["mean"] = list(self.preprocessing.mean)
            found["preprocessing"]["std"] = list(self.preprocessing.std)
        return found


def recall_data(network: nn.Module) -> TrainedOn | None:
    """The data that a network from `Checkpoint.build_model` was trained on; None of others.

    The names of the classes are left out where the network has got another classifier since.
    """
    found = getattr(network, _REMEMBERED, None)
    if not isinstance(found, dict):
        return None
    fields = dict(found)
    head = dict(network.named_modules()).get(str(fields.pop("head", "")))
    made = build_record(TrainedOn, fields, _REMEMBERED)
    kept = isinstance(head, nn.Conv2d | nn.Linear) and count_outputs(head) == len(made.class_names)
    return made if kept else replace(made, class_names=())


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A state dict with plain keys (no `module.`), checked to be complete and finite.

    `format` is "str" (weights and thresholds) or "dense". `metadata` holds the plain values
    stored beside the weights (epoch, best_acc1, ...). `trained_on` is None for files that do not
    say it. `notes` say, one line each, what reading took, stripped, folded or converted; the
    published form needs none. `block` is the number of input channels whose weights become zero
    together; the original code knows 1 alone.
    """

    spec: ModelSpec
    format: str
    state_dict: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    trained_on: TrainedOn | None = None
    notes: tuple[str, ...] = ()
    block: int = 1

    def __repr__(self) -> str:
        where = "" if self.path is None else f", {self.path}"
        return (
            f"Checkpoint({self.architecture}, {self.format}, {len(self.state_dict)} tensors{where})"
        )

    def __post_init__(self) -> None:
        object.__setattr__(self, "state_dict", MappingProxyType(dict(self.state_dict)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    @property
    def architecture(self) -> str:
        return self.spec.architecture

    def declaration(self) -> dict[str, Any]:
        """The `strzoo` entry of its file: the network, and what weights alone do not tell."""
        found = self.spec.as_dict()
        if self.format == "str":
            layers = self.spec.layers()
            dense = [name for name in layers if name + THRESHOLD not in self.state_dict]
            if dense:
                found["dense_layers"] = dense
        if self.block > 1:
            found["block"] = self.block
        if self.trained_on is not None:
            found["trained_on"] = self.trained_on.as_dict()
        return found

    def effective_weights(self) -> dict[str, Tensor]:
        """The sparse weight of each convolution and linear layer, by layer name."""
        weights = {}
        for layer in self.spec.layers():
            weight = self.state_dict[f"{layer}.weight"]
            threshold = self.state_dict.get(layer + THRESHOLD)
            weights[layer] = (
                weight
                if threshold is None
                else sparse_weight(weight, threshold.sigmoid(), self.block)
            )
        return weights

    def thresholds(self) -> dict[str, float]:
        """The threshold g(s) of each STR layer by name (the mean of several); {} if dense."""
        others = self.spec.aliases()  # a layer in several places has one threshold
        return {
            name: float(value.sigmoid().mean())
            for key, value in self.state_dict.items()
            if key.endswith(THRESHOLD) and (name := key.removesuffix(THRESHOLD)) not in others
        }

    def sparsity(self) -> float:
        """Percent of zeros among the effective convolution and classifier weights."""
        zeros = total = 0
        for weight in self.effective_weights().values():
            total += weight.numel()
            zeros += weight.numel() - int(torch.count_nonzero(weight))
        return 100.0 * zeros / total if total else 0.0

    def build_model(self, format: str | None = None) -> nn.Module:
        """The network with these weights, in evaluation mode.

        Args:
            format: "str" to keep the thresholds, "dense" for plain convolutions that hold the
                effective weights; by default this checkpoint's own format.

        Raises:
            IntegrityError: "str" is asked of a dense checkpoint.
        """
        format = format or self.format
        if format == "str" and self.format != "str":
            raise IntegrityError(
                f"{self.path or 'this checkpoint'} is dense: it has no thresholds; "
                "use format='dense'"
            )
        model = self._build_empty()
        model.load_state_dict(dict(self.state_dict), strict=True, assign=True)
        # A read-only or memory-mapped source must not be written to by training.
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.detach().clone()
        if format == "dense":
            to_dense_(model)
        if self.trained_on is not None:
            setattr(model, _REMEMBERED, {**self.trained_on.as_dict(), "head": self.spec.head})
        return model.requires_grad_(True).eval()

    def _build_empty(self) -> nn.Module:
        """The network whose parameters are still to come: nothing is initialised only to be
        overwritten, except where code may compute buffers that no file holds."""
        if self.spec.record.any_options:
            with torch.random.fork_rng(devices=[]):
                model = self.spec.build()
        else:
            with torch.device("meta"):
                model = self.spec.build()
        if self.format == "str":
            learned = self.thresholds()
            sparsify_(
                model,
                "str",
                skip=lambda name, layer: name not in learned,
                threshold=self.threshold_granularity,
                block=self.block,
            )
        return model

    @property
    def threshold_granularity(self) -> str:
        """What one threshold of this STR checkpoint covers: "layer", "filter" or "weight"."""
        for key, value in self.state_dict.items():
            if key.endswith(THRESHOLD):
                weight = self.state_dict[key.removesuffix(THRESHOLD) + ".weight"]
                if value.numel() == 1:
                    continue
                return "weight" if value.shape == weight.shape else "filter"
        return "layer"
