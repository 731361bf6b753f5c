from __future__ import annotations

from pathlib import Path

import pytest

from strzoo.errors import IntegrityError, StrzooError, UnknownNameError, UsageError
from strzoo.rnn import RNNConfig, list_recipes, load_recipe
from strzoo.rnn.parsing import apply_overrides, dump_config, read_config


def test_texts_become_values_of_the_type_of_their_key() -> None:
    config = apply_overrides(
        RNNConfig(),
        ["rank_w=9", "rank_u=none", "bidirectional=true", "milestones=30,60.5", "clip_norm=1",
         "epochs=70", "learning_rate=1e-3", "gate=quantSigm", "epochs=80"],
    )  # fmt: skip
    assert (config.rank_w, config.rank_u, config.bidirectional) == (9, None, True)
    assert config.milestones == (30.0, 60.5)
    assert (config.epochs, config.learning_rate, config.clip_norm) == (80, 1e-3, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch=3", "unknown key 'epoch'; did you mean epochs"),
        ("epochs=3.5", "epochs='3.5' is of the wrong type; expected: a whole number"),
        ("rank_w=full", "rank_w='full' is of the wrong type; expected: learned, a whole number"),
        ("epochs", "'epochs' is not key=value"),
        ("dataset=mnist", "dataset='mnist' is not one of digits, har2"),
        ("learning_rate=0", "learning_rate=0.0 must be positive"),
        ("learning_rate=nan", "learning_rate=nan is not finite"),
        ("dataset=edgeml", "dataset=edgeml needs features=N"),
        ("target_rank_w=0", "target rank_w is 0"),
        ("bidirectional=maybe", "expected: true or false"),
    ],
)
def test_a_wrong_text_is_answered_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply_overrides(RNNConfig(), [text])


def test_every_recipe_survives_a_yaml_file(tmp_path: Path) -> None:
    for name, config in list_recipes().items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(dump_config(config))
        assert read_config(path) == load_recipe(str(path)) == load_recipe(name) == config


def test_the_paper_s_rows_are_recipes_with_its_hyperparameters() -> None:
    # shared/facts: Tables 3 and 12; 300 epochs of batches of 100, 1e-2 and a tenth after 200.
    recipe = load_recipe("google12_9_24")
    assert (recipe.dataset, recipe.hidden_size, recipe.weight_decay) == ("google12", 100, 0.005)
    assert (recipe.rank_w, recipe.rank_u, recipe.s_init) == ("learned", "learned", -10.0)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (300, 100, 1e-2)
    assert recipe.learning_rates.at(199.9) == 1e-2
    assert recipe.learning_rates.at(200) == pytest.approx(1e-3)
    har = [name for name in list_recipes() if name.startswith("har2")]
    assert har == ["har2_full", "har2_9_8", "har2_9_7", "har2_8_7"]
    assert load_recipe("har2_full").rank_u is None


def test_bad_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no FastGRNN recipe 'har2_9'; try har2_9_"):
        load_recipe("har2_9")
    path = tmp_path / "recipe.yaml"
    with pytest.raises(StrzooError, match="does not exist"):
        load_recipe(str(path))
    path.write_text("- a\n")
    with pytest.raises(IntegrityError, match="holds no mapping"):
        load_recipe(str(path))
    path.write_text("epochs: many\n")
    with pytest.raises(UsageError, match=r"recipe.yaml: epochs='many'"):
        load_recipe(str(path))
