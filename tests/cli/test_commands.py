from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

import strzoo
from strzoo.cli import COMMANDS
from strzoo.errors import UnknownNameError
from tests.conftest import CliResult
from tests.helpers.published import dense_state, write_published

Cli = Callable[..., CliResult]


def test_list_shows_the_published_table_and_what_is_cached(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "resnet50_str_90.23-str.pth").write_bytes(b"x")
    result = cli("list", "--cache-dir", tmp_path)
    assert result.code == 0
    assert result.err == ""
    row = next(line for line in result.out.splitlines() if "resnet50_str_90.23" in line)
    for cell in ("str, dense", "2.49M", "90.23", "74.31", "343M"):
        assert cell in row
    document = cli("list", "resnet50_str*", "--json", "--cache-dir", tmp_path).json
    assert document["schema"] == 1
    assert len(document["models"]) == 6
    cached = {m["id"]: m["cached"] for m in document["models"]}
    assert cached["resnet50_str_90.23"] == ["str"]
    assert cached["resnet50_str_81.27"] == []


def test_info_shows_the_card(cli: Cli) -> None:
    result = cli("info", "resnet50_str_81")
    assert result.code == 0
    for text in (
        "4.47M",
        "81.27 %",
        "76.12 %",
        "Apache-2.0",
        "arXiv:2002.03231",
        "https://drive.google.com/file/d/1ztb0UfsFVJQkE2vj6eNHxnab9MXuLryk/view",
        "4.78M",
    ):
        assert text in result.out
    document = cli("info", "resnet50_str_81", "--json").json
    assert document["published"]["params"] == "4.47M"


def test_report_prints_the_same_totals_in_every_style(cli: Cli, tmp_path: Path) -> None:
    for style in ("table", "csv", "markdown"):
        result = cli("report", "resnet50_str_90.23", "--format", style)
        assert result.code == 0
        assert "342704361" in result.out.replace(",", "")
    document = cli("report", "resnet50_str_90.23", "--json").json
    assert document["totals"]["sparse_macs"] == 342_704_361
    result = cli("report", "resnet50_str_90.23", "--format", "csv", "-o", tmp_path / "r.csv")
    assert (result.code, result.out) == (0, "")
    assert (tmp_path / "r.csv").read_text().startswith("layer,type,shape,params")


def test_report_takes_an_input_size(cli: Cli, str_file: Path) -> None:
    whole = cli("report", str_file, "--json").json
    half = cli("report", str_file, "--input-size", "112x224", "--json").json
    assert half["input_size"] == [3, 112, 224]
    assert half["totals"]["dense_macs"] < 0.6 * whole["totals"]["dense_macs"]
    result = cli("report", str_file, "--input-size", "0x4")
    assert result.code == 2
    assert "'0x4' is not SIZE" in result.error


def test_verify_ends_with_6_on_a_mismatch_and_0_without(cli: Cli, str_file: Path) -> None:
    result = cli("verify")
    assert result.code == 0
    assert result.out.count("known misprint") == 1
    assert "mismatch" not in result.out
    result = cli("verify", str_file)
    assert result.code == 6
    assert "mismatch" in result.out
    assert "mobilenetv1_str_75.28" in result.error
    document = cli("verify", "resnet50_*", "--json").json
    assert document["passed"] is True
    assert len(document["models"]) == 7


def test_convert_writes_each_kind_of_file(cli: Cli, str_file: Path, tmp_path: Path) -> None:
    result = cli("convert", str_file, tmp_path / "dense.pth", "--verify")
    assert result.code == 0
    assert "str -> dense (strzoo layout), sparsity 75.28 %" in result.out
    assert "logits equal" in result.out
    made = cli(
        "convert", str_file, tmp_path / "c.safetensors", "--compact", "--half", "--json"
    ).json
    assert made["compact"] is True
    assert made["bytes"] == (tmp_path / "c.safetensors").stat().st_size
    result = cli("convert", str_file, tmp_path / "t.pth", "--layout", "timm")
    assert "classifier.bias" in torch.load(tmp_path / "t.pth", weights_only=True)


