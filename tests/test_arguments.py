"""Every public function takes the same list of odd arguments: a result or an error of ours."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import strzoo
from strzoo.arguments import checked
from strzoo.errors import StrzooError, UsageError
from strzoo.settings import Limits

# What an odd argument is made of, anew for each call.
ODD: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "three": lambda: 3,
    "minus one": lambda: -1,
    "zero": lambda: 0,
    "half": lambda: 0.5,
    "nan": lambda: float("nan"),
    "huge": lambda: 10**30,
    "true": lambda: True,
    "nothing": lambda: "",
    "missing": lambda: "missing.pth",
    "null": lambda: "a\0b",
    "surrogate": lambda: "\ud800",
    "long": lambda: "x" * 5000,
    "no bytes": lambda: b"",
    "bytes": lambda: b"PK\3\4",
    "no items": lambda: [],
    "nones": lambda: [None],
    "pair": lambda: (1, 2),
    "texts": lambda: ["a", "b"],
    "no keys": lambda: {},
    "mapping": lambda: {"a": 1},
    "set": lambda: {1},
    "object": object,
    "class": lambda: int,
    "generator": lambda: (i for i in range(2)),
    "tensor": lambda: torch.full((2, 3), float("nan")),
    "number tensor": lambda: torch.tensor(1.0),
    "array": lambda: np.zeros(3),
    "text array": lambda: np.array(["a"]),
    "module": lambda: nn.Linear(2, 2),
    "identity": nn.Identity,
    "onnx": onnx.ModelProto,
    "folder": lambda: Path(),
    "empty file": lambda: Path("empty.pth"),
}  # fmt: skip
# Functions of the caller: what they raise is the caller's.
CALLBACKS = {"progress", "on_step", "on_event", "on_epoch", "check", "cancel", "skip", "g", "layer"}
SLOW = {("evaluate", "compile", "true"), ("compile", "model", "identity")}  # torch works


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.relu(self.conv(x)).mean((2, 3)))
        return out


IMAGES, LABELS = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
SIZE = (3, 32, 32)
NETWORK = strzoo.create_model("resnet20").eval()
_NUMBERS = iter(range(10**6))


def _new(suffix: str) -> Path:
    return Path(f"out{next(_NUMBERS)}{suffix}")


def _budget() -> strzoo.Budget:
    return strzoo.load_budget(strzoo.list_budgets()[0])


def _short_fit() -> strzoo.FitConfig:
    return strzoo.FitConfig(epochs=1, batch_size=2, warmup_epochs=0, workers=0)


def _str_network() -> nn.Module:
    return strzoo.sparsify_filters_(strzoo.create_model("resnet20", num_classes=2))


# Arguments that are right, for each function; one of them is then replaced. Where one call takes
# seconds the model is a file that does not exist, and only the model itself is tried with others.
RIGHT: dict[str, Callable[[], dict[str, Any]]] = {
    "benchmark": lambda: {"models": "none.onnx", "engines": ["onnxruntime"], "runs": 1},
    "build_checkpoint": lambda: {"source": NETWORK},
    "compare": lambda: {"models": [NETWORK, NETWORK], "predictions": False},
    "compare_budgets": lambda: {"first": _budget(), "second": _budget()},
    "compare_paper_table": lambda: {"number": 1},
    "compile": lambda: {"model": "none.onnx", "size": 32, "threads": 1},
    "convert": lambda: {"source": "r20.pth", "destination": _new(".pth")},
    "create_model": lambda: {"architecture": "resnet20"},
    "download": lambda: {"name": "resnet50_dense", "settings": _offline()},
    "evaluate": lambda: {"model": Tiny(), "data": [(IMAGES, LABELS)], "workers": 0},
    "export_matrices": lambda: {"model": Tiny(), "folder": _new(""), "input_size": SIZE},
    "export_onnx": lambda: {"model": "none.pth", "path": _new(".onnx"), "input_size": SIZE},
    "extract_budget": lambda: {"target": Tiny(), "name": "a", "input_size": 32},
    "fit": lambda: {"model": Tiny(), "data": (IMAGES, LABELS), "config": _short_fit()},
    "get_card": lambda: {"name": "resnet50_dense"},
    "get_transforms": lambda: {"name": "resnet50_dense"},
    "inspect_onnx": lambda: {"path": "tiny.onnx", "input_size": SIZE},
    "list_models": lambda: {"pattern": "*"},
    "load": lambda: {"name_or_file": "r20.pth"},
    "load_budget": lambda: {"name_or_path": strzoo.list_budgets()[0]},
    "load_digits": lambda: {"split": "all"},
    "load_paper_table": lambda: {"number": 1},
    "load_recipe": lambda: {"name_or_path": "digits_str"},
    "plan": lambda: {"config": strzoo.load_recipe("digits_str")},
    "predict": lambda: {"model": Tiny(), "images": np.zeros((40, 40, 3), np.uint8)},
    "prune": lambda: {"model": Tiny(), "data": IMAGES, "sparsity": 0.5, "workers": 0},
    "read_checkpoint": lambda: {"path": "r20.pth"},
    "register_architecture": lambda: {},
    "remove_filters": lambda: {"model": _str_network()},
    "report": lambda: {"target": Tiny(), "input_size": SIZE},
    "report_budget": lambda: {"budget": _budget()},
    "save_checkpoint": lambda: {
        "checkpoint": NETWORK, "path": _new(".pth")},
    "soft_threshold": lambda: {"weight": torch.rand(3), "threshold": torch.tensor(0.0)},
    "sparsify_": lambda: {"model": Tiny()},
    "sparsify_filters_": lambda: {"model": strzoo.create_model("resnet20", num_classes=2)},
    "to_dense": lambda: {"checkpoint": strzoo.build_checkpoint(NETWORK)},
    "to_dense_": lambda: {"model": Tiny()},
    "tradeoff": lambda: {"model": "none.pth", "data": "digits", "runs": 1},
    "train": lambda: {"config": "missing_recipe"},
    "verify": lambda: {"target": "r20.pth"},
    "write_budget": lambda: {"budget": _budget(), "path": _new(".json")},
}  # fmt: skip
# Records that users build themselves.
RECORDS: dict[str, Callable[..., Any]] = {
    "TrainConfig": strzoo.TrainConfig,
    "FitConfig": strzoo.FitConfig,
    "Settings": partial(strzoo.Settings, cache_dir=Path()),
    "Settings.from_env": strzoo.Settings.from_env,
    "Limits": Limits,
    "Budget": partial(strzoo.Budget, name="a", architecture="resnet50", method="str",
                      sparsity=1.0, source="s", layers={"fc": 1.0}),
}  # fmt: skip


def _offline() -> strzoo.Settings:
    return strzoo.Settings(cache_dir=Path("cache"), offline=True)


def _functions() -> list[str]:
    found = [n for n in strzoo.__all__ if inspect.isfunction(getattr(strzoo, n))]
    return [n for n in found if inspect.signature(getattr(strzoo, n)).parameters]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet20_file: Path) -> None:
    """A current folder with a checkpoint, an ONNX file and an empty file, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRZOO_OFFLINE", "1")
    Path("r20.pth").symlink_to(resnet20_file)
    Path("empty.pth").touch()
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    x, y = (
        onnx.helper.make_tensor_value_info(n, 1, ["N", c, 32, 32]) for n, c in (("x", 3), ("y", 4))
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"])], "g", [x], [y], [weight]
    )
    onnx.save(onnx.helper.make_model(graph), "tiny.onnx")


