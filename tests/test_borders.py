"""What comes from outside is bounded, named and regular; whatever a parser raises is one line."""

from __future__ import annotations

import codecs
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from strzoo.borders import BoundedStream, open_file, read_file, read_text, reading, resolve_inside
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.settings import Limits, Settings


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (RecursionError("x" * 999), IntegrityError, "nested too deeply"),
        (KeyError("label"), IntegrityError, "no 'label'"),
        (OverflowError(), IntegrityError, "OverflowError"),
        (zipfile.BadZipFile("a\n  b"), IntegrityError, "a b"),
        (OSError("thrift"), IntegrityError, "thrift"),  # without a number: pyarrow's and PIL's
        (PermissionError(13, "Permission denied"), StrzooError, "Permission denied"),
        (MemoryError(), StrzooError, "does not fit in the memory"),
        (UsageError("ours"), UsageError, "ours"),
    ],
)
def test_a_border_turns_whatever_is_raised_into_one_line(
    raised: Exception, kind: type[StrzooError], said: str
) -> None:
    with pytest.raises(StrzooError) as caught, reading("a.csv", "a list"):
        raise raised
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_place_that_the_reader_set_is_named_and_interrupts_pass() -> None:
    def read() -> None:
        with reading("a.csv", "a list") as place:
            place.at = "line 7"
            raise ValueError("bad")

    with pytest.raises(
        IntegrityError, match=r"a\.csv, line 7, is not a list, or is damaged \(bad\)"
    ):
        read()
    with pytest.raises(KeyboardInterrupt), reading("a.csv", "a list"):
        raise KeyboardInterrupt


def test_only_regular_files_are_opened_and_nothing_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo, folder, link = tmp_path / "fifo", tmp_path / "folder", tmp_path / "link"
    os.mkfifo(fifo)
    folder.mkdir()
    link.symlink_to(fifo)
    listening = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # the name of a socket is limited to 108 characters
    listening.bind("s")
    for path, kind in (
        (fifo, "a FIFO"),
        (folder, "a folder"),
        (link, "a FIFO"),
        (Path("/dev/zero"), "a device"),
        (tmp_path / "s", "a socket"),
    ):
        with pytest.raises(IntegrityError, match=f"{path.name} is {kind}, not a file"):
            read_file(path)
    listening.close()
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(StrzooError, match=r"cannot read .*loop: Too many levels"):
        read_file(loop)
    with pytest.raises(StrzooError, match="none does not exist"):
        read_file(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"12345")
    with open_file(tmp_path / "file") as stream:
        assert stream.read() == b"12345"


def test_limits_are_named_and_come_from_argument_before_environment(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(IntegrityError, match="needs 5 bytes, above the limit of 4; raise it with "):
        read_file(tmp_path / "file", Limits(bytes=4))
    with pytest.raises(IntegrityError, match="STRZOO_MAX_TEXT"):
        read_text(tmp_path / "file", "a list", Limits(text=4))
    env = {"STRZOO_MAX_BYTES": "3G", "STRZOO_MAX_NESTING": "7"}
    assert Limits.from_env(env, nesting=9) == Limits(bytes=3 * 1024**3, nesting=9)
    assert Settings.from_env(env).limits.nesting == 7
    for wrong in ("-1", "1e9", "²", "9" * 5000, "0x10"):
        with pytest.raises(UsageError, match="STRZOO_MAX_BYTES="):
            Limits.from_env({"STRZOO_MAX_BYTES": wrong})
    with pytest.raises(UsageError, match="no limit 'byte'; there are bytes, text"):
        Limits.from_env({}, byte=1)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
    ],
)
def test_text_is_read_in_every_unicode_encoding_without_its_mark(
    encode: Callable[[str], bytes], tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_bytes(encode("n01440764\r\nZ\xfcrich"))
    assert read_text(tmp_path / "labels.txt", "a list").split() == ["n01440764", "Z\xfcrich"]


def test_text_that_is_none_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"abc\xff\xfe")
    with pytest.raises(IntegrityError, match=r"not a list.*position 3.*UTF-8 or UTF-16"):
        read_text(tmp_path / "labels.txt", "a list")