def test_convert_takes_an_id_from_the_cache(cli: Cli, str_file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "mobilenetv1_str_75.28-str.pth").write_bytes(str_file.read_bytes())
    arguments = ("--cache-dir", cache, "--offline")
    result = cli("convert", "mobilenetv1_str_75", tmp_path / "a.safetensors", *arguments)
    assert result.code == 0
    result = cli("convert", "mobilenetv1_str_89", tmp_path / "b.safetensors", *arguments)
    assert result.code == 5
    assert "mobilenetv1_str_89.01" in result.error
    assert not (tmp_path / "b.safetensors").exists()


def test_budgets_are_listed_shown_compared_and_extracted(
    cli: Cli, str_file: Path, tmp_path: Path
) -> None:
    listed = cli("budgets", "list", "--json").json["budgets"]
    assert len(listed) == 23
    assert "resnet50_erk_90" in cli("budgets", "list").out
    shown = cli("budgets", "show", "resnet50_str_98.05")
    assert "72,9" in shown.out
    assert cli("budgets", "show", "resnet50_uniform_90", "--json").json["layers"]["fc"] == 90
    compared = cli("budgets", "compare", "resnet50_str_90.23", "resnet50_erk_90")
    assert "+28.50" in compared.out  # fc: 93.00 - 64.50
    path = tmp_path / "b.json"
    result = cli("budgets", "extract", str_file, "-o", path, "--name", "mine")
    assert result.code == 0
    assert strzoo.load_budget(path).sparsity == pytest.approx(75.28, abs=0.01)
    again = cli("budgets", "extract", str_file, "--name", "mine")
    assert json.loads(path.read_text()) == again.json


def test_what_budgets_extract_writes_budgets_show_reads(cli: Cli, tmp_path: Path) -> None:
    network = strzoo.create_model("resnet20", num_classes=10)
    ours = strzoo.export_onnx(network, tmp_path / "ours.onnx").path
    model = onnx.load(ours)
    assert {e.key: e.value for e in model.metadata_props}["strzoo.architecture"] == "resnet20"
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    shown = {}
    for name, architecture in (("ours", "resnet20"), ("foreign", "")):
        budget = tmp_path / f"{name}.json"
        assert cli("budgets", "extract", tmp_path / f"{name}.onnx", "-o", budget).code == 0
        assert strzoo.load_budget(budget).architecture == architecture
        shown[name] = cli("budgets", "show", budget)
        assert shown[name].code == 0
        assert "layer3.2.conv2" in shown[name].out
    assert "no MACs: " in shown["foreign"].out
    assert "no MACs: " not in shown["ours"].out
    whole = f"{strzoo.report(network).dense_macs:,}"
    assert f"MACs dense {whole}" in shown["ours"].out
    assert "10 classes and an input of 3x32x32" in shown["ours"].out
    larger = cli("budgets", "show", tmp_path / "ours.json", "--input-size", "64")
    assert "input of 3x64x64" in larger.out
    assert cli("budgets", "show", tmp_path / "ours.json", "--input-size", "64", "--json").code == 2


