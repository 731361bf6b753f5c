"""What to deploy: an id, a file, a Checkpoint or any network, as one dense network on the CPU."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from strzoo.analysis.report import is_file_argument
from strzoo.checkpoint import Checkpoint, identify, read_checkpoint
from strzoo.errors import IntegrityError, UsageError
from strzoo.hub.load import weights_path
from strzoo.settings import Settings
from strzoo.sparse.sparsify import to_dense_
from strzoo.zoo.registry import ModelCard, Preprocessing, get_card, load_registry

Model = nn.Module | Checkpoint | str | os.PathLike[str]
# What the published networks were evaluated with; for networks that have no card.
PREPROCESSING = Preprocessing(
    resize=256,
    crop=224,
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


@dataclass(frozen=True)
class Target:
    """A dense fp32 network in evaluation mode on the CPU, and what is known about it."""

    name: str
    network: nn.Module
    architecture: str
    card: ModelCard | None
    input_size: tuple[int, int, int]
    path: Path | None = None  # the checkpoint file

    @property
    def preprocessing(self) -> Preprocessing:
        return self.card.preprocessing if self.card else PREPROCESSING


def resolve_target(
    model: Model,
    input_size: tuple[int, ...] | None = None,
    *,
    settings: Settings | None = None,
) -> Target:
    """The network that `model` means, with sparse layers turned into plain ones.

    Args:
        model: a model id, a checkpoint file, a `Checkpoint`, or any `nn.Module` (copied).
        input_size: channels, height, width; by default what the network was made for: 32x32 for
            resnet20 and small stems, else 224x224.

    Raises:
        UsageError: the input size is not three positive numbers, or an ONNX file is given.
        UnknownNameError, OfflineError, NetworkError, IntegrityError: as `strzoo.load`.
    """
    if input_size is not None and (len(input_size) != 3 or min(input_size) < 1):
        raise UsageError(f"input size {input_size} is not (channels, height, width)")
    settings = settings or Settings.from_env()
    card, path = None, None
    if isinstance(model, nn.Module):
        name = architecture = type(model).__name__
        network = to_dense_(copy.deepcopy(model))
        made_for = (3, 224, 224)
    else:
        if isinstance(model, str | os.PathLike) and not is_file_argument(os.fspath(model)):
            card = get_card(os.fspath(model), settings=settings)
            name, architecture, made_for = card.id, card.architecture, (3, 224, 224)
            path = weights_path(card.id, "dense", settings)
            checkpoint = read_checkpoint(path, architecture=card.architecture)
            network = checkpoint.build_model("dense")
        else:
            checkpoint = _read(model)
            card = _find_card(checkpoint, settings)
            spec = checkpoint.spec
            made_for = spec.input_size
            name = card.id if card else spec.architecture
            architecture = spec.architecture
            network, path = checkpoint.build_model("dense"), checkpoint.path
    input_size = made_for if input_size is None else input_size
    network = network.to(device="cpu", dtype=torch.float32).requires_grad_(False).eval()
    channels, height, width = input_size
    return Target(name, network, architecture, card, (channels, height, width), path)


def _read(model: Checkpoint | str | os.PathLike[str]) -> Checkpoint:
    if isinstance(model, Checkpoint):
        return model
    if os.fspath(model).endswith(".onnx"):
        raise UsageError(f"{os.fspath(model)} is an ONNX file already; give an id or a checkpoint")
    return read_checkpoint(model)


def _find_card(checkpoint: Checkpoint, settings: Settings) -> ModelCard | None:
    try:
        return identify(checkpoint, load_registry(settings))[0]
    except IntegrityError:  # the user's own network
        return None
