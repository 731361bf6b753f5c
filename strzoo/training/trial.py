"""A network tried on blank images, in both modes, before anything of a run is written.

Networks of one's own and of libraries take other images, or give other things, than the loop needs:
what they do not do is said before the first step, and by `--dry-run`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.borders import shorten_cause
from strzoo.data.images import check_crop
from strzoo.devices import is_out_of_memory
from strzoo.errors import StrzooError, UsageError
from strzoo.sparse.selection import CONVOLUTIONS, prunable_layers
from strzoo.training.answers import NAME, is_too_few, read_logits, too_few
from strzoo.training.builders import Network
from strzoo.training.random_state import preserved_randomness

Context = Callable[[], contextlib.AbstractContextManager[Any]]


def blank_images(
    count: int,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Zeros [count, *shape] on the device.

    Raises:
        UsageError: the limits of the environment allow no image of that size.
        StrzooError: there is no memory for them.
    """
    if len(shape) == 3:
        check_crop(max(shape[1:]))
    try:
        return torch.zeros(count, *shape, device=device, dtype=dtype)
    except RuntimeError as error:
        raise _explain(error, f"{count} images of shape {shape}", "") from error


@torch.no_grad()
def count_outputs(model: nn.Module, images: Tensor) -> int:
    """Classes of which `model` gives scores in evaluation mode; it is left as it was.

    Args:
        model: on the device of the images.
        images: [N, C, H, W], blank ones too.

    Raises:
        UsageError: it does not run on such images, or gives no logits.
        StrzooError: there is no memory for them.
    """
    with untouched(model):
        return int(_run(model.eval(), images, "").shape[1])


def try_network(
    network: Network,
    images: Tensor,
    *,
    classes: int,
    context: Context = contextlib.nullcontext,
    processes: int = 1,
    advice: str = "give it two images or more",
) -> tuple[str, ...]:
    """Run the network in evaluation mode, on one image, and in training mode, on all; it is left as
    it was.

    Args:
        network: on the device of the images.
        images: blank ones, as many as the smallest part of a step has.
        classes: that it has to tell apart.
        context: to run it in, for its precision.
        processes: that train together.
        advice: what to change if they are too few.

    Returns:
        Notes worth reading.

    Raises:
        UsageError: it does not run on such images, gives no logits, or those of other classes;
            nothing of them can be trained.
        StrzooError: there is no memory for them.
    """
    model, notes = network.model, []
    with untouched(model):
        model.eval()
        with torch.no_grad(), context():
            found = int(_run(model, images[:1], "").shape[1])
        if found != classes:
            raise UsageError(
                f"{NAME} gives scores of {found} classes, the data has {classes}; let its last "
                f"layer have {classes} outputs (a function gets num_classes if it takes it)"
            )
        network.train()
        kept: list[Any] = []
        with torch.enable_grad(), context():
            logits = _run(model, images, " in training mode", advice, kept.append)
        if logits.shape != (len(images), classes):
            raise UsageError(
                f"{NAME} gives {tuple(logits.shape)} for {len(images)} images in training mode, "
                f"not logits {(len(images), classes)}"
            )
        if not logits.requires_grad:
            raise UsageError(
                f"{NAME} gives logits that depend on nothing that is trained: its forward detaches "
                "them or runs without gradients; take torch.no_grad, inference_mode and detach out"
            )
        if not isinstance(kept[0], Tensor):
            notes.append(_describe_rest(model, kept[0]))
            if processes > 1:
                _check_all_used(model, logits)
    return tuple(notes)


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Leave modes and buffers of `model`, BatchNorm's statistics among them, and the random numbers
    of the caller as they were."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [
        (module, name, value, value.clone())
        for module in modules
        for name, value in module._buffers.items()
        if value is not None
    ]
    try:
        with preserved_randomness():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        with torch.no_grad():
            for module, name, value, before in buffers:
                module._buffers[name] = value.copy_(before)


def _run(
    model: nn.Module,
    images: Tensor,
    mode: str,
    advice: str = "",
    keep: Callable[[Any], object] = lambda output: None,
) -> Tensor:
    shape = tuple(images.shape[1:])
    what = "an image" if len(images) == 1 else f"{len(images)} images"
    try:
        output = model(images)
    except StrzooError:
        raise
    except Exception as error:  # a network of one's own raises what it likes
        if is_too_few(error):
            raise too_few(images, advice) from error
        _check_channels(model, images, error)
        text = f"{what} of shape {shape} and type {images.dtype}{mode}"
        raise _explain(error, text, _hint(model, images)) from error
    keep(output)
    return read_logits(output, NAME + mode)


def _explain(error: Exception, what: str, hint: str) -> StrzooError:
    if is_out_of_memory(error):
        return StrzooError(f"out of memory with {what}; take smaller images (image_size)")
    return UsageError(f"{NAME} does not run on {what}: {shorten_cause(error, 160)}{hint}")


def _check_channels(model: nn.Module, images: Tensor, error: Exception) -> None:
    """Raise a UsageError if the network is one for images of another number of channels."""
    layers = prunable_layers(model).items()
    first = next(((n, m) for n, m in layers if isinstance(m, CONVOLUTIONS)), None)
    if first is None or images.dim() != 4 or first[1].in_channels == images.shape[1]:
        return
    given, wanted = _spell(images.shape[1]), _spell(first[1].in_channels)
    raise UsageError(
        f"the images have {given}, and the first convolution of {NAME}, {first[0]}, takes "
        f"{wanted}: build it for {given}, or give it images of {wanted}"
    ) from error


def _hint(model: nn.Module, images: Tensor) -> str:
    """What to change, where the network's layers tell it."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {images.dtype}
    if kinds:
        return f"; its weights are {', '.join(map(str, kinds))}: make them float32 by .float()"
    if getattr(model, "aux_logits", False) is True:
        return "; model_args.aux_logits=false leaves its auxiliary classifiers out"
    return ""


def _spell(channels: int) -> str:
    return {1: "one channel", 3: "three channels"}.get(channels, f"{channels} channels")


def _describe_rest(model: nn.Module, output: Any) -> str:
    hint = ""
    if getattr(model, "aux_logits", False) is True:
        hint = "; model_args.aux_logits=false leaves its auxiliary classifiers out"
    return (
        f"{NAME} gives a {type(output).__name__} in training, of which the class scores alone are "
        f"trained{hint}"
    )


def _check_all_used(model: nn.Module, logits: Tensor) -> None:
    """Raise a UsageError if the scores do not depend on all that is trained: processes wait for the
    gradients of each other."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(logits.sum(), [p for _, p in named], allow_unused=True)
    unused = [name for (name, _), gradient in zip(named, found, strict=True) if gradient is None]
    if unused:
        more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
        raise UsageError(
            f"{unused[0]}{more} gets no gradient from the class scores, and several processes wait "
            "for the gradients of all; leave such parts out of the network, or freeze= them"
        )