def test_code_that_a_budget_names_is_not_run(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harmful.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    budget = strzoo.Budget("b", "harmful:build", "str", 50.0, "", {"fc": 50.0})
    path = strzoo.write_budget(budget, tmp_path / "b.json")
    shown = cli("budgets", "show", path)
    assert shown.code == 0
    assert "names the code harmful:build" in shown.out
    with pytest.raises(UnknownNameError, match="names the code harmful:build"):
        strzoo.report_budget(strzoo.load_budget(path))
    assert not (tmp_path / "ran").exists()


def test_doctor_reports_versions_devices_cache_and_disk(cli: Cli, tmp_path: Path) -> None:
    document = cli("doctor", "--json", "--cache-dir", tmp_path).json
    assert document["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert document["devices"]["torch threads"] == torch.get_num_threads()
    assert document["cache"]["folder"] == str(tmp_path)
    assert document["data"]["registry"] == "10 models"
    assert document["problems"] == []
    result = cli("doctor", "--registry", tmp_path / "none.json")
    assert result.code == 1
    assert "none.json does not exist" in result.error


def test_every_command_has_help_and_the_root_lists_them(cli: Cli) -> None:
    root = cli("--help")
    for name in COMMANDS:
        assert name in root.out
        result = cli(name, "--help")
        assert (result.code, result.err) == (0, "")
        assert "Usage: strzoo" in result.out
    assert "130 interrupted" in root.out
    assert strzoo.__version__ in cli("--version").out


def test_unknown_commands_and_options_are_usage_errors_with_the_nearest(cli: Cli) -> None:
    result = cli("reprot")
    assert result.code == 2
    assert "report" in result.error
    assert cli("list", "--nonsense").code == 2
    result = cli("info", "resnet50_str_90.32")
    assert result.code == 2
    assert "nearest" in result.error
    assert "resnet50_str_90.23" in result.error


def test_a_users_registry_reaches_every_command(cli: Cli, tmp_path: Path) -> None:
    document = json.loads((Path(__file__).parents[2] / "checkpoints.json").read_text())
    model = dict(document["models"][0], id="resnet18_dense", architecture="resnet18")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**document, "models": [model]}))
    assert "resnet18_dense" in cli("list", "--registry", path).out
    assert cli("info", "resnet18_dense", "--registry", path).code == 0
    report = cli("report", "resnet18_dense", "--registry", path, "--json").json
    # torchvision publishes 11,689,512 parameters for ResNet18; ours has no classifier bias.
    assert report["totals"]["params"] == 11_689_512 - 1000
    assert cli("verify", "resnet18_dense", "--registry", path).code == 6
    path.write_text("{}")
    result = cli("list", "--registry", path)
    assert result.code == 4
    assert "mine.json: missing field 'schema'" in result.error


def test_a_dense_file_reports_no_thresholds(cli: Cli, tmp_path: Path) -> None:
    path = write_published(tmp_path / "d.pth", dense_state())
    document = cli("report", path, "--json").json
    assert all(layer["threshold"] is None for layer in document["layers"])
    assert document["totals"]["sparsity"] == 0


def test_no_command_shows_the_help_in_lines(cli: Cli) -> None:
    for arguments in ((), ("budgets",)):
        result = cli(*arguments)
        assert result.code in (0, 2)  # click 8.1 and later ones
        assert "Usage: strzoo" in result.out + result.err
        assert "strzoo: error" not in result.err
        assert (result.out + result.err).count("\n") > 5


def test_what_cannot_be_converted_is_said_before_anything_is_fetched(
    cli: Cli, tmp_path: Path
) -> None:
    for arguments, named in (
        (("a.bin",), "must end in one of"),
        (("a.pth", "--compact"), "ends in .safetensors"),
        (("a.pth", "--to", "str", "--layout", "torchvision"), "holds dense weights"),
    ):
        result = cli("convert", "resnet50_str_90", tmp_path / arguments[0], *arguments[1:])
        assert result.code == 2
        assert named in result.error


def test_every_kind_of_file_gets_ordinary_permissions(
    cli: Cli, str_file: Path, tmp_path: Path
) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    for name in ("a.pth", "a.safetensors"):
        assert cli("convert", str_file, tmp_path / name).code == 0
        assert (tmp_path / name).stat().st_mode == ordinary.stat().st_mode


def test_against_is_for_files(cli: Cli) -> None:
    result = cli("verify", "resnet50_str_90", "--against", "foo")
    assert result.code == 2
    assert "for a checkpoint file" in result.error
