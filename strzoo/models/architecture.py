"""Architecture: all that strzoo knows about one kind of network, as one record.

A new architecture is a new file in this folder with a tuple `ARCHITECTURES`, or a call of
`register_architecture` from anywhere; everything else (create_model, checkpoints, reports,
conversion, evaluation, export) reads the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from strzoo.zoo.registry import Preprocessing

Options = Mapping[str, Any]
State = Mapping[str, Tensor]
ImageSize = tuple[int, int, int]  # channels, height, width


def _same_key(key: str) -> str:
    return key


def _imagenet_size(options: Options) -> ImageSize:
    return 3, 224, 224


def _no_options(state: State, declared: Options) -> dict[str, Any] | None:
    return None


def _usual(options: Options) -> Preprocessing | None:
    return None


@dataclass(frozen=True)
class ForeignLayout:
    """How another library names the entries of the same network.

    Args:
        library: its name, as the `layout` of `save_checkpoint`.
        creation: the code that creates its network, as text for people.
        create: that code: the number of classes in, the network out. It imports the library.
        rename: our key to theirs.
        head: their name of the classifier, a linear layer with a bias.
        marks: keys that only files of this layout have; () if the keys are ours.
        options: what the library's network has of the options of ours.
    """

    library: str
    creation: str
    create: Callable[[int], nn.Module]
    rename: Callable[[str], str] = _same_key
    head: str = "fc"
    marks: tuple[str, ...] = ()
    options: Options = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Architecture:
    """One architecture of the zoo.

    Args:
        name: what `create_model` takes: lower-case letters and digits.
        published: the `arch` field of published checkpoints.
        build: the network from `num_classes`, `conv` (the type of every convolution, called as
            `nn.Conv2d` is) and the options. Its classifier is a 1x1 convolution.
        options: further keyword arguments of `build`, with their defaults. Where one cannot be
            told from keys and shapes, the network has an attribute of that name.
        recognise: the options of the network that a clean state dict belongs to, or None if it is
            of another architecture. It gets what the file declares as second argument.
        input_size: channels, height, width of the images a network with these options is for.
        num_classes: by default; 0 leaves it to the network.
        head: name of the classifier; "" if it is to be found from the network.
        layouts: key layouts of other libraries for these weights.
        any_options: whether `build` takes options beside those listed, and sparse layers are made
            after it: networks from elsewhere.
        preprocessing: of evaluation, of a network with these options; None is the usual one.
    """

    name: str
    published: str
    build: Callable[..., nn.Module]
    options: Options
    recognise: Callable[[State, Options], dict[str, Any] | None] = _no_options
    input_size: Callable[[Options], ImageSize] = _imagenet_size
    num_classes: int = 1000
    head: str = "fc"
    layouts: tuple[ForeignLayout, ...] = ()
    any_options: bool = False
    preprocessing: Callable[[Options], Preprocessing | None] = _usual

    def layout(self, library: str, options: Options | None = None) -> ForeignLayout | None:
        """That library's layout of these weights, of a network with these options if it has
        several; or None."""
        able = [layout for layout in self.layouts if layout.library == library]
        given = {**self.options, **(options or {})}
        fitting = (a for a in able if all(given.get(k) == v for k, v in a.options.items()))
        return next(fitting, able[0] if able else None)


def import_library(name: str, *, purpose: str) -> Any:
    """The module of an optional library, or one inside it.

    Raises:
        StrzooError: it is not installed; the message says what needs it.
    """
    from importlib import import_module

    from strzoo.errors import StrzooError, install_advice

    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise StrzooError(f"{purpose} needs {package}: {install_advice(package)}") from None
