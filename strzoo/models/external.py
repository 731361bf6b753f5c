"""Networks from elsewhere by name: `timm:NAME`, `torchvision:NAME`, `package.module:function`.

Each becomes an `Architecture` like those of this folder. What is in a library's network, its
classifier and its layers, is found from the network; input size and preprocessing are those that
the library states for its pretrained weights.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib import import_module
from threading import get_ident
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from strzoo.errors import StrzooError, UsageError, one_line
from strzoo.models.architecture import (
    Architecture,
    ForeignLayout,
    Options,
)
from strzoo.models.external_names import LIBRARIES, runs_code
from strzoo.models.heads import find_head, replace_head_
from strzoo.models.libraries import (
    as_fetching_error,
    stated_by,
    timm_builder,
    timm_weights,
    torchvision_builder,
    torchvision_weights,
)
from strzoo.sparse.unwrap import make_plain_

FORMS = "timm:NAME, torchvision:NAME or package.module:function"
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
# They make a library read files or fetch weights; `pretrained` of a training is the way to that.
_FORBIDDEN = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
    *("checkpoint_path", "cache_dir", "weights", "weights_backbone", "progress", "num_classes"),
    *("features_only", "scriptable", "exportable", "no_jit"),
}
# Numbers and lists among the arguments that a file states; far more than any network has.
_LARGEST, _LONGEST = 1 << 12, 1 << 6
EMPTY: Mapping[str, Any] = MappingProxyType({})
_MOST_TENSORS = 1 << 14
_MOST_ELEMENTS = 1 << 31


class TooLargeError(UsageError):
    """A network has more weights than any real one. Exit code 2."""


@lru_cache(maxsize=64)
def external_architecture(name: str) -> Architecture:
    """The record of a network from elsewhere. Nothing is imported before it is asked.

    Raises:
        UsageError: the name has none of the forms.
    """
    library, _, rest = name.partition(":")
    known = library in LIBRARIES
    if not (_NAME if known else _FUNCTION).fullmatch(rest if known else name):
        raise UsageError(f"{one_line(name, 80)!r} is no network; expected {FORMS}")
    return Architecture(
        name,
        name,
        partial(_build, name),
        {},
        input_size=lambda options: stated_by(name).input_size,
        num_classes=0,
        head="",
        layouts=(_own_layout(library, rest),) if known else (),
        any_options=True,
        preprocessing=lambda options: stated_by(name).preprocessing,
    )


def _own_layout(library: str, name: str) -> ForeignLayout:
    """The keys of a library's network are that library's already."""
    call = "timm.create_model" if library == "timm" else "torchvision.models.get_model"
    return ForeignLayout(
        library,
        f"{call}({name!r})",
        lambda classes: _build(f"{library}:{name}", num_classes=classes),
    )


def _build(name: str, *, num_classes: int, conv: Any = None, **options: Any) -> nn.Module:
    """The network with random weights; `conv` is for other records: here layers are made sparse
    afterwards."""
    check_options(options, name)
    return _call(name, num_classes, options)


def _call(
    name: str, num_classes: int, options: Mapping[str, Any], weights: Mapping[str, Any] = EMPTY
) -> nn.Module:
    """The network that the library or function makes of these arguments, without wrappers and with
    plain weights: compiled, weight-normalised and the like are what training and checkpoints take
    apart.

    Args:
        name: of the network.
        num_classes: 0 leaves it to the network; a function gets it if it takes it.
        options: arguments.
        weights: further arguments that ask for pretrained weights.

    Raises:
        UsageError: the library has no such network, it does not take these arguments, or layers of
            what it gives hide their weights.
        StrzooError: the library is not installed, or the code cannot be imported.
    """
    library, _, rest = name.partition(":")
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    further = {**({"num_classes": num_classes} if num_classes else {}), **weights}
    if library == "timm":
        make: Callable[..., Any] = timm_builder(rest)
    elif library == "torchvision":
        make = torchvision_builder(rest)
    else:
        make = _function(name)
        accepted = inspect.signature(make).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            further = {key: value for key, value in further.items() if key in accepted}
    with _bounded(name):
        try:
            model = make(**given, **further)
        except StrzooError:
            raise
        except Exception as error:  # libraries and people raise what they like
            fetching = as_fetching_error(name, error) if weights else None
            raise fetching or _failure(name, options, error) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} gives {type(model).__name__}, not a torch.nn.Module")
    try:
        model = make_plain_(model)  # as checkpoints hold it
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    return model


def _failure(name: str, options: Mapping[str, Any], error: Exception) -> Exception:
    given = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "num_classes")
    return UsageError(
        f"{name} cannot be built{f' with {one_line(given, 120)}' if given else ''}: "
        f"{type(error).__name__}: {one_line(str(error))}"
    )


def check_options(options: Options, name: str, *, foreign: bool = False) -> None:
    """Raise a UsageError unless these are plain arguments for the network alone.

    Args:
        options: the arguments.
        name: of the network.
        foreign: they come from a file: numbers and lists are small, so that the network is.
    """
    for key, value in options.items():
        if key in _FORBIDDEN and not runs_code(name):
            raise UsageError(f"model_args.{key} is not an argument that {name} takes here")
        items = value if isinstance(value, list | tuple) else [value]
        if not isinstance(key, str) or not all(
            isinstance(item, str | int | float | None) for item in items
        ):
            raise UsageError(f"model_args.{key} is no plain value (a text, a number, or a list)")
        numbers = [abs(item) for item in items if isinstance(item, int | float)]
        if foreign and (len(items) > _LONGEST or not all(n <= _LARGEST for n in numbers)):
            raise UsageError(f"{name} is refused: with {key}={one_line(str(value), 40)} it is huge")


def _function(name: str) -> Callable[..., Any]:
    """The function that a name means."""
    module, _, path = name.partition(":")
    found: Any = import_code(module, name)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"{module} has no function {path!r}, which {name} names")
    function: Callable[..., Any] = found
    return function


def import_code(module: str, purpose: str) -> ModuleType:
    """A module that the user names; those of the working folder are found, too, from now on.

    Args:
        module: its dotted name.
        purpose: what names it, for messages.

    Raises:
        StrzooError: it cannot be imported.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # for good: the code may import its neighbours later
    try:
        return import_module(module)
    except Exception as error:  # the module runs
        raise StrzooError(
            f"cannot import {module}, which {purpose} is in ({type(error).__name__}: "
            f"{one_line(str(error))}); install it, or run from the folder that holds it"
        ) from error


