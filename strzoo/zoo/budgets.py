"""Sparsity budgets: how sparse each layer is. Read, write, compare; no torch needed.

A budget file is one JSON object:

    {"schema": 1, "name": "resnet50_str_90.23", "architecture": "resnet50", "method": "str",
     "sparsity": 90.23, "source": "...", "layers": {"conv1": 59.8, ..., "fc": 64.5},
     "num_classes": 1000, "input_size": [3, 224, 224], "options": {"head_bias": true}}

`sparsity` (over all the layers) and the values of `layers` are percent of zero weights. The last
three, which files may leave out, say of which network of that architecture the budget is:
`options` are arguments of `create_model`.
`strzoo.extract_budget` makes a Budget from any model.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from strzoo.arguments import check_fields, checked
from strzoo.errors import IntegrityError, UnknownNameError
from strzoo.files import write_text
from strzoo.strict_json import build_record, read_json
from strzoo.zoo.names import resolve_name
from strzoo.zoo.registry import data_path

log = logging.getLogger(__name__)

SCHEMA = 1
_MOST_CLASSES, _MOST_PIXELS = 1 << 20, 1 << 14  # more than any real network has
_OPTIONAL = ("num_classes", "input_size", "options")  # left out of a file where they say nothing


@dataclass(frozen=True)
class Budget:
    """Sparsity, in percent, of each layer (in network order) and of all of them together.

    `num_classes`, `input_size` (channels, height, width) and `options` (arguments of
    `create_model`) are those of the network it was taken from; None, None and none where that is
    not known.
    """

    name: str
    architecture: str
    method: str
    sparsity: float
    source: str
    layers: Mapping[str, float]
    schema: int = SCHEMA
    num_classes: int | None = None
    input_size: tuple[int, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.schema != SCHEMA:
            raise IntegrityError(
                f"budget schema {self.schema} is not supported; this strzoo reads {SCHEMA}"
            )
        if not self.layers:
            raise IntegrityError(f"budget {self.name!r} has no layers")
        if self.num_classes is not None and not 1 <= self.num_classes <= _MOST_CLASSES:
            raise IntegrityError(
                f"budget {self.name!r}: num_classes is {self.num_classes}; expected 1 to "
                f"{_MOST_CLASSES:,}"
            )
        if (size := self.input_size) is not None and (
            len(size) != 3 or not all(1 <= side <= _MOST_PIXELS for side in size)
        ):
            raise IntegrityError(
                f"budget {self.name!r}: input_size is {list(size)}; expected channels, height and "
                f"width, each 1 to {_MOST_PIXELS:,}"
            )
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        for layer, percent in {"sparsity": self.sparsity, **self.layers}.items():
            if not 0 <= percent <= 100:
                raise IntegrityError(
                    f"budget {self.name!r}: {layer} is {percent}; sparsity is between 0 and 100 %"
                )

    def contradiction(self, weights: Mapping[str, int] | None = None) -> str | None:
        """Where `sparsity` is not that of the layers, a sentence that says so.

        Args:
            weights: of the layers, where they are known.
        """
        values = self.layers.values()
        low, high = min(values), max(values)
        if weights is not None and set(weights) == set(self.layers):
            zeros = sum(weights[name] * percent for name, percent in self.layers.items())
            low = high = zeros / max(sum(weights.values()), 1)
        margin = rounding(values) + 0.01
        if low - margin <= self.sparsity <= high + margin:
            return None
        found = f"{low:.2f} %" if low == high else f"{low:.2f} to {high:.2f} %"
        return (
            f"budget {self.name!r} states a sparsity of {self.sparsity:.2f} %, and its layers have "
            f"{found}; the layers count"
        )

    def warn(self, weights: Mapping[str, int] | None = None) -> None:
        """Log, once for each budget, what of its values can hardly be meant as it stands.

        Args:
            weights: as `contradiction`.
        """
        most = max(self.layers.values())
        units = (
            f"budget {self.name!r} is of {most:g} % at most; its values are percent: write 90 for "
            "a sparsity of 0.9"
        )
        doubts = {"units": units if 0 < most <= 1 else None, "total": self.contradiction(weights)}
        said: set[str] = self.__dict__.setdefault("_said", set())
        for kind, doubt in doubts.items():
            if doubt is not None and kind not in said:
                log.warning("%s", doubt)
                said.add(kind)

    def prune_rates(self) -> dict[str, float]:
        """The budget as fractions in [0, 1], as `sparsify_(prune_rate=...)` takes them."""
        self.warn()
        return {layer: percent / 100 for layer, percent in self.layers.items()}


@dataclass(frozen=True)
class BudgetDifference:
    """One layer in two budgets; `difference` is second minus first, in percentage points."""

    layer: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        return self.second - self.first


def list_budgets() -> list[str]:
    """Names of the budgets that ship with strzoo."""
    return sorted(path.stem for path in data_path("budgets").glob("*.json"))


_LEARNED = "budget.json"  # of a run folder


@checked
def load_budget(name_or_path: str | os.PathLike[str]) -> Budget:
    """A shipped budget by name (or unique prefix), or one from a `.json` file.

    Args:
        name_or_path: a name of `list_budgets`, the file, or the folder of a training run.

    Returns:
        Sparsity in percent by layer, and of all layers together.

    Raises:
        UnknownNameError: no shipped budget has that name and it is not a path.
        StrzooError, IntegrityError: the file cannot be read or is not a budget.
    """
    text = os.fspath(name_or_path)
    if (Path(text) / _LEARNED).is_file():
        return read_budget(Path(text) / _LEARNED)
    if text.endswith(".json") or os.sep in text:
        return read_budget(Path(text))
    return _shipped(resolve_name(text, list_budgets(), kind="budget"))


@lru_cache(maxsize=64)
def _shipped(name: str) -> Budget:
    return read_budget(data_path("budgets") / f"{name}.json")


def read_budget(path: str | os.PathLike[str]) -> Budget:
    """The budget in a file. Errors as `load_budget`."""
    made = build_record(Budget, read_json(Path(path)), str(path))
    made.warn()
    return made


@checked
def write_budget(budget: Budget, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write `budget` to `path` as JSON; `load_budget` gives the same budget back.

    Args:
        budget: what to write.
        path: ends in .json.
        force: overwrite an existing file.

    Returns:
        `path`.

    Raises:
        StrzooError: the destination exists (without `force`) or cannot be written.
    """
    return write_text(path, json.dumps(to_document(budget), indent=1) + "\n", force=force)


