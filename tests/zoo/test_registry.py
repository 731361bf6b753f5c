from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strzoo.errors import IntegrityError, StrzooError, UnknownNameError, UsageError
from strzoo.settings import Settings
from strzoo.zoo.registry import data_path, get_card, list_models, load_registry, read_registry

# The published table: params, sparsity, top-1, FLOPs, number of files.
TABLE = {
    "resnet50_dense": ("25.6M", 0.0, 77.01, "4.09G", 1),
    "mobilenetv1_dense": ("4.21M", 0.0, 71.95, "569M", 1),
    "resnet50_str_81.27": ("4.47M", 81.27, 76.12, "705M", 2),
    "resnet50_str_90.23": ("2.49M", 90.23, 74.31, "343M", 2),
    "resnet50_str_95.15": ("1.24M", 95.15, 70.23, "162M", 2),
    "resnet50_str_96.11": ("0.99M", 96.11, 67.78, "127M", 2),
    "resnet50_str_98.05": ("0.50M", 98.05, 61.46, "73M", 2),
    "resnet50_str_98.98": ("0.26M", 98.98, 51.82, "47M", 2),
    "mobilenetv1_str_75.28": ("1.04M", 75.28, 68.35, "101M", 2),
    "mobilenetv1_str_89.01": ("0.46M", 89.01, 62.1, "42M", 2),
}


@pytest.fixture
def document() -> dict[str, Any]:
    return json.loads(data_path("checkpoints.json").read_text())


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def write(value: Any) -> Path:
        path = tmp_path / "registry.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


def test_the_registry_holds_the_published_table_as_printed() -> None:
    cards = load_registry()
    found = {
        c.id: (
            c.published.params,
            c.published.sparsity,
            c.published.top1,
            c.published.flops,
            len(c.files),
        )
        for c in cards
    }
    assert found == TABLE
    drive_ids = {file.drive_id for c in cards for file in c.files.values()}
    assert len(drive_ids) == 18


def test_every_card_says_how_to_preprocess_cite_and_license() -> None:
    for card in load_registry():
        assert card.preprocessing.resize == 256
        assert card.preprocessing.crop == 224
        assert card.preprocessing.interpolation == "bilinear"
        assert card.preprocessing.mean == (0.485, 0.456, 0.406)
        assert card.preprocessing.std == (0.229, 0.224, 0.225)
        assert card.license == "Apache-2.0"
        assert "arXiv:2002.03231" in card.citation
        assert card.num_classes == 1000


def test_models_are_listed_by_pattern_and_found_by_prefix() -> None:
    assert list_models("mobilenet*") == [i for i in TABLE if i.startswith("mobilenet")]
    assert get_card("resnet50_str_90").id == "resnet50_str_90.23"
    assert get_card("resnet50_str_90_23").id == "resnet50_str_90.23"
    with pytest.raises(UnknownNameError, match=r"resnet50_str_98\.05, resnet50_str_98\.98"):
        get_card("resnet50_str_98")


def test_a_missing_file_format_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="choose from dense"):
        get_card("resnet50_dense").file("str")


def test_a_card_cannot_be_changed() -> None:
    card = get_card("resnet50_dense")
    with pytest.raises(AttributeError):
        card.id = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        card.files["str"] = card.files["dense"]


def _spoil(document: dict[str, Any], change: str) -> Any:
    model = document["models"][0]
    match change:
        case "unknown field":
            model["colour"] = "red"
        case "unknown nested field":
            model["files"]["dense"]["md5"] = "0"
        case "missing field":
            del model["published"]["top1"]
        case "missing id":
            del model["id"]
        case "wrong type":
            model["published"]["sparsity"] = "none"
        case "boolean":
            document["defaults"]["num_classes"] = True
        case "duplicate id":
            document["models"].append(dict(model))
        case "short mean":
            document["defaults"]["preprocessing"]["mean"] = [0.5, 0.5]
        case "id and architecture differ":
            model["architecture"] = "resnet18"
        case "bad id":
            model["id"] = "ResNet50"
        case "no files":
            model["files"] = {}
        case "unknown format":
            model["files"]["int8"] = {"drive_id": "x"}
        case "no address":
            model["files"]["dense"] = {"bytes": 3}
        case "bad hash":
            model["files"]["dense"]["sha256"] = "abc"
        case "bad size":
            model["files"]["dense"]["bytes"] = 0
        case "other schema":
            document["schema"] = 2
        case "no models":
            del document["models"]
        case "unknown top field":
            document["version"] = 1
        case "model is text":
            document["models"][0] = "resnet50"
        case "repeated name":
            return '{"schema": 1, "schema": 1, "models": []}'
        case "not json":
            return "{"
        case "list":
            return []
    return document


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("unknown field", "resnet50_dense: unknown field 'colour'"),
        ("unknown nested field", "unknown field 'md5'"),
        ("missing field", "missing field 'top1'"),
        ("missing id", "missing field 'id'"),
        ("wrong type", "sparsity: expected float"),
        ("boolean", "num_classes: expected int, got true"),
        ("duplicate id", "duplicate id 'resnet50_dense'"),
        ("short mean", "mean and std need three numbers each, or one"),
        ("id and architecture differ", "does not begin with resnet18_dense"),
        ("bad id", "'ResNet50' is not a model id"),
        ("no files", "at least one file"),
        ("unknown format", "unknown format 'int8'"),
        ("no address", "drive_id or a url"),
        ("bad hash", "sha256 'abc'"),
        ("bad size", "bytes is 0"),
        ("other schema", "schema 2 is not supported"),
        ("no models", "missing field 'models'"),
        ("unknown top field", "unknown field 'version'"),
        ("model is text", "expected an object"),
        ("repeated name", "'schema' appears twice"),
        ("not json", "not valid JSON"),
        ("list", "expected an object"),
    ],
)
def test_a_registry_with_a_fault_is_refused_by_name(
    document: dict[str, Any], write: Callable[[Any], Path], change: str, named: str
) -> None:
    with pytest.raises((IntegrityError, UsageError)) as error:
        read_registry(write(_spoil(document, change)))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_registry_is_named(tmp_path: Path) -> None:
    with pytest.raises(StrzooError, match=r"nowhere\.json does not exist"):
        read_registry(tmp_path / "nowhere.json")


def test_a_users_registry_is_added_and_may_not_repeat_an_id(
    document: dict[str, Any], write: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = document["models"][0]
    document["models"] = [{**model, "id": "resnet50_dense_0.00"}]
    path = write(document)
    settings = Settings.from_env(registries=[path])
    assert len(load_registry(settings)) == 11
    monkeypatch.setenv("STRZOO_REGISTRY", str(path))
    assert "resnet50_dense_0.00" in list_models()
    document["models"] = [model]
    write(document)
    with pytest.raises(IntegrityError, match="duplicate id 'resnet50_dense'"):
        list_models()
