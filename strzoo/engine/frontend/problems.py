"""What stands in the way of reading a graph: collected node by node, reported at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class Unsupported(Exception):  # noqa: N818  it never leaves the engine's front end
    """A node cannot be read, for the reason in the text ("" if it is the operator itself).

    `node` is named instead of the one that is being read, if that one is to blame.
    """

    def __init__(self, reason: str = "", node: tuple[str, str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node


class Unknown(Exception):  # noqa: N818
    """A node uses the result of one that could not be read."""


@dataclass(frozen=True)
class Problem:
    """An operator that the engine lacks, one of its nodes, and what is missing."""

    operator: str
    node: str
    reason: str


def describe_problems(problems: Iterable[Problem]) -> str:
    """One line: each operator once, with the names of its nodes and the reason if there is one."""
    places: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        nodes = places.setdefault((problem.operator, problem.reason), [])
        if problem.node not in nodes:
            nodes.append(problem.node)
    return "; ".join(
        f"{operator} at {', '.join(nodes)}" + (f" ({reason})" if reason else "")
        for (operator, reason), nodes in places.items()
    )
