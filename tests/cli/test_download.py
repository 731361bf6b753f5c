"""`strzoo download`, `import` and `cache` with whole checkpoints in the published form."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import strzoo
from strzoo.cli import run
from strzoo.cli.progress import spell_bytes
from strzoo.downloads.web import Network
from strzoo.errors import IntegrityError, OfflineError
from strzoo.settings import Settings
from strzoo.zoo.registry import get_card
from tests.helpers.download_helpers import QUICK, ROOT, partials, serving, sha256
from tests.helpers.drive_stub import QUOTA_PAGE
from tests.helpers.published import dense_state, str_state, write_published

DENSE, STR = "mobilenetv1_dense", "mobilenetv1_str_75.28"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A mirror folder with a dense and an STR file, as their authors wrote them."""
    folder = tmp_path_factory.mktemp("mirror")
    write_published(folder / f"{DENSE}-dense.pth", dense_state(), old_pickle=True)
    write_published(folder / f"{STR}-str.pth", str_state(sparsity=75.28))
    return folder


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    for name in ("STRZOO_MIRROR", "STRZOO_OFFLINE", "STRZOO_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STRZOO_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def loopback_drive(monkeypatch):
    """No test of the command line reaches the real Drive."""
    network = functools.partial(Network, drive="http://127.0.0.1:9", attempts=1)
    monkeypatch.setattr("strzoo.cli.download.Network", network)


def strzoo_json(capsys, *arguments):
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_several_files_arrive_with_path_bytes_hash_and_source(tmp_path, files, capsys):
    code, document = strzoo_json(
        capsys, "download", "mobilenetv1_d", STR, "--format", "all", "--mirror", str(files)
    )
    assert code == 3  # the folder has no dense file of the STR model, and Drive is not reached
    assert document["schema"] == 1
    expected = [(DENSE, "dense"), (STR, "str")]
    assert [(f["model"], f["format"]) for f in document["files"]] == expected
    for file in document["files"]:
        original = (files / Path(file["path"]).name).read_bytes()
        assert Path(file["path"]).read_bytes() == original
        assert (file["bytes"], file["sha256"]) == (len(original), sha256(original))
        assert (file["pinned"], file["source"]) == (False, f"mirror {files}")
    (error,) = document["errors"]
    assert (error["model"], error["format"], error["exit_code"]) == (STR, "dense", 3)


def test_the_table_says_where_the_file_is_and_whether_its_hash_is_pinned(
    tmp_path, files, capsys, monkeypatch
):
    monkeypatch.setenv("STRZOO_MIRROR", str(files))
    assert run(["download", DENSE]) == 0
    out, err = capsys.readouterr()
    path = tmp_path / "cache" / f"{DENSE}-dense.pth"
    for cell in (DENSE, str(path), sha256(path.read_bytes()), "recorded", "mirror"):
        assert cell in out
    assert err.startswith("1 file, 17.")
    assert run(["download", DENSE, "--offline", "-q"]) == 0
    out, err = capsys.readouterr()
    assert "cache" in out
    assert err == ""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80, 400])
def test_no_table_cuts_a_cell_on_a_terminal_of_any_width(tmp_path, files, columns):
    name = "a [cache]" if columns == 80 else "cache"
    path = strzoo.download(DENSE, source=files, settings=Settings(tmp_path / name))
    size = path.stat().st_size
    cells = (sha256(path.read_bytes()), "recorded", f"{size:,}")
    commands: list[tuple[list[str], tuple[str, ...]]] = [
        (["download", DENSE, "-q"], (DENSE, "dense", str(path), *cells)),
        (["cache", "list"], (f"{path.parent}: {spell_bytes(size)}", DENSE, path.name, *cells)),
    ]
    if columns == 60:
        local = str(files / path.name)
        commands += [
            (["import", local, "-q"], (DENSE, "dense", str(path), *cells, local)),
            (["cache", "verify"], (path.name, "recorded", "sound")),
        ]
    for arguments, expected in commands:
        out = on_terminal(arguments, path.parent, columns)
        whole = "".join(out.split())  # a long path goes on in the next line
        assert [cell for cell in expected if "".join(cell.split()) not in whole] == [], out
        assert ("┃" in out) == (columns == 400 or arguments[-1] == "verify")