def _try(call: Callable[..., Any], arguments: dict[str, Any], what: str) -> str:
    """ "ok", or "refused"; anything but a readable error of ours fails."""
    try:
        call(**arguments)
    except StrzooError as error:
        said = str(error)
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    else:
        return "ok"
    assert "\n" not in said, what
    assert 5 < len(said) < 500, f"{what}: {said}"
    return "refused"


def test_the_list_has_every_public_function() -> None:
    assert set(RIGHT) == set(_functions())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RIGHT))
def test_odd_arguments_end_in_a_result_or_an_error_of_ours(name: str, folder: None) -> None:
    function = getattr(strzoo, name)
    outcomes = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for kind, make in ODD.items():
            value = make()
            if parameter.name in CALLBACKS and callable(value):
                continue
            if (name, parameter.name, kind) in SLOW:
                continue
            arguments = {**RIGHT[name](), parameter.name: value}
            outcomes.append(_try(function, arguments, f"{name}({parameter.name}={kind})"))
    assert outcomes.count("refused") > len(outcomes) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RECORDS))
def test_odd_fields_of_records_end_in_a_record_or_an_error_of_ours(name: str, folder: None) -> None:
    for field in inspect.signature(RECORDS[name]).parameters:
        for kind, make in ODD.items():
            _try(RECORDS[name], {field: make()}, f"{name}({field}={kind})")


def test_a_wrong_number_of_arguments_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match=r"load_budget\(\) missing 1 required"):
        strzoo.load_budget()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"report\(\) got an unexpected keyword"):
        strzoo.report("resnet50_dense", size=3)  # type: ignore[call-arg]


@checked
def _take(
    count: int,
    rate: float | None = None,
    *,
    size: tuple[int, ...] | int | None = None,
    names: list[str] | None = None,
    path: str | os.PathLike[str] = "a",
    flag: bool = False,
    rates: dict[str, float] | None = None,
) -> tuple[Any, ...]:
    return count, rate, size, path, flag


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"count": np.int64(3), "rate": np.float32(0.5)}, (3, 0.5, None, "a", False)),
        ({"count": 3, "rate": 1, "size": [1, 2]}, (3, 1, (1, 2), "a", False)),
        ({"count": 3, "size": np.array([4, 5]), "flag": 1}, (3, None, (4, 5), "a", 1)),
        ({"count": 3, "path": Path("b"), "flag": np.True_}, (3, None, None, Path("b"), True)),
    ],
)
def test_values_that_mean_the_same_are_taken(given: dict[str, Any], taken: tuple[Any, ...]) -> None:
    assert _take(**given) == taken


def test_an_error_names_the_function_the_parameter_the_value_and_what_is_expected() -> None:
    for arguments, said in (
        ({"count": True}, "_take: count is True; expected a whole number"),
        ({"count": 3, "rate": "x"}, "_take: rate is 'x'; expected a number or None"),
        (
            {"count": 3, "size": [1.5]},
            "_take: size is the list [1.5]; expected a list of whole numbers or a whole number "
            "or None",
        ),
        ({"count": 3, "flag": "no"}, "_take: flag is 'no'; expected True or False"),
        ({"count": 3, "path": b"a"}, "_take: path is a bytes; expected a path"),
        ({"count": 10**30}, "_take: count is 1000000000000000000000000000000; expected"),
    ):
        with pytest.raises(UsageError) as caught:
            _take(**arguments)
        assert str(caught.value).startswith(said)