@contextmanager
def _bounded(name: str) -> Iterator[None]:
    """Within the block a network of absurdly many tensors or weights is refused while it is made:
    files state names and arguments."""
    me, tensors, elements = get_ident(), 0, 0

    def count(module: nn.Module, key: str, parameter: Any) -> None:
        nonlocal tensors, elements
        if get_ident() != me or parameter is None:
            return
        tensors += 1
        elements += parameter.numel() if not parameter.is_meta else 0
        if tensors > _MOST_TENSORS or elements > _MOST_ELEMENTS:
            raise TooLargeError(f"{name} is refused: with these arguments it has too many weights")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def create_pretrained(
    name: str, num_classes: int, options: Options, *, offline: bool = False
) -> nn.Module:
    """A network with the weights that its library or function offers, and a new classifier if the
    number of classes differs.

    Args:
        name: of a network from elsewhere. A function gets `pretrained=True`.
        num_classes: outputs.
        options: arguments of the network.
        offline: take the weights from the library's cache alone.

    Raises:
        UsageError: there are no weights for that network.
        OfflineError: they are not in the cache.
        NetworkError: they cannot be fetched.
        StrzooError: the library is not installed, or the code cannot be imported.
    """
    check_options(options, name)
    library, _, rest = name.partition(":")
    if library == "timm":
        model = _call(name, num_classes, options, timm_weights(rest, offline=offline))
    elif library == "torchvision":
        given = torchvision_weights(rest, offline=offline)
        model = _call(name, 0, options, given)
        replace_head_(model, find_head(model), num_classes)
    else:
        accepted = inspect.signature(_function(name)).parameters
        if "pretrained" not in accepted:
            raise UsageError(f"{name} does not take pretrained, so it offers no weights")
        model = _call(name, num_classes, options, {"pretrained": True})
    return model


def outline_network(build: Callable[[], nn.Module]) -> nn.Module:
    """A network without values, to read names and shapes from; one whose code does not run on
    torch's meta device is made on the CPU. The random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build()
        except TooLargeError:
            raise
        except UsageError:
            with torch.device("cpu"):
                return build()
