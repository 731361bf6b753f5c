"""Damaged and hostile data: one line, bounded memory, nothing that blocks or runs."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from strzoo.data.array_pickle import load_arrays
from strzoo.data.calibration import load_samples
from strzoo.data.images import BrokenImageError, decode, prepare
from strzoo.data.layouts import find_samples
from strzoo.data.preprocessing import IMAGENET, SMALL
from strzoo.errors import IntegrityError, StrzooError
from strzoo.settings import Limits
from tests.data.test_layouts import GROUND_TRUTH, VAL, _write_cifar, labels, write

LIMITS = Limits()


class _Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._made = function, arguments

    def __reduce__(self) -> Any:
        return self._made


STRUCTURED = np.dtype({"names": ["a"], "formats": ["u1"], "offsets": [200], "itemsize": 201})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_come_back_whatever_the_pickles_protocol(protocol: int) -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(3, 20)
    for array in (pixels, np.asfortranarray(pixels)):
        content = pickle.dumps({b"data": array, "labels": [1, 2, 3], "n": [b"x"]}, protocol)
        found = load_arrays(content, LIMITS)
        np.testing.assert_array_equal(found["data"], pixels)
        assert (found["labels"], found["n"]) == ([1, 2, 3], [b"x"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({"data": np.zeros(2, STRUCTURED)}, 2), "not uint8"),
        (pickle.dumps({"data": np.zeros(2, np.int64)}, 2), "'i8', not uint8"),
        (pickle.dumps({"data": np.array([{}], object)}, 2), "not uint8"),
        (pickle.dumps({"data": _Reduced(bytearray, 1 << 33)}, 2), "bytearray, which is refused"),
        (pickle.dumps({"data": _Reduced(np.zeros, 1 << 40)}, 2), "zeros, which is refused"),
        (pickle.dumps({"data": _Reduced(os.system, "true")}, 2), "system, which is refused"),
        (b"\x80\x02}c__main__\nx\n)\x81.", "x, which is refused"),
        (b"\x80\x02)\x81.", "an instruction that such files do not need"),
        (b"\x80\x02}r\xff\xff\xff\xff", None),  # a memory of 2^32 places
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f" + b"x" * 9, None),  # 2^63 bytes
        (b"\x80\x05\x8e" + b"\xff" * 7 + b"\x7f" + b"x" * 9, None),
        (b"\x80\x02" + b"]" * 100_000 + b".", "list, not a dictionary"),
        (pickle.dumps([1], 2), "list, not a dictionary"),
    ],
)
def test_a_pickle_builds_nothing_but_flat_bytes(content: bytes, said: str | None) -> None:
    if said is None:
        with pytest.raises(EOFError):
            load_arrays(content, LIMITS)
    else:
        with pytest.raises((pickle.UnpicklingError, ValueError, TypeError), match=said):
            load_arrays(content, LIMITS)


def test_an_array_that_claims_more_than_its_bytes_is_refused(tmp_path: Path) -> None:
    folder, _, _ = _write_cifar(tmp_path / "cifar-10-batches-py", "python", 10)
    content = (folder / "test_batch").read_bytes()
    assert content.count(b"M\x00\x0c") == 1  # the shape's 3072
    (folder / "test_batch").write_bytes(content.replace(b"M\x00\x0c", b"M\xff\xff"))
    with pytest.raises(IntegrityError, match="test_batch is not a CIFAR file, or is damaged"):
        find_samples(folder, 10)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_cifar_pickle_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    if not folder.exists():
        _write_cifar(folder, "python", 10)
        (folder / "good").write_bytes((folder / "test_batch").read_bytes())
    content = bytearray((folder / "good").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "test_batch").write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        assert len(find_samples(folder, 10)) == 4
    except StrzooError as error:
        assert "\n" not in str(error)  # noqa: PT017


def _pack(path: Path, name: str, size: int, kind: bytes = tarfile.REGTYPE) -> None:
    """A gzip archive of a member of `size` zero bytes."""
    header = tarfile.TarInfo(name)
    header.size, header.type = size, kind
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for start in range(0, size, 1 << 20):
            stream.write(bytes(min(1 << 20, size - start)))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_archives_do_not_unfold_beyond_the_limit(
    kind: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRZOO_MAX_BYTES", "1M")
    write(tmp_path, VAL[:2])
    _pack(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", GROUND_TRUTH, 2 << 20, kind)
    _pack(tmp_path / "cifar-10-python.tar.gz", "test_batch", 2 << 20, kind)
    for data in (tmp_path / "cifar-10-python.tar.gz", tmp_path):
        with pytest.raises(IntegrityError, match="above the limit of 1,048,576"):
            find_samples(data, 10)
        (tmp_path / "cifar-10-python.tar.gz").unlink(missing_ok=True)


def test_links_in_archives_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        for name, target in ((GROUND_TRUTH, "b"), ("b", GROUND_TRUTH)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    write(tmp_path, VAL[:2])
    with pytest.raises(IntegrityError, match=f"holds no {GROUND_TRUTH}"):
        find_samples(tmp_path, 1000)


def test_parquet_files_do_not_unfold_beyond_the_limit(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    image = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(np.zeros(10_000, np.int32)), pyarrow.array([bytes(100_000)])
    )
    table = pyarrow.table({"image": image, "label": np.zeros(10_000, np.int64)})
    parquet.write_table(table, tmp_path / "test.parquet")
    assert (tmp_path / "test.parquet").stat().st_size < 200_000  # unfolds to a gigabyte
    samples = find_samples(tmp_path, 10, limits=Limits(bytes=64 << 20))
    with pytest.raises(IntegrityError, match=r"row group 0 needs .* bytes, above the limit"):
        samples.source.read(0)
    many = pyarrow.table({"image": [b"x"] * 10_000, "label": np.zeros(10_000, np.int64)})
    parquet.write_table(many, tmp_path / "test.parquet")
    with pytest.raises(IntegrityError, match=r"the list of .*needs 2,000,000 bytes"):
        find_samples(tmp_path, 10, limits=Limits(bytes=1 << 20))


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_parquet_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    from tests.data.test_everyday_data import shard

    good = tmp_path / "good"
    if not good.exists():
        shard(tmp_path / "x/test.parquet", [1, 2, 3])
        good.write_bytes((tmp_path / "x/test.parquet").read_bytes())
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x/test.parquet").write_bytes(content)
    try:
        samples = find_samples(tmp_path / "x", 10)
        for index in range(len(samples)):
            samples.source.read(index)
    except StrzooError as error:
        assert "\n" not in str(error)  # noqa: PT017


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_a_line_does_not_become_gigapixels(tmp_path: Path) -> None:
    for size in ((1, 65500), (65500, 1)):
        image = decode(_png(Image.new("RGB", size)))
        with pytest.raises(BrokenImageError, match=r"resized to .*4,292,608,000 pixels, above"):
            prepare(image, IMAGENET)
        image.save(tmp_path / "a.png")
        with pytest.raises(BrokenImageError, match=r"a\.png: an image of .* pixels: resized"):
            load_samples(tmp_path, (3, 224, 224), IMAGENET)
    # A panorama is none.
    assert prepare(Image.new("RGB", (20_000, 300)), IMAGENET).shape == (224, 224, 3)


def test_what_is_no_file_is_named_and_nothing_blocks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        os.makedirs(tmp_path / "data" / name)
    os.mkfifo(tmp_path / "data/a/x.jpg")
    os.symlink("/dev/zero", tmp_path / "data/b/y.jpg")
    samples = find_samples(tmp_path / "data", 2)
    for index, kind in enumerate(("a FIFO", "a device")):
        with pytest.raises(StrzooError, match=f"{samples.names[index]} is {kind}, not a file"):
            samples.source.read(index)
    with pytest.raises(StrzooError, match=r"x\.jpg is a FIFO"):
        load_samples(tmp_path / "data", (3, 32, 32), SMALL)
    write(tmp_path / "flat", VAL[:2])
    os.mkfifo(tmp_path / "labels.txt")
    with pytest.raises(IntegrityError, match=r"labels\.txt is a FIFO"):
        find_samples(tmp_path / "flat", 1000, labels=tmp_path / "labels.txt")
    for path in ("/dev/zero", tmp_path / "labels.txt"):
        with pytest.raises(IntegrityError, match="not a file"):
            find_samples(path, 10)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("val.txt", "a.jpg ²\nb.jpg ٣"),
        ("val.txt", f"a.jpg {'9' * 5000}\nb.jpg 1"),
        ("labels.txt", "²\n³"),
        ("labels.txt", "9" * 5000 + "\n1"),
        (GROUND_TRUTH, "٣\n٤"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\na," + "n" * 200_000),
        ("real.json", "[" * 200_000),
        ("real.json", "[[1e999]]"),
        ("real.json", f"[[{'9' * 5000}]]"),
        ("val.txt", "\0\0\0\0"),
    ],
)
def test_odd_label_files_end_in_one_line(name: str, content: str, tmp_path: Path) -> None:
    write(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(StrzooError) as caught:
        find_samples(tmp_path, 1000)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_label_file_of_sets_does_not_fill_the_memory(tmp_path: Path) -> None:
    write(tmp_path, VAL[:2])
    (tmp_path / "real.json").write_text(f"[[{','.join(['7'] * 100_000)}], [3]]")
    samples = find_samples(tmp_path, 1000)
    assert samples.labels.tolist() == [[7], [3]]
    assert labels(samples) == [7, 3]
