"""Ready configurations: the digits, and every STR row of the paper's FastGRNN tables."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from strzoo.errors import UnknownNameError
from strzoo.rnn.config import RNNConfig
from strzoo.rnn.parsing import read_config


@dataclass(frozen=True)
class PaperRow:
    """A row of the STR paper's Tables 3 and 12: top-1 in percent at these ranks, with the ranks
    fixed beforehand (vanilla) and learned (STR), and the weight decay of m and s for the latter."""

    dataset: str
    rank_w: int
    rank_u: int
    fixed_top1: float
    learned_top1: float
    weight_decay: float

    @property
    def name(self) -> str:
        return f"{self.dataset}_{self.rank_w}_{self.rank_u}"


PAPER_ROWS = (
    PaperRow("google12", 12, 40, 92.79, 94.45, 0.001),
    PaperRow("google12", 11, 35, 92.86, 94.42, 0.001),
    PaperRow("google12", 10, 31, 92.86, 94.25, 0.002),
    PaperRow("google12", 9, 24, 93.18, 94.45, 0.005),
    PaperRow("har2", 9, 8, 94.06, 95.76, 0.001),
    PaperRow("har2", 9, 7, 93.15, 95.62, 0.001),
    PaperRow("har2", 8, 7, 94.88, 95.59, 0.001),
)
# At full rank; the text of the paper says 92.60 for Google-12.
PAPER_FULL_RANK = {"google12": 92.30, "har2": 96.10}

_BASES = {
    "digits": RNNConfig(
        about="the bundled digits read row by row, ranks learned; half a minute",
        optimizer="sgd", learning_rate=0.1, weight_decay=1e-2, epochs=100, milestones=(67.0,),
    ),
    "google12": RNNConfig(
        about="FastGRNN paper: 12 words, 99 steps of 32 features",
        dataset="google12", hidden_size=100, epochs=300, milestones=(200.0,),
    ),
    "har2": RNNConfig(
        about="FastGRNN paper: 2 activities, 128 steps of 9 signals",
        dataset="har2", hidden_size=80, epochs=300, milestones=(200.0,),
    ),
}  # fmt: skip


def list_recipes() -> dict[str, RNNConfig]:
    """All recipes by name.

    Returns:
        `digits`; `google12_full`, `har2_full`; DATASET_RANKW_RANKU for each row of the paper, which
        learns its ranks with that row's weight decay.
    """
    found = {"digits": _BASES["digits"]}
    for name, top1 in PAPER_FULL_RANK.items():
        base = _BASES[name]
        about = f"{base.about}; full rank, paper {top1:.2f} %"
        found[f"{name}_full"] = replace(base, about=about, rank_w=None, rank_u=None)
    for row in PAPER_ROWS:
        base = _BASES[row.dataset]
        about = (
            f"{base.about}; paper: ranks {row.rank_w} and {row.rank_u} learned, "
            f"{row.learned_top1:.2f} % (fixed {row.fixed_top1:.2f})"
        )
        found[row.name] = replace(base, about=about, weight_decay=row.weight_decay)
    return found


def load_recipe(name: str) -> RNNConfig:
    """The recipe of that name, or the configuration in a YAML file.

    Args:
        name: of a recipe; or a path that ends in .yaml or .yml.

    Returns:
        The configuration.

    Raises:
        UnknownNameError: there is none; the nearest are named.
        StrzooError: the file cannot be read, as `strzoo.rnn.parsing.read_config`.
    """
    recipes = list_recipes()
    if name in recipes:
        return recipes[name]
    if name.endswith((".yaml", ".yml")):
        return read_config(Path(name))
    nearest = difflib.get_close_matches(name, recipes, n=3, cutoff=0.3) or list(recipes)
    raise UnknownNameError(f"no FastGRNN recipe {name!r}; try {', '.join(nearest)}")
