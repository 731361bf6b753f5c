"""What a step minimises: the loss, mixed images, and what a teacher says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from strzoo.devices import autocast
from strzoo.errors import IntegrityError, UsageError, one_line
from strzoo.hub.resolve import Model, resolve
from strzoo.models.external_names import is_external
from strzoo.settings import Settings
from strzoo.training.answers import read_logits
from strzoo.training.config import TrainConfig
from strzoo.training.dotted import call_dotted

Loss = Callable[[Tensor, Tensor], Tensor]


class Objective:
    """The loss of a batch.

    With mixup or cutmix (torchvision's) the labels become shares of classes, [B, C]; a rectangle
    may be erased from each image. They draw from torch's global generator, so a resumed run draws
    the same.

    Args:
        config: the loss, how images are mixed, and the teacher's share.
        teacher: maps images to logits; None without one.

    Raises:
        UsageError, StrzooError: the loss cannot be made.
    """

    def __init__(self, config: TrainConfig, teacher: Teacher | None = None) -> None:
        self._loss = _build_loss(config)
        self._mix, self._erase = _build_mixing(config)
        self._teacher, self._share = teacher, config.distillation
        self._temperature = config.temperature

    def prepare(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] and labels [B] as the step trains on them."""
        if self._erase is not None:
            images = torch.stack([self._erase(image) for image in images])
        if self._mix is not None:
            images, labels = self._mix(images, labels)
        return images, labels

    def __call__(self, logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        """The loss of some images, a scalar.

        Args:
            logits: [B, C].
            targets: as `prepare` gives them.
            images: as `prepare` gives them, for the teacher.

        Raises:
            UsageError: a loss of one's own fails or gives no number.
        """
        loss = self._loss(logits, targets)
        if self._teacher is None:
            return loss
        return (1 - self._share) * loss + self._share * distil(
            logits, self._teacher(images), self._temperature
        )


def distil(logits: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || network), both softened by T (Hinton et al., arXiv:1503.02531), per image.

    Args:
        logits, teachers: [B, C].
        temperature: T.
    """
    ours = functional.log_softmax(logits.float() / temperature, dim=1)
    theirs = functional.log_softmax(teachers.float() / temperature, dim=1)
    found = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return temperature**2 * found


class Teacher:
    """A trained network that answers for the images of a step.

    Args:
        network: maps images to logits, or to what holds them; in evaluation mode, on the device.
        precision: it computes in.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        self.network, self._precision = network, precision

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W]."""
        with autocast(images.device, self._precision):
            return read_logits(self.network(images))


def build_teacher(
    model: Model | None,
    device: torch.device,
    precision: str,
    shape: tuple[int, ...],
    num_classes: int,
    settings: Settings | None = None,
    architecture: str = "",
) -> Teacher | None:
    """The teacher, checked against the network's task; None without a model.

    Args:
        model: a MODEL.
        device: of the run.
        precision: it computes in.
        shape: channels, height and width of an image.
        num_classes: of the run.
        settings: where its weights come from; from the environment by default.
        architecture: of the run; the user has named its code, so a teacher may be of it as well.

    Raises:
        UsageError: it has other classes, or does not run on such images.
        StrzooError and its subclasses: it cannot be had or read.
    """
    if model is None:
        return None
    settings = settings or Settings.from_env()
    source = resolve(model, settings=settings)
    try:
        network = source.build_dense()
    except IntegrityError:
        if settings.architecture or not is_external(architecture):
            raise
        source = resolve(model, settings=replace(settings, architecture=architecture))
        network = source.build_dense()
    teacher = Teacher(network.to(device), precision)
    try:
        found = tuple(teacher(torch.zeros(1, *shape, device=device)).shape)
    except UsageError as error:
        raise UsageError(f"teacher={source.name}: {error}") from error
    except Exception as error:  # a network of one's own raises what it likes
        raise UsageError(
            f"teacher={source.name} does not run on images of {'x'.join(map(str, shape))} "
            f"({one_line(str(error), 120)})"
        ) from error
    if found != (1, num_classes):
        raise UsageError(
            f"teacher={source.name} gives {found} for an image, not (1, {num_classes}): it must "
            "have the same classes"
        )
    return teacher


def _build_loss(config: TrainConfig) -> Loss:
    if config.loss == "cross_entropy":
        return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    made = call_dotted(config.loss, dict(config.loss_args), "loss")

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        try:
            found = made(logits, targets)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UsageError(
                f"loss={config.loss} fails on logits {tuple(logits.shape)} and labels "
                f"{tuple(targets.shape)}: {one_line(str(error), 120)}"
            ) from error
        if not isinstance(found, Tensor) or found.dim():
            raise UsageError(f"loss={config.loss} gives no single number; let it take the mean")
        return found

    return loss


def _build_mixing(config: TrainConfig) -> tuple[Any, Any]:
    """torchvision's transforms of a batch and of an image; None where they are left out."""
    if not (config.mixup or config.cutmix or config.random_erasing):
        return None, None
    from torchvision.transforms import v2

    classes = config.num_classes
    made: list[Any] = []
    if config.mixup:
        made.append(v2.MixUp(alpha=config.mixup, num_classes=classes))
    if config.cutmix:
        made.append(v2.CutMix(alpha=config.cutmix, num_classes=classes))
    mix = v2.RandomChoice(made) if len(made) > 1 else made[0] if made else None
    return mix, v2.RandomErasing(p=config.random_erasing) if config.random_erasing else None
