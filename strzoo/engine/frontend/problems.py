"""Problems of a graph that cannot be read, collected node by node and reported together."""

from __future__ import annotations

from collections.abc import Iterable

from strzoo.engine.ir.parts import Problem
from strzoo.errors import UsageError

_MOST_OPERATORS, _LONGEST_NAME, _LONGEST_REASON = 16, 60, 120


class Unsupported(Exception):  # noqa: N818  it never leaves the engine's front end
    """A node cannot be read, for the reason in the text ("" if it is the operator itself).

    `node` is named instead of the one that is being read, if that one is to blame.
    """

    def __init__(self, reason: str = "", node: tuple[str, str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node


class OpenSizeError(UsageError):
    """The file leaves the size of the images open, and none is given."""


class Outside(Exception):  # noqa: N818
    """A node uses what onnxruntime makes in a form that the engine cannot read."""


class Whole(Exception):  # noqa: N818
    """onnxruntime has to run the network as a whole, because of `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.reason)
        self.problem = problem


def describe_problems(problems: Iterable[Problem]) -> str:
    """One line of bounded length: each operator once, with one place, its reason and its count.

    The place is that of the first node with a reason: an operator that is not known at all has
    none, one that is known says what is wrong with this node.
    """
    by_operator: dict[str, list[Problem]] = {}
    for problem in problems:
        found = by_operator.setdefault(problem.operator, [])
        if problem not in found[-1:]:
            found.append(problem)
    shown = []
    for operator, found in list(by_operator.items())[:_MOST_OPERATORS]:
        first = found[0]
        count = len({problem.node for problem in found})
        said = [first.reason[:_LONGEST_REASON]] if first.reason else []
        said += [f"{count} nodes"] if count > 1 else []
        details = f" ({'; '.join(said)})" if said else ""
        shown.append(f"{_cut(operator)} at {_cut(first.node)}{details}")
    left = len(by_operator) - len(shown)
    return "; ".join(shown) + (f"; and {left} more operators" if left > 0 else "")


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
