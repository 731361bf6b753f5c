"""Source: one model of whatever kind, and everything that is known about it.

Each kind answers the same questions. Files are read and hashed when something first asks, once.
Nothing here imports torch or onnx before that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.data.imagenet_classes import list_classes
from strzoo.data.preprocessing import IMAGENET, SMALL, fit_channels, fit_preprocessing
from strzoo.errors import UsageError
from strzoo.settings import Settings
from strzoo.zoo.registry import ModelCard, Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from strzoo.checkpoint import Checkpoint

ImageSize = tuple[int, int, int]  # channels, height, width
IMAGENET_SIZE: ImageSize = (3, 224, 224)
_SMALL_SIDE = 64  # pixels; networks for smaller images are evaluated on whole images


class Source:
    """A model, not yet a network.

    Args:
        name: for people: the id of the published model, else of the file or the class.
        kind: "id", "checkpoint", "onnx", "plan" or "module".
        settings: cache folder, registries and network switches.
    """

    kind = ""
    _file: Path | None = None

    def __init__(self, name: str, settings: Settings) -> None:
        self._name, self.settings = name, settings

    @property
    def name(self) -> str:
        return self.card.id if self.card else self._name

    @property
    def card(self) -> ModelCard | None:
        """What is published about the model; None for anybody's own."""
        return None

    @property
    def path(self) -> Path | None:
        """The file; for an id it is fetched if it is not in the cache. None if there is none.

        Raises:
            OfflineError, NetworkError, IntegrityError: an id's file cannot be had.
        """
        return None

    @property
    def shown(self) -> str:
        """How messages call it: by its file if it has one, else by its name."""
        return str(self._file or self.name)

    @property
    def sha256(self) -> str:
        """Of the file, or of names, types, shapes and bytes of a network's state."""
        raise NotImplementedError

    @property
    def architecture(self) -> str:
        """The name of its architecture, or of its class."""
        raise NotImplementedError

    @property
    def input_size(self) -> ImageSize:
        """Channels, height, width of the images the network was made for."""
        return IMAGENET_SIZE

    @property
    def stated_preprocessing(self) -> Preprocessing | None:
        """The preprocessing that the card or the file states; None if neither does."""
        return self.card.preprocessing if self.card else None

    @property
    def preprocessing(self) -> Preprocessing:
        """The stated preprocessing, else ImageNet's for the network's input size."""
        return self.stated_preprocessing or usual_preprocessing(self.input_size)

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading it took, stripped, folded or converted; one line each."""
        return ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in order; () if they are not known."""
        card = self.card
        if card is None or card.num_classes != 1000 or card.dataset != "imagenet-1k":
            return ()
        return tuple(c.name for c in list_classes())

    @property
    def checkpoint(self) -> Checkpoint:
        """The weights, read and checked.

        Raises:
            UsageError: this kind of model has no checkpoint.
            StrzooError and its subclasses: the file cannot be had or read.
        """
        raise UsageError(f"{self.name} is {self.described}; {self.wanted}")

    described = "not a checkpoint"
    wanted = "give a model id or a checkpoint file"

    def build_network(self, format: str | None = None) -> nn.Module:
        """The network with its weights, in evaluation mode on the CPU.

        Args:
            format: "str" or "dense"; by default dense for an id, and what a file holds.

        Raises: as `checkpoint`.
        """
        return self.checkpoint.build_model(format)

    def build_dense(self) -> nn.Module:
        """A dense fp32 network of its own in evaluation mode on the CPU, without gradients."""
        import torch

        network = self.build_network("dense")
        return network.to(device="cpu", dtype=torch.float32).requires_grad_(False).eval()


def check_image_size(size: tuple[int, ...] | int | None, channels: int = 3) -> ImageSize | None:
    """`size` as channels, height, width: a side, height and width (of `channels`), or all.

    Raises:
        UsageError: it is none of these, or not positive.
    """
    if size is None:
        return None
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    sizes = (channels, *sizes) if len(sizes) == 2 else sizes
    if len(sizes) != 3 or min(sizes) < 1:
        raise UsageError(
            f"input size {size} is not a side, (height, width) or (channels, height, width)"
        )
    channels, height, width = sizes
    return channels, height, width


def usual_preprocessing(size: ImageSize) -> Preprocessing:
    """ImageNet's preprocessing for a network that takes images of `size`."""
    channels, side, _ = size
    usual = fit_preprocessing(SMALL if side < _SMALL_SIDE else IMAGENET, side)
    return fit_channels(usual, channels)
