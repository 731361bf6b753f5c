"""The tables of the STR paper (arXiv:2002.03231) as data: results, hyperparameters, ranks.

The figures are in paper.json, exactly as printed. Beside a result stand the model, the budget and
the recipe of strzoo that belong to it, where there are such. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from strzoo.arguments import checked
from strzoo.errors import IntegrityError, UnknownNameError
from strzoo.strict_json import build_record, read_json

SCHEMA = 1
_FILE = Path(__file__).resolve().parent / "paper.json"


@dataclass(frozen=True)
class PaperResult:
    """A row of a result table. `top1` and `sparsity` are percent; `params` and `flops` are printed
    texts such as "2.49M" (FLOPs are multiply-accumulates, None where the paper prints none).

    `dense` names the layers that the method keeps dense, in the paper's words. `model` is an id of
    the zoo, `budget` and `recipe` are shipped names. `uniform` is the percent of zeros of each
    layer outside the patterns `keep_dense`, for rows whose budget is no file.
    """

    architecture: str
    method: str
    top1: float
    params: str
    sparsity: float
    flops: str | None
    dense: tuple[str, ...] = ()
    model: str | None = None
    budget: str | None = None
    recipe: str | None = None
    uniform: float | None = None
    keep_dense: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperHyperparameters:
    """What STR was trained with to reach `sparsity` percent: weight decay, initial threshold
    parameter s, and the recipe that holds both."""

    architecture: str
    sparsity: float
    weight_decay: float
    s_init: float
    recipe: str


@dataclass(frozen=True)
class PaperRank:
    """FastGRNN at one pair of ranks: accuracy in percent with ranks fixed beforehand and with
    learned ones, or the weight decay that leads to these ranks; and the recipe that learns them."""

    dataset: str
    rank_w: int
    rank_u: int
    recipe: str
    fixed: float | None = None
    learned: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper; one of the three kinds of rows is not empty."""

    number: str
    title: str
    notes: tuple[str, ...] = ()
    results: tuple[PaperResult, ...] = ()
    hyperparameters: tuple[PaperHyperparameters, ...] = ()
    ranks: tuple[PaperRank, ...] = ()

    def __post_init__(self) -> None:
        if sum(map(bool, (self.results, self.hyperparameters, self.ranks))) != 1:
            raise IntegrityError(f"table {self.number} must have rows of exactly one kind")

    @property
    def rows(self) -> tuple[PaperResult | PaperHyperparameters | PaperRank, ...]:
        """The rows, of whichever kind."""
        return self.results or self.hyperparameters or self.ranks


@dataclass(frozen=True)
class Paper:
    """All tables that strzoo holds, and where they are from."""

    schema: int
    source: str
    tables: tuple[PaperTable, ...]


@lru_cache(maxsize=1)
def read_paper() -> Paper:
    """The shipped tables."""
    paper = build_record(Paper, read_json(_FILE), _FILE.name)
    if paper.schema != SCHEMA:
        raise IntegrityError(f"{_FILE.name}: schema {paper.schema} is not {SCHEMA}")
    return paper


def list_paper_tables() -> list[str]:
    """The numbers of the paper's tables that `load_paper_table` knows."""
    return [table.number for table in read_paper().tables]


@checked
def load_paper_table(number: str | int) -> PaperTable:
    """A table of the paper by its number.

    Args:
        number: "1" or 1, say; one of `list_paper_tables()`.

    Returns:
        The rows as printed.

    Raises:
        UnknownNameError: strzoo has no table of that number.
    """
    wanted = str(number).strip().lower().removeprefix("table").strip()
    for table in read_paper().tables:
        if table.number == wanted:
            return table
    raise UnknownNameError(
        f"no table {str(number)!r}; choose from {', '.join(list_paper_tables())} (the budgets of "
        "the appendix: strzoo budgets list)"
    )


@lru_cache(maxsize=1)
def _by_recipe() -> dict[str, tuple[PaperTable, PaperResult]]:
    found: dict[str, tuple[PaperTable, PaperResult]] = {}
    for table in read_paper().tables:
        for row in table.results:
            if row.recipe is not None:
                found.setdefault(row.recipe, (table, row))
    return found


def find_paper_result(recipe: str) -> PaperResult | None:
    """What the paper reports for the experiment that `recipe` repeats; None for other recipes."""
    found = _by_recipe().get(recipe)
    return None if found is None else found[1]


def describe_result(recipe: str) -> str:
    """One line on the experiment that `recipe` repeats: table, figures. Empty for other recipes."""
    if recipe not in _by_recipe():
        return ""
    table, row = _by_recipe()[recipe]
    flops = "" if row.flops is None else f", {row.flops} FLOPs"
    return (
        f"{row.method}: {row.top1:.2f} % top-1 at {row.sparsity:.2f} % sparsity, {row.params} "
        f"params{flops} (arXiv:2002.03231, Table {table.number})"
    )
