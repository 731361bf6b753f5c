"""The disk cache: found without the network's libraries, made again when damaged, optional."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import strzoo
from strzoo.errors import StrzooError
from strzoo.settings import Settings
from tests.helpers.engine.models import images
from tests.helpers.engine.networks import load_model
from tests.helpers.published import str_state

IMAGE = (3, 16, 16)
PROGRAM = """
import sys
import numpy as np
import strzoo
compiled = strzoo.compile(sys.argv[1], 1)
assert compiled.report.cached
heavy = [name for name in ("torch", "onnx", "onnxruntime", "torchvision") if name in sys.modules]
assert not heavy, heavy
np.save(sys.argv[2], compiled(np.load(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    onnx.save(load_model("small", 16), str(path))
    return path


@pytest.mark.slow
def test_a_cached_model_needs_neither_onnx_nor_torch(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRZOO_HOME", str(tmp_path))
    checkpoint = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": str_state("resnet20", 90.0)}, checkpoint)
    for model, shape in ((path, IMAGE), (checkpoint, (3, 32, 32))):
        x = images(shape, 2)
        np.save(tmp_path / "x.npy", x)
        first = strzoo.compile(model, 1)
        assert not first.report.cached
        answer = tmp_path / "answer.npy"
        command = [sys.executable, "-c", PROGRAM, str(model), str(answer), str(tmp_path / "x.npy")]
        subprocess.run(command, check=True)
        assert np.array_equal(np.load(answer), first(x))


@pytest.mark.slow
def test_damaged_entries_are_made_again(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(cache_dir=tmp_path)
    x = images(IMAGE, 1)
    expected = strzoo.compile(path, 1, settings=settings)(x)
    for suffix in (".strz", ".code"):
        (entry,) = (tmp_path / "engine").glob(f"*{suffix}")
        content = bytearray(entry.read_bytes())
        whole = bytes(content)
        content[len(content) // 2] ^= 255
        entry.write_bytes(content)
        with caplog.at_level(logging.WARNING, "strzoo"):
            caplog.clear()
            again = strzoo.compile(path, 1, settings=settings)
        assert "is damaged" in caplog.text
        assert np.array_equal(again(x), expected)
        assert entry.read_bytes() == whole


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_does_not_stop_anything(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A file where the folder should be: permissions do not hold back every user.
    (tmp_path / "engine").write_text("")
    with caplog.at_level(logging.WARNING, "strzoo"):
        compiled = strzoo.compile(path, 1, settings=Settings(cache_dir=tmp_path))
    assert compiled(images(IMAGE, 1)).shape == (1, 20)
    assert "is not kept" in caplog.text


@pytest.mark.slow
def test_the_cache_is_made_for_its_owner_alone_and_used_only_while_it_is(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder = Settings(cache_dir=tmp_path / "cache"), tmp_path / "cache" / "engine"
    x = images(IMAGE, 1)
    expected = strzoo.compile(path, 1, settings=settings)(x)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = {entry: entry.read_bytes() for entry in folder.iterdir()}

    def refused(*said: str) -> None:
        caplog.clear()
        compiled = strzoo.compile(path, 1, settings=settings)
        assert not compiled.report.cached
        assert np.array_equal(compiled(x), expected)
        assert {entry: entry.read_bytes() for entry in folder.iterdir()} == kept
        (record,) = caplog.records
        assert all(text in record.message for text in (str(folder), *said))

    with caplog.at_level(logging.WARNING, "strzoo"):
        for mode in (0o770, 0o702):
            folder.chmod(mode)
            refused(f"mode {mode:o}", f"chmod 700 {folder}")
        folder.chmod(0o755)  # others may look
        assert strzoo.compile(path, 1, settings=settings).report.cached
        owner = folder.stat().st_uid
        other = os.stat_result((stat.S_IFDIR | 0o700, 1, 1, 1, owner + 1, 0, 0, 0, 0, 0))
        real = Path.stat
        monkeypatch.setattr(Path, "stat", lambda p, **k: other if p == folder else real(p, **k))
        refused(f"belongs to user {owner + 1}", "remove it")


@pytest.mark.slow
def test_other_threads_and_contents_have_entries_of_their_own(
    path: Path, tmp_path: Path, shared: Settings
) -> None:
    settings = Settings(cache_dir=tmp_path)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(path.read_bytes())
    assert not strzoo.compile(path, 1, settings=settings).report.cached
    assert strzoo.compile(copy, 1, settings=settings).report.cached
    two = strzoo.compile(copy, 2, settings=settings)
    assert not two.report.cached
    model = onnx.load(str(copy))
    model.doc_string = "another"
    onnx.save(model, str(copy))
    # Its plan for images side by side is in the cache, so what is on disk does not matter ...
    assert two(images(IMAGE, 2)).shape == (2, 20)
    # ... but without a cache it would have to be read again.
    onnx.save(load_model("small", 16), str(copy))
    bare = strzoo.compile(copy, 2, cache=False)
    onnx.save(model, str(copy))
    with pytest.raises(StrzooError, match="has changed since it was compiled"):
        bare(images(IMAGE, 2))
