from __future__ import annotations

import json
from pathlib import Path

import pytest

import strzoo
from strzoo.analysis.comparison import parse_figure, print_like
from strzoo.errors import IntegrityError, StrzooError
from strzoo.settings import Settings
from strzoo.zoo.registry import data_path
from tests.helpers.published import dense_state, str_state, write_published


@pytest.mark.parametrize("name", strzoo.list_models())
def test_every_published_figure_follows_or_is_the_known_misprint(name: str) -> None:
    result = strzoo.verify(name)
    verdicts = {line.quantity: line.verdict for line in result.lines}
    assert result.passed
    if name == "mobilenetv1_str_75.28":  # no budget is in the paper: it takes the weights
        assert set(verdicts.values()) == {"unknown"}
    elif name == "resnet50_str_81.27":
        assert verdicts == {"params": "known misprint", "sparsity": "match", "flops": "match"}
        assert result.lines[0].computed == "4.78M"
    else:
        assert set(verdicts.values()) == {"match"}


def test_a_file_is_verified_against_the_model_it_is(str_file: Path) -> None:
    result = strzoo.verify(str_file)
    assert (result.model, result.source) == ("mobilenetv1_str_75.28", "weights")
    lines = {line.quantity: line for line in result.lines}
    assert lines["params"].verdict == "match"
    assert lines["sparsity"].verdict == "match"
    # The generated file is equally sparse in each layer, the published one is not.
    assert lines["flops"].verdict == "mismatch"
    assert not result.passed


def test_a_file_that_is_not_the_named_model_fails(tmp_path: Path) -> None:
    path = write_published(tmp_path / "a.pth", str_state("mobilenetv1", 50.0))
    result = strzoo.verify(path, against="mobilenetv1_str_75.28")
    assert not result.passed
    sparsity = next(line for line in result.lines if line.quantity == "sparsity")
    assert sparsity.verdict == "mismatch"
    assert sparsity.difference == pytest.approx(-25.28, abs=0.01)
    with pytest.raises(IntegrityError, match="none of the published models"):
        strzoo.verify(path)
    dense = write_published(tmp_path / "d.pth", dense_state())
    assert strzoo.verify(dense).model == "mobilenetv1_dense"
    assert strzoo.verify(dense).passed


def test_a_wrong_figure_in_a_registry_is_a_mismatch(tmp_path: Path) -> None:
    document = json.loads(data_path("checkpoints.json").read_text())
    model = dict(document["models"][3], id="resnet50_str_90.24")
    model["published"] = {**model["published"], "flops": "344M"}
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**document, "models": [model]}))
    settings = Settings(cache_dir=tmp_path, registries=(path,))
    result = strzoo.verify("resnet50_str_90.24", settings=settings)
    verdicts = {line.quantity: line.verdict for line in result.lines}
    assert verdicts == {"params": "match", "sparsity": "match", "flops": "mismatch"}


def test_figures_are_printed_as_published() -> None:
    assert parse_figure("2.49M") == (2_490_000.0, 2, "M")
    assert parse_figure("4.09G") == (4_090_000_000.0, 2, "G")
    assert print_like(342_704_361, "343M") == "343M"
    assert print_like(4_089_284_608, "4.09G") == "4.09G"
    assert print_like(2_491_999, "2.49M") == "2.49M"
    with pytest.raises(StrzooError, match="'many' is not a figure"):
        parse_figure("many")