def test_a_bounded_stream_gives_no_more_than_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    limits = Limits(bytes=40)
    with BoundedStream(open_file(path), "file", limits, total=False) as stream:
        assert [len(stream.read(40)) for _ in range(3)] == [40, 40, 20]
        with pytest.raises(IntegrityError, match="needs 1,000 bytes"):
            stream.read(1000)
    with BoundedStream(open_file(path), "file", limits, total=True) as stream:
        stream.read(30)
        with pytest.raises(IntegrityError, match="needs 60 bytes"):
            stream.read(30)


@pytest.mark.parametrize("name", ["../w", "/dev/zero", "a/../../w", "C:\\w", "..\\w", "", "w\0"])
def test_files_outside_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "w").write_bytes(b"secret")
    with pytest.raises(IntegrityError, match="outside its own folder: refused"):
        resolve_inside(tmp_path / "in", name, "m.onnx")


def test_files_inside_the_folder_are_found_unless_they_are_links(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/w").write_bytes(b"weights")
    (tmp_path / "in/link").symlink_to("deep/w")
    (tmp_path / "in/folder").symlink_to("deep")
    assert resolve_inside(tmp_path / "in", "deep/w", "m.onnx").read_bytes() == b"weights"
    assert resolve_inside(tmp_path / "in", "./deep/w", "m.onnx").read_bytes() == b"weights"
    for name in ("link", "folder/w"):
        with pytest.raises(IntegrityError, match="a link: only files beside it are read"):
            resolve_inside(tmp_path / "in", name, "m.onnx")
    with pytest.raises(IntegrityError, match="is a folder, not a file"):
        resolve_inside(tmp_path / "in", "deep", "m.onnx")
    with pytest.raises(StrzooError, match=r"m\.onnx refers to it"):
        resolve_inside(tmp_path / "in", "none", "m.onnx")


def test_a_link_to_a_blob_is_followed_in_the_cache_of_the_same_model(tmp_path: Path) -> None:
    cache, other = tmp_path / "models--a--b", tmp_path / "models--c--d"
    for root in (cache, other):
        (root / "blobs").mkdir(parents=True)
        (root / "blobs/ab12").write_bytes(b"weights")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_bytes(b"secret")
    (cache / "blobs/out").symlink_to(other / "blobs/ab12")
    (cache / "blobs/folder").mkdir()
    snapshot = cache / "snapshots/1/onnx"
    snapshot.mkdir(parents=True)
    (snapshot / "w").symlink_to("../../../blobs/ab12")
    assert resolve_inside(snapshot, "w", "m.onnx").read_bytes() == b"weights"
    assert resolve_inside(cache / "snapshots/1", "onnx/w", "m.onnx").read_bytes() == b"weights"
    (tmp_path / "mine").symlink_to(snapshot)
    assert resolve_inside(tmp_path / "mine", "w", "m.onnx").read_bytes() == b"weights"
    leading_out = {
        "another model": "../../../../models--c--d/blobs/ab12",
        "beside the blobs": "../../../refs/main",
        "a blob that is a link": "../../../blobs/out",
        "the blobs": "../../../blobs",
    }
    for name, target in leading_out.items():
        (snapshot / name).symlink_to(target)
        with pytest.raises(IntegrityError, match="a link: only files beside it are read"):
            resolve_inside(snapshot, name, "m.onnx")
    (snapshot / "none").symlink_to("../../../blobs/none")
    with pytest.raises(StrzooError, match=r"none does not exist; m\.onnx refers to it"):
        resolve_inside(snapshot, "none", "m.onnx")
    (snapshot / "folder").symlink_to("../../../blobs/folder")
    with pytest.raises(IntegrityError, match="is a folder, not a file"):
        resolve_inside(snapshot, "folder", "m.onnx")
    (snapshot.parent.parent / "loose").symlink_to("../blobs/ab12")
    with pytest.raises(IntegrityError, match="a link"):
        resolve_inside(snapshot.parent.parent, "loose", "m.onnx")