def on_terminal(arguments: list[str], cache: Path, columns: int = 80) -> str:
    """What a command writes to a terminal so wide."""
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "STRZOO_HOME": str(cache), "TERM": "xterm"}
    for name in ("COLUMNS", "LINES"):  # these would win over the terminal's own size
        environment.pop(name, None)
    child = subprocess.Popen(
        [sys.executable, "-m", "strzoo", *arguments],
        cwd=ROOT, env=environment, stdout=follower, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(follower)
    out = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while block := os.read(leader, 1 << 16):
            out += block
    os.close(leader)
    assert child.wait(60) == 0, out
    return out.decode()


def test_a_quota_page_ends_with_code_3_and_the_import_line_that_then_works(
    tmp_path, files, capsys, monkeypatch
):
    with serving(page=QUOTA_PAGE) as stub:
        monkeypatch.setattr(
            "strzoo.cli.download.Network", functools.partial(Network, drive=stub.address, **QUICK)
        )
        assert run(["download", STR, "--format", "str"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "Google Drive: quota exceeded" in err
    assert f"strzoo import FILE {STR}`" in err
    assert "https://drive.google.com/file/d/" in err
    fetched = tmp_path / "Downloads.pth"
    fetched.write_bytes((files / f"{STR}-str.pth").read_bytes())
    code, document = strzoo_json(capsys, "import", str(fetched), STR)
    assert code == 0
    assert document["files"][0]["path"] == str(tmp_path / "cache" / f"{STR}-str.pth")
    assert fetched.exists()


@pytest.mark.parametrize(("model", "format"), [(DENSE, "dense"), (STR, "str")])
def test_import_recognises_the_model_by_its_content(tmp_path, files, capsys, model, format):
    anonymous = tmp_path / "download (3)"
    anonymous.symlink_to(files / f"{model}-{format}.pth")
    code, document = strzoo_json(capsys, "import", str(anonymous))
    (file,) = document["files"]
    assert (code, file["model"], file["format"]) == (0, model, format)
    assert strzoo.download(model, format=format) == Path(file["path"])


@pytest.mark.parametrize(
    ("content", "model", "said"),
    [
        (b"", None, "it is empty"),
        (b"<html>Quota exceeded</html>", None, "HTML page"),
        ("cut", None, "import-me"),
        ("dense", STR, "import-me is a 'dense' file"),
        ("dense", "resnet50_dense", "architecture is mobilenetv1"),
    ],
)
def test_import_refuses_what_is_not_the_model(tmp_path, files, capsys, content, model, said):
    if isinstance(content, str):
        whole = (files / f"{DENSE}-dense.pth").read_bytes()
        content = whole[:-1000] if content == "cut" else whole
    path = tmp_path / "import-me"
    path.write_bytes(content)
    if model == STR:
        said = "sparsity is"
    assert run(["import", str(path), *([model] if model else [])]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "staging" not in err
    assert err.count("\n") == 1
    assert partials(tmp_path / "cache") == []
    assert list((tmp_path / "cache").glob("*.pth")) == []


def test_a_mirror_with_the_file_of_another_model_is_refused(tmp_path, files):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / f"{DENSE}-dense.pth").write_bytes((files / f"{STR}-str.pth").read_bytes())
    settings = Settings(tmp_path / "cache", offline=True, mirrors=(str(mirror),))
    with pytest.raises(OfflineError, match="format is str, mobilenetv1_dense has dense"):
        strzoo.download(DENSE, settings=settings)
    assert not (tmp_path / "cache" / f"{DENSE}-dense.pth").exists()


def test_load_reads_through_the_cache_and_downloads_what_is_missing(tmp_path, files):
    settings = Settings(tmp_path / "cache", mirrors=(str(files),), offline=True)
    model = strzoo.load(DENSE, settings=settings)
    expected = dense_state()["fc.weight"]
    assert model.state_dict()["fc.weight"].equal(expected)
    path = tmp_path / "cache" / f"{DENSE}-dense.pth"
    path.write_bytes(path.read_bytes()[:-1])
    assert strzoo.load(DENSE, settings=settings).state_dict()["fc.weight"].equal(expected)
    assert path.read_bytes() == (files / path.name).read_bytes()


def test_cache_list_path_verify_and_prune(tmp_path, files, capsys):
    cache = tmp_path / "cache"
    assert run(["cache", "path"]) == 0
    assert capsys.readouterr().out == f"{cache}\n"
    assert run(["cache", "path", DENSE]) == 1
    assert f"strzoo download {DENSE}" in capsys.readouterr().err
    strzoo.download(DENSE, source=files)
    path = cache / f"{DENSE}-dense.pth"
    assert run(["cache", "path", DENSE]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    _, document = strzoo_json(capsys, "cache", "list")
    assert [f["sha256"] for f in document["files"]] == [sha256(path.read_bytes())]
    assert run(["cache", "verify"]) == 0
    assert "sound" in capsys.readouterr().out
    assert run(["cache", "verify", STR]) == 1
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    capsys.readouterr()
    assert run(["cache", "verify"]) == 4
    assert "damaged" in capsys.readouterr().err
    assert run(["cache", "prune", "--forget"]) == 2
    _, document = strzoo_json(capsys, "cache", "prune", DENSE, "--forget", "--dry-run")
    assert path.exists()
    _, removed = strzoo_json(capsys, "cache", "prune", DENSE, "--forget")
    assert removed["removed"] == document["removed"]
    assert str(path) in [item["path"] for item in removed["removed"]]
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["download"], 2, "Missing argument"),
        (["download", "vgg16_dense"], 2, "no model is named 'vgg16_dense'"),
        (["download", DENSE, "--format", "str"], 2, "choose from dense"),
        (["download", DENSE, "--offline"], 5, "is not in the cache and the network is off"),
        (["download", DENSE], 3, "Connection refused"),
        (["download", DENSE, "--cookies-file", "/nowhere/c.txt"], 1, "cannot read the cookies"),
        (["import", "/nowhere/a.pth"], 1, "/nowhere/a.pth does not exist"),
        (["import", "/"], 2, "is a folder without best_str.pth"),
    ],
)
def test_errors_are_one_line_and_have_their_exit_code(capsys, arguments, code, said):
    assert run([*arguments, "-q"] if arguments[-1] != "download" else arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_pattern_passes_over_models_that_lack_the_format(tmp_path, capsys):
    from strzoo.cli.download import choose_files
    from strzoo.zoo.registry import load_registry

    chosen = choose_files(load_registry(Settings(tmp_path)), ("mobilenetv1_*",), "str")
    assert [card.id for card, _ in chosen] == ["mobilenetv1_str_75.28", "mobilenetv1_str_89.01"]
    assert "str" not in get_card(DENSE).files


def test_an_interrupt_ends_with_130_and_one_line(tmp_path, files):
    script = (
        "import os, signal, sys, strzoo.cli.download as d\n"
        "d.obtain = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
        "from strzoo.cli import main\n"
        f"main(['download', {DENSE!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == "strzoo: interrupted"


def test_help_of_the_commands_imports_neither_torch_nor_requests():
    script = (
        "import sys; from strzoo.cli import run\n"
        "for c in (['download'], ['import'], ['cache', 'verify']): run([*c, '--help'])\n"
        "sys.exit(bool({'torch', 'requests', 'gdown', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_malicious_file_is_refused_without_running_it(tmp_path):
    import pickle

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    import torch

    bad = tmp_path / "bad.pth"
    torch.save({"state_dict": Attack()}, bad, pickle_module=pickle)
    with pytest.raises(IntegrityError):
        strzoo.downloads.download.import_file(bad, settings=Settings(tmp_path / "cache"))
    assert not (tmp_path / "pwned").exists()
