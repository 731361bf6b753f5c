"""Bad input, each with one line, its exit code, and nothing written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from strzoo.cli import run
from strzoo.errors import StrzooError
from tests.conftest import CliResult
from tests.helpers.published import str_state, write_published

Cli = Callable[..., CliResult]
STRZOO = (sys.executable, "-W", "ignore", "-m", "strzoo")


class _Malicious:
    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, ("touch executed",)


def _make(kind: str, path: Path, whole: Path) -> Path:
    content = whole.read_bytes()
    match kind:
        case "missing file":
            return path
        case "empty file":
            path.write_bytes(b"")
        case "html":
            path.write_text("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
        case "truncated zip":
            path.write_bytes(content[: len(content) // 2])
        case "truncated pickle":
            write_published(
                path, torch.load(whole, weights_only=False)["state_dict"], old_pickle=True
            )
            path.write_bytes(path.read_bytes()[:-100_000])
        case "malicious pickle":
            torch.save({"state_dict": {"a": _Malicious()}}, path)
        case "wrong architecture":
            write_published(path, str_state("mobilenetv1"), "resnet50")
        case "extra key":
            write_published(path, {**str_state("mobilenetv1"), "fc.extra": torch.zeros(1)})
        case "missing key":
            state = str_state("mobilenetv1")
            del state["fc.weight"]
            write_published(path, state)
        case "wrong shape":
            state = str_state("mobilenetv1")
            state["model.1.1.bias"] = torch.zeros(7)
            write_published(path, state)
        case "nan weight":
            state = str_state("mobilenetv1")
            state["fc.weight"][0, 0] = float("nan")
            write_published(path, state)
        case "nan threshold":
            state = str_state("mobilenetv1")
            state["fc.sparseThreshold"][0, 0] = float("nan")
            write_published(path, state)
    return path


@pytest.mark.parametrize(
    ("kind", "code", "named"),
    [
        ("missing file", 1, "does not exist"),
        ("empty file", 4, "is empty"),
        ("html", 4, "is a web page"),
        ("truncated zip", 4, "or is damaged (File is not a zip file)"),
        ("truncated pickle", 4, "or is damaged (it ends within"),
        ("malicious pickle", 4, "is refused: its pickle calls"),
        ("wrong architecture", 4, "its arch field says 'ResNet50'"),
        ("extra key", 4, "unexpected: fc.extra"),
        ("missing key", 4, "no usable fc.weight"),
        ("wrong shape", 4, "model.1.1.bias has shape (7,), expected (32,)"),
        ("nan weight", 4, "fc.weight has a value that is not finite"),
        ("nan threshold", 4, "fc.sparseThreshold has a value that is not finite"),
    ],
)
def test_a_bad_checkpoint_ends_in_one_line_and_writes_nothing(
    kind: str, code: int, named: str, cli: Cli, str_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = _make(kind, tmp_path / "bad.pth", str_file)
    before = sorted(tmp_path.iterdir())
    for arguments in (
        ("convert", path, tmp_path / "out.pth"),
        ("report", path),
        ("verify", path),
        ("budgets", "extract", path, "-o", tmp_path / "b.json"),
    ):
        result = cli(*arguments)
        assert result.code == code, result.err
        assert named in result.error
        assert "bad.pth" in result.error
        assert result.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_an_unwritable_or_existing_destination_is_refused_before_any_work(
    cli: Cli, str_file: Path, tmp_path: Path
) -> None:
    existing = tmp_path / "kept.pth"
    existing.write_text("kept")
    cases = [
        (existing, "kept.pth exists; pass --force"),
        (tmp_path / "none" / "a.pth", "its folder does not exist"),
        (existing / "a.pth", "its folder is a file"),
        (tmp_path, "it is a folder"),
    ]
    for destination, named in cases:
        result = cli("convert", str_file, destination)
        assert result.code == 1
        assert named in result.error
    table = tmp_path / "kept.md"
    table.write_text("kept")
    result = cli("report", str_file, "-o", table)
    assert "pass --force" in result.error
    assert existing.read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.md", "kept.pth"]
    assert cli("convert", str_file, existing, "--force").code == 0
    assert existing.stat().st_size > 1_000_000


def test_a_read_only_folder_is_refused(
    cli: Cli, str_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    result = cli("convert", str_file, tmp_path / "a.pth")
    assert result.code == 1
    assert "permission denied" in result.error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.pth", "out.safetensors"])
def test_a_full_disk_leaves_nothing(name: str, str_file: Path, tmp_path: Path) -> None:
    def limit() -> None:  # the kernel refuses to grow a file beyond 1 MB, as a full disk would
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [*STRZOO, "convert", str_file, tmp_path / name],
        preexec_fn=limit, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.pth", "out.safetensors"])
def test_no_space_is_said_in_words(name: str, cli: Cli, str_file: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        result = cli("convert", str_file, small / name)
        assert result.code == 1
        assert "no space left on the disk" in result.error
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
def test_an_interrupt_ends_with_130_and_leaves_nothing(str_file: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*STRZOO, "demo", "-o", tmp_path / "out", "--epochs", "1000"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "training the dense twin" in process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    # A shell shows 130 for both: CPython may end by the signal if an import was interrupted.
    assert process.returncode in (130, -signal.SIGINT)
    assert (out, err.strip()) == ("", "strzoo: interrupted")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    with subprocess.Popen(
        [*STRZOO, "report", "resnet50_str_90.23"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


@pytest.mark.parametrize("words", [["report", "resnet50_str_90.23"], ["list"]])
def test_a_full_disk_behind_standard_output_is_an_error(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*STRZOO, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("strzoo: error: cannot write standard output: no space left")
    assert len(done.stderr.splitlines()) == 1


class _Unprintable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _nest(levels: int) -> int:
    return _nest(levels + 1) + 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("two\nlines"), "unexpected KeyError: 'two\\nlines'; this is a defect of strzoo"),
        (OSError(5, "Input/output error", "/a/file"), "Input/output error: '/a/file'"),
        (_Unprintable(), "unexpected _Unprintable;"),
        (OverflowError("x" * 10_000), "unexpected OverflowError: xxx"),
        (None, "unexpected RecursionError: maximum recursion depth"),
        (
            ModuleNotFoundError("none", name="nothing_of_ours"),
            "unexpected ModuleNotFoundError: none",
        ),
    ],
)
def test_whatever_is_raised_ends_in_one_line_that_names_the_log(
    error: Exception | None, said: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        if error is None:
            _nest(0)
        else:
            raise error

    monkeypatch.setattr("strzoo.settings.Settings.from_env", lambda **_: fail())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = cli("list", "--offline")
    assert result.code == 1
    assert said in result.error
    assert len(result.error) < 500
    # The cache folder cannot be found here, so the log is among the temporary files.
    (log,) = tmp_path.iterdir()
    assert result.error.endswith(f"please report it with the file {log}")
    assert log.stat().st_mode & 0o077 == 0
    text = log.read_text()
    assert "arguments: ['list', '--offline']" in text
    assert "Traceback (most recent call last)" in text
    assert "in fail" in text


@pytest.mark.parametrize(
    "error", [StrzooError("torch cannot export"), ModuleNotFoundError("x", name="onnx"), KeyError()]
)
def test_an_interrupt_that_a_library_made_another_error_of_is_an_interrupt(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("strzoo.settings.Settings.from_env", fail)
    assert run(["list"], interrupted=lambda: True) == 130
    assert capsys.readouterr() == ("", "strzoo: interrupted\n")
    assert run(["list"]) == 1


def test_the_log_is_kept_in_the_cache_folder_until_that_is_pruned(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRZOO_HOME", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr("strzoo.cli.models.print_json", lambda _: 1 // 0)
        result = cli("list", "--json")
    (log,) = (tmp_path / "logs").iterdir()
    assert result.error.endswith(str(log))
    assert "ZeroDivisionError" in log.read_text()
    assert cli("cache", "prune").code == 0
    assert list(tmp_path.iterdir()) == []


def test_where_no_log_can_be_written_the_line_says_so(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strzoo.cli.models.print_json", lambda _: 1 // 0)
    monkeypatch.setattr("tempfile.mkstemp", lambda *_: os.open("/dev/full/x", os.O_WRONLY))
    result = cli("list", "--json")
    assert result.code == 1
    assert "(no file could be written for its traceback)" in result.error


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "MODEL", "--data"),
        ("evaluate", "MODEL", "--data", "{folder}", "--labels"),
        ("export", "MODEL", "-o", "{folder}/a.onnx", "--images"),
        ("matrices", "MODEL", "-o", "{folder}/m", "--images"),
        ("prune", "MODEL", "--sparsity", "0.9", "--data"),
        ("tradeoff", "MODEL", "--data"),
        ("paper", "1", "--runs"),
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_the_home_of_an_unknown_user_is_named(
    words: tuple[str, ...], cli: Cli, str_file: Path, tmp_path: Path
) -> None:
    given = [str_file if w == "MODEL" else w.format(folder=tmp_path) for w in words]
    result = cli(*given, "~nobody-of-that-name")
    assert result.code == 2
    assert result.error == "'~nobody-of-that-name': no such user; write the folder out"
    assert list(tmp_path.iterdir()) == []
