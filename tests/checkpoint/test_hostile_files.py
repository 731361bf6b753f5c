"""Nothing in a checkpoint is executed, and no file takes more memory or time than it may."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import strzoo
from strzoo.errors import IntegrityError
from tests.helpers.foreign import small_network
from tests.helpers.hostile import (
    HOSTILE,
    call,
    entries,
    opcodes,
    text,
    with_entry,
    zip_file,
)

_READ = r"""
import json, re, sys, time
import strzoo, strzoo.checkpoint
from pathlib import Path
from strzoo.errors import StrzooError
for path in sys.argv[1:]:
    started = time.perf_counter()
    try:
        strzoo.read_checkpoint(path)
        said = "read"
    except StrzooError as error:
        said = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(json.dumps([path, said, seconds, int(peak[1]) / 1024]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_hostile_files_end_in_one_line_within_time_and_memory(tmp_path: Path) -> None:
    state = dict(small_network().state_dict())
    paths = {}
    for index, (name, (write, _)) in enumerate(HOSTILE.items()):
        paths[str(write(tmp_path / f"{index}.pth", state))] = name
    run = subprocess.run(
        [sys.executable, "-c", _READ, *paths], capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [paths[path] for path, *_ in found] == list(HOSTILE)
    for path, said, seconds, megabytes in found:
        name = paths[path]
        assert said.startswith("IntegrityError: "), (name, said)
        assert HOSTILE[name][1] in said, (name, said)
        assert "\n" not in said, name
        assert len(said) < 500, (name, said)
        assert seconds < 10, name
        assert megabytes < 2000, name


@pytest.mark.parametrize(
    "name",
    [
        *("posix.system", "nt.system", "os.popen", "os.execv", "builtins.eval", "builtins.exec"),
        *("__builtin__.eval", "subprocess.Popen", "pty.spawn", "runpy.run_path", "socket.socket"),
        *("builtins.__import__", "importlib.import_module", "shutil.rmtree", "webbrowser.open"),
    ],
)
def test_a_call_that_does_harm_is_refused_and_not_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    body = opcodes(entries({"a": call(name, text("touch executed"))}))
    path = zip_file(tmp_path / "a.pth", body)
    with pytest.raises(IntegrityError, match=f"its pickle calls {name}.*nothing of it was run"):
        strzoo.read_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


class _Writes:
    """Creates a file when it is unpickled by Python's or torch's own unpickler."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_not_known_is_neither_called_nor_imported(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = small_network()
    torch.save(
        {"model": network.state_dict(), "callback": _Writes()},
        "a.pth",
        _use_new_zipfile_serialization=zipped,
    )
    found = strzoo.read_checkpoint("a.pth")
    assert not Path("executed").exists()
    assert torch.equal(found.state_dict["fc.weight"], network.state_dict()["fc.weight"])
    # The file does execute elsewhere, or the test would prove nothing.
    torch.load("a.pth", weights_only=False)
    assert Path("executed").exists()


def test_a_module_that_a_pickle_names_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    state = dict(small_network().state_dict())
    path = with_entry(tmp_path / "a.pth", state, {"x": call("a_trap.Thing"), "y": b"ca_trap\nT\n"})
    notes = strzoo.read_checkpoint(path).notes
    assert "left out 'x' (a_trap.Thing) and 1 more: no tensor" in notes
    assert "a_trap" not in sys.modules
