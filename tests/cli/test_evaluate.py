"""`strzoo evaluate` and `strzoo predict` as they are typed."""

from __future__ import annotations

import csv
import http.server
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import strzoo
from tests.conftest import CliResult
from tests.helpers.photographs import crop_photographs, jpeg, small_network, write_class_folders

Cli = Callable[..., CliResult]
CLASSES = [f"class{i}" for i in range(10)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.pth"
    return strzoo.save_checkpoint(strzoo.build_checkpoint(small_network()), path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_class_folders(folder, CLASSES, [*range(10), 3])
    return folder


def test_a_run_prints_a_table_and_writes_what_is_asked_for(
    cli: Cli, model: Path, data: Path, tmp_path: Path
) -> None:
    arguments = ("evaluate", model, "--data", data, "--workers", 0, "--csv", tmp_path / "all.csv")
    first = cli(*arguments, "--per-class", tmp_path / "c.csv", "--predictions", tmp_path / "p.csv")
    assert first.code == 0, first.err
    for text in (
        "top-1", "95 % interval", "layout: folders of the model's own classes",
        "precision: fp32", "waiting for images", "weights: sha256", "torch",
    ):  # fmt: skip
        assert text in first.out
    assert "evaluated 11 images in" in first.err
    second = cli(*arguments, "--json")
    assert second.json["schema"] == 1
    assert second.json["images"] == 11
    with open(tmp_path / "all.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2
    assert float(rows[1]["top1"]) == pytest.approx(second.json["top1"], abs=1e-4)
    assert rows[0]["weights_sha256"] == second.json["weights_sha256"]
    predictions = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(predictions) == 11
    right = sum(row["class1"] == row["label"] for row in predictions)
    assert right == second.json["correct_top1"] == sum(int(row["right"]) for row in predictions)
    classes = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [int(row["images"]) for row in classes] == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1]
    again = cli(*arguments, "--predictions", tmp_path / "p.csv")
    assert (again.code, "--force" in again.error) == (1, True)


def test_a_hopeless_accuracy_is_called_what_it_is(cli: Cli, model: Path, tmp_path: Path) -> None:
    images = crop_photographs(20)
    answers = [p.guesses[0].index for p in strzoo.predict(model, images, top=1)]
    other = next(i for i, answer in enumerate(answers) if answer != answers[0])
    for index, name in enumerate(CLASSES):  # every label is wrong
        (tmp_path / name).mkdir()
        images[other if index == answers[0] else 0].save(tmp_path / name / "x.png")
    result = cli("evaluate", model, "--data", tmp_path, "--workers", 0)
    assert result.code == 0
    assert "in another order than the network's outputs" in result.err


@pytest.mark.slow
def test_broken_images_end_in_one_line_or_are_listed(
    cli: Cli, model: Path, data: Path, tmp_path: Path
) -> None:
    write_class_folders(tmp_path, CLASSES, list(range(10)))
    (tmp_path / "class4" / "bad.JPEG").write_bytes(b"\xff\xd8 broken")
    arguments = ("evaluate", model, "--data", tmp_path, "--workers", 1)
    refused = cli(*arguments)
    assert refused.code == 4
    assert "class4/bad.JPEG" in refused.error
    assert refused.out == ""
    listed = cli(*arguments, "--skip-broken")
    assert listed.code == 0
    assert "unreadable, counted as wrong: class4/bad.JPEG" in listed.out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--data", "nowhere"], 2, "nowhere does not exist"),
        ([], 2, "--data"),
        (["--data", ".", "--csv", "no/such/folder.csv"], 2, "existing folder"),
        (["--data", ".", "--device", "cuda:7"], 2, "cuda:7 is not here"),
        (["--data", ".", "--provider", "cpu"], 2, "execution providers and --output are for"),
        (["--data", "."], 2, "is not recognised: found 1 images"),
    ],
)
def test_bad_arguments_end_in_one_line(
    arguments: list[str], code: int, named: str, cli: Cli, model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lonely.jpg").write_bytes(jpeg(crop_photographs(1)[0]))
    result = cli("evaluate", model, *arguments)
    assert (result.code, named in result.error) == (code, True), result.err
    assert result.out == ""


def test_other_columns_in_the_results_file_are_refused_before_the_work(
    cli: Cli, model: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    result = cli("evaluate", model, "--data", data, "--csv", tmp_path / "r.csv")
    assert (result.code, "has other columns (a,b)" in result.error) == (4, True)
    assert (tmp_path / "r.csv").read_text() == "a,b\n1,2\n"


def test_preprocessing_can_be_chosen(cli: Cli, model: Path, data: Path) -> None:
    arguments = ("evaluate", model, "--data", data, "--workers", 0, "--json")
    plain = cli(*arguments).json
    same = cli(*arguments, "--resize", 32, "--crop", 32, "--interpolation", "bilinear").json
    other = cli(*arguments, "--mean", 0.1, 0.2, 0.3, "--std", 0.4, 0.5, 0.6).json
    assert same["loss"] == plain["loss"]
    assert other["loss"] != plain["loss"]


class _Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = jpeg(crop_photographs(1)[0])
        self.send_response(200 if self.path == "/a.jpg" else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_predict_names_files_folders_standard_input_and_addresses(
    cli: Cli, model: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = jpeg(crop_photographs(1)[0])
    (tmp_path / "a.jpg").write_bytes(content)
    (tmp_path / "names.txt").write_text("\n".join(f"thing {i}" for i in range(10)))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    sources = (tmp_path / "a.jpg", tmp_path, "-", f"{server}/a.jpg")
    options = ("--top", 2, "--classes", tmp_path / "names.txt")
    result = cli("predict", model, *sources, *options, "--allow-urls", "--json")
    assert result.code == 0, result.err
    found = result.json["predictions"]
    assert [p["image"] for p in found] == [
        str(tmp_path / "a.jpg"), str(tmp_path / "a.jpg"), "standard input", f"{server}/a.jpg",
    ]  # fmt: skip
    assert len({json.dumps(p["guesses"]) for p in found}) == 1
    assert len(found[0]["guesses"]) == 2
    assert found[0]["guesses"][0]["name"] == f"thing {found[0]['guesses'][0]['index']}"
    table = cli("predict", model, tmp_path)
    assert "probability %" in table.out
    denied = cli("predict", model, f"{server}/a.jpg")
    assert (denied.code, "--allow-urls" in denied.error) == (2, True)
    missing = cli("predict", model, f"{server}/b.jpg", "--allow-urls")
    assert (missing.code, "HTTP 404" in missing.error) == (3, True)