def to_document(budget: Budget) -> dict[str, object]:
    """The JSON object of a budget file."""
    values = {f.name: getattr(budget, f.name) for f in dataclasses.fields(budget)}
    known = {name: values.pop(name) for name in _OPTIONAL}
    known["options"] = dict(budget.options)
    document = {"schema": budget.schema, **values, "layers": dict(budget.layers)}
    return {**document, **{name: value for name, value in known.items() if value}}


def rounding(percents: Iterable[float]) -> float:
    """Half of the last of the digits, two decimals at most, with which a budget was printed; in
    percentage points."""
    decimals = max(len(f"{percent:.2f}".rstrip("0").partition(".")[2]) for percent in percents)
    return 0.5 * 10.0**-decimals


def is_rounded(percents: Mapping[str, float], weights: Mapping[str, int]) -> bool:
    """Whether the sparsity of layers of so many weights was rounded to 0.01 points: it has two
    decimals, and does not make whole numbers of zeros."""
    if any(p != round(p, 2) for p in percents.values()) or rounding(percents.values()) > 0.005:
        return False
    zeros = [weights[name] * percent / 100 for name, percent in percents.items()]
    return not all(math.isclose(count, round(count), abs_tol=1e-6) for count in zeros)


@checked
def compare_budgets(first: Budget, second: Budget) -> tuple[BudgetDifference, ...]:
    """The two budgets layer by layer, in network order.

    Args:
        first, second: of the same architecture.

    Returns:
        A difference per layer, in percentage points.

    Raises:
        UnknownNameError: they do not have the same layers; the first odd one is named.
    """
    for budget, other in ((first, second), (second, first)):
        for layer in budget.layers:
            if layer not in other.layers:
                raise UnknownNameError(
                    f"budget {other.name!r} has no layer {layer!r}, {budget.name!r} has; "
                    "compare budgets of one architecture"
                )
    return tuple(
        BudgetDifference(layer, percent, second.layers[layer])
        for layer, percent in first.layers.items()
    )
