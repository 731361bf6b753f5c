"""What callers pass to public functions, checked against the annotations before any work.

`@checked` is the border for arguments, as `borders` is for files: a wrong type is one `UsageError`
that names the function, the parameter and what is expected, instead of whatever the first line
that meets the value raises.
"""

from __future__ import annotations

import ast
import dataclasses
import errno
import functools
import inspect
import numbers
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from strzoo.errors import UsageError, one_line

P = ParamSpec("P")
R = TypeVar("R")
Test = Callable[[Any], bool]

_LARGEST = 1 << 62  # what C code behind the functions can hold
_LONGEST = 1000  # characters; no name, pattern or device has so many
_SHOWN = 60  # characters of a wrong value
# Classes that a value is recognised as by name, so that nothing of them need be imported.
_CLASSES = (
    "Budget", "Checkpoint", "FitConfig", "Limits", "Module", "Preprocessing", "Report", "Settings",
    "Tensor", "TrainConfig", "TrainedOn", "Architecture", "ModelCard", "Network", "device",
)  # fmt: skip


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, refusing arguments that are not what its annotations say.

    Checked are whole numbers, numbers, switches, texts, paths, functions, sequences and mappings
    of such, and strzoo's records; a list where a tuple is annotated becomes one. A parameter with
    any other annotation is left to the function.

    Raises:
        UsageError: an argument is of the wrong type.
        TypeError: as Python does, for a wrong number of arguments or an unknown name.
    """
    signature, called = inspect.signature(function), function.__name__
    if called == "__init__":  # people call the class
        called = function.__qualname__.split(".")[-2]
    rules = {
        name: _Rule(parameter.annotation)
        for name, parameter in signature.parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and isinstance(parameter.annotation, str)
    }

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # says it with the function's name
        for name, value in bound.arguments.items():
            if name in rules and value is not signature.parameters[name].default:
                bound.arguments[name] = rules[name].take(value, f"{called}: {name}")
        return function(*bound.args, **bound.kwargs)

    return wrapper


def check_fields(record: Any) -> None:
    """Refuse fields of a dataclass that are not what its annotations say; for `__post_init__`.

    Raises:
        UsageError: as `checked`.
    """
    for name, rule in _field_rules(type(record)).items():  # type: ignore[arg-type]
        value = getattr(record, name)
        taken = rule.take(value, f"{type(record).__name__}: {name}")
        if taken is not value:
            object.__setattr__(record, name, taken)


@functools.cache
def _field_rules(kind: Any) -> dict[str, _Rule]:
    return {field.name: _Rule(str(field.type)) for field in dataclasses.fields(kind)}


def check_path(path: str | os.PathLike[str], name: str = "") -> None:
    """Refuse what cannot be a path on this system; whether there is such a file does not matter.

    Args:
        name: of the argument, for the message.

    Raises:
        UsageError: it is empty, too long, holds a null character or half of a character, or is
            not of text.
    """
    where = f"{name} " if name else ""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not text or not isinstance(text, str):
        raise UsageError(f"{where}{show(text)} is no path")
    shown = f"{where}{one_line(text, 120)!r}"
    try:
        os.lstat(text)
    except ValueError as error:
        reason = "it holds a null character or half of a character"
        raise UsageError(f"{shown} is no path: {reason}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            reason = "too long for a path; choose a shorter one"
            raise UsageError(f"{shown} is {reason}") from error


class _Rule:
    """What one annotation allows."""

    def __init__(self, annotation: str) -> None:
        self.words: list[str] = []
        self.tests: list[Test] = []
        self.open = self.path = self.made_path = self.tuple = False
        for part in _alternatives(ast.parse(annotation, mode="eval").body):
            self._add(part)

    def take(self, value: Any, name: str) -> Any:
        """`value` as the function gets it.

        Raises:
            UsageError: the annotation does not allow it.
        """
        if self.path and isinstance(value, str | os.PathLike):
            check_path(value, name)
            return Path(value) if self.made_path else value
        if isinstance(value, str) and len(value) > _LONGEST:
            raise UsageError(f"{name} is a text of {len(value):,} characters; that is too long")
        if self.open:
            return value
        if not any(test(value) for test in self.tests):
            raise UsageError(f"{name} is {show(value)}; expected {' or '.join(self.words)}")
        if self.tuple and _is_list(value):
            return tuple(value)
        return value

    def _add(self, part: ast.expr) -> None:
        name = _name(part)
        inner = part.slice if isinstance(part, ast.Subscript) else None
        if name == "None":
            self._allow("None", lambda value: value is None)
        elif name in ("PathLike", "Path"):
            self.path, self.made_path = True, name == "Path"
            self.words = [word for word in self.words if word != _TEXT] + ["a path"]
        elif name in _PLAIN:
            self._allow(_PLAIN[name][0], _PLAIN[name][2])
        elif name == "Callable":
            self._allow("a function", callable)
        elif name in _CLASSES:
            self._allow(f"a {name}", functools.partial(_is_named, name))
        elif name == "Mapping":
            self._add_mapping(inner)
        elif name in ("tuple", "Sequence", "Iterable") and inner is not None:
            self.tuple |= name == "tuple"
            self._add_sequence(inner, Iterator if name == "Iterable" else ())
        else:
            self.open = True

    def _add_sequence(self, inner: ast.expr, unseen: Any) -> None:
        """`unseen`: classes whose items cannot be looked at without taking them."""
        parts = _alternatives(inner.elts[0] if isinstance(inner, ast.Tuple) else inner)
        kinds = ["Path" if name == "PathLike" else name for name in map(_name, parts)]
        if kinds[-1] not in _PLAIN:
            self.open = True
            return
        _, many, test = _PLAIN[kinds[-1]]
        self._allow(
            f"a list of {many}",
            lambda value: isinstance(value, unseen) or (_is_list(value) and all(map(test, value))),
        )

    def _add_mapping(self, inner: ast.expr | None) -> None:
        parts = inner.elts if isinstance(inner, ast.Tuple) else []
        tests = [_PLAIN[n][2] if (n := _name(part)) in _PLAIN else None for part in parts]

        def fits(value: Any) -> bool:
            return isinstance(value, Mapping) and all(
                test is None or test(part)
                for item in value.items()
                for test, part in zip(tests, item, strict=False)
            )

        self._allow("a mapping", fits)

    def _allow(self, words: str, test: Test) -> None:
        self.words.append(words)
        self.tests.append(test)


def show(value: Any) -> str:
    """A value as an error may name it: itself if that is short, else its type."""
    if value is None or isinstance(value, bool | int | float | str):
        return one_line(repr(value), _SHOWN)
    kind = one_line(type(value).__name__, _SHOWN)
    if isinstance(value, list | tuple | set | dict) and len(value) < 4:
        return f"the {kind} {one_line(repr(value), _SHOWN)}"
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _alternatives(node: ast.expr) -> list[ast.expr]:
    """The parts of `A | B | C`."""
    if isinstance(node, ast.BinOp):
        return [*_alternatives(node.left), *_alternatives(node.right)]
    return [node]


def _name(node: ast.expr) -> str:
    """The last part of a dotted name."""
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant):
        return str(node.value)
    return node.id if isinstance(node, ast.Name) else ""


def _is_int(value: Any) -> bool:
    return (
        isinstance(value, numbers.Integral)
        and not isinstance(value, bool)
        and abs(int(value)) < _LARGEST
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return not isinstance(value, numbers.Integral) or abs(int(value)) < _LARGEST


def _is_switch(value: Any) -> bool:
    if isinstance(value, bool | numbers.Integral):
        return value in (0, 1)
    return type(value).__name__ in ("bool", "bool_")  # NumPy's


def _is_list(value: Any) -> bool:
    if not isinstance(value, Collection) or isinstance(value, str | bytes | Mapping):
        return False
    return getattr(value, "ndim", 1) == 1  # of an array or tensor


def _is_named(name: str, value: Any) -> bool:
    return any(kind.__name__ == name for kind in type(value).__mro__)


_TEXT = "a text"
# One of them, many of them, and what one is.
_PLAIN: dict[str, tuple[str, str, Test]] = {
    "int": ("a whole number", "whole numbers", _is_int),
    "float": ("a number", "numbers", _is_number),
    "bool": ("True or False", "True or False", _is_switch),
    "str": (_TEXT, "texts", lambda value: isinstance(value, str)),
    "Path": ("a path", "paths", lambda value: isinstance(value, str | os.PathLike)),
}
