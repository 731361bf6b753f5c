"""Ready configurations: the digits, and every STR row of the paper's FastGRNN tables."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from strzoo.errors import StrzooError, UnknownNameError
from strzoo.rnn.config import RNNConfig
from strzoo.rnn.parsing import KEYS, read_config
from strzoo.training.parsing import KEYS as IMAGE_KEYS
from strzoo.training.parsing import read_mapping
from strzoo.zoo.paper import load_paper_table

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


_ALIASES = {"digits": "digits_fastgrnn"}
TITLE = "FastGRNN with learned rank, as in the STR paper; the digits are our own"


def list_recipes() -> dict[str, RNNConfig]:
    """All recipes by name.

    Returns:
        `google12_full`, `har2_full`; DATASET_RANKW_RANKU for each row of the paper's Tables 3 and
        12, which learns its ranks with that row's weight decay; `digits_fastgrnn`.
    """
    found = {}
    for name, top1 in PAPER_FULL_RANK.items():
        base = _BASES[name]
        about = f"{base.about}; full rank, paper {top1:.2f} %"
        found[f"{name}_full"] = replace(base, about=about, rank_w=None, rank_u=None)
    accuracies, decays = load_paper_table(3).ranks, load_paper_table(12).ranks
    for row, settings in zip(accuracies, decays, strict=True):
        assert row.recipe == settings.recipe
        assert settings.weight_decay is not None
        base = _BASES[row.dataset]
        about = (
            f"{base.about}; paper: ranks {row.rank_w} and {row.rank_u} learned, "
            f"{row.learned:.2f} % (fixed {row.fixed:.2f})"
        )
        found[row.recipe] = replace(base, about=about, weight_decay=settings.weight_decay)
    return {**found, "digits_fastgrnn": _BASES["digits"]}


def has_recipe(name: str) -> bool:
    """Whether a recipe's name, or a YAML file, is meant for these networks and not for images.

    Args:
        name: DATASET_... of the paper's FastGRNN tables, `digits_fastgrnn`, or a path that ends in
            .yaml or .yml, whose keys then tell.
    """
    if not name.endswith((".yaml", ".yml")):
        return name in list_recipes() or name.partition("_")[0] in PAPER_FULL_RANK
    try:
        return bool((KEYS.keys() - IMAGE_KEYS.keys()) & read_mapping(Path(name)).keys())
    except StrzooError:
        return False  # whoever reads it says what is wrong


def load_recipe(name: str) -> RNNConfig:
    """The recipe of that name, or the configuration in a YAML file.

    Args:
        name: of a recipe, `digits` for `digits_fastgrnn`; or a path that ends in .yaml or .yml.

    Returns:
        The configuration.

    Raises:
        UnknownNameError: there is none; the nearest are named.
        StrzooError: the file cannot be read, as `strzoo.rnn.parsing.read_config`.
    """
    recipes = list_recipes()
    if (known := _ALIASES.get(name, name)) in recipes:
        return recipes[known]
    if name.endswith((".yaml", ".yml")):
        return read_config(Path(name))
    nearest = difflib.get_close_matches(name, recipes, n=3, cutoff=0.3) or list(recipes)
    raise UnknownNameError(f"no FastGRNN recipe {name!r}; try {', '.join(nearest)}")
