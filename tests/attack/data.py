"""Archives and tables of images: tar, gzip, CIFAR, parquet, WebDataset, the development kit."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.attack.case import READ, Case

_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_KINDS = {"a link": tarfile.SYMTYPE, "a hard link": tarfile.LNKTYPE, "a device": tarfile.CHRTYPE,
          "a FIFO": tarfile.FIFOTYPE, "a folder": tarfile.DIRTYPE, "of type Z": b"Z"}  # fmt: skip


def _member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname = size, kind, link
    return header.tobuf(tarfile.GNU_FORMAT)


def _zeros(path: Path, head: bytes, size: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(head)
        for start in range(0, size, 1 << 20):
            stream.write(bytes(min(1 << 20, size - start)))


def _images(folder: Path) -> None:
    from tests.data.test_layouts import VAL, write

    write(folder, VAL[:2])


def _tars() -> dict[str, Callable[[Path], object]]:
    from tests.helpers.photographs import crop_photographs, jpeg

    picture = jpeg(crop_photographs(1)[0])
    padded = picture + bytes(-len(picture) % 512)

    def tar(*parts: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / "a.tar").write_bytes(b"".join(parts) + bytes(1024))

    image = _member("n01440764/a.jpg", len(picture)) + padded
    found = {f"member {kind}": tar(image, _member("n01443537/b.jpg", 0, code, "../../etc/passwd"))
             for kind, code in _KINDS.items()}  # fmt: skip
    return found | {
        "empty": tar(),
        "members of no bytes": tar(*[_member(f"n01440764/{i}.jpg") for i in range(2000)]),
        "member of 8 TB": tar(_member("n01440764/a.jpg", 8 << 40)),
        "member above": tar(_member("../../a.jpg", len(picture)), padded),
        "member absolute": tar(_member("/etc/a.jpg", len(picture)), padded),
        "links in a circle": tar(
            _member("n01440764/a.jpg", 0, tarfile.SYMTYPE, "b.jpg"),
            _member("n01440764/b.jpg", 0, tarfile.SYMTYPE, "a.jpg"),
        ),
        "the same name twice": tar(image, image),
        "long name of 1 GB": tar(_member("././@LongLink", 1 << 30, tarfile.GNUTYPE_LONGNAME)),
        "extended header of 1 GB": tar(_member("x", 1 << 30, tarfile.XHDTYPE)),
        "extended headers without an end": tar(
            *[_member("x", 20, tarfile.XHDTYPE) + b"20 size=99999999999\n".ljust(512, b"\0")] * 3000
        ),
        "extended size of words": tar(
            _member("x", 13, tarfile.XHDTYPE) + b"13 size=\xb2\xb2\n".ljust(512, b"\0"), image
        ),
        "numbers of base 256": tar(image[:124] + b"\xff" * 12 + image[136:]),
        "checksum wrong": tar(b"\xff" + image[1:]),
        "cut": lambda folder: (folder / "a.tar").write_bytes(image[:700]),
        "sparse": tar(_member("n01440764/a.jpg", 512, tarfile.GNUTYPE_SPARSE) + b"\xff" * 512),
        "folders 5,000 deep": tar(_member("a/" * 40 + "a.jpg", len(picture)), padded),
    }


def _gzips() -> dict[str, tuple[str, Callable[[Path], object]]]:
    def bomb(name: str, member: str, kind: bytes = tarfile.REGTYPE) -> Callable[[Path], object]:
        def write(folder: Path) -> None:
            _images(folder)
            _zeros(folder / name, _member(member, 1500 << 20, kind), 1500 << 20)

        return write

    def content(name: str, raw: bytes) -> Callable[[Path], object]:
        def write(folder: Path) -> None:
            _images(folder)
            (folder / name).write_bytes(raw)

        return write

    return {
        "devkit bomb": (".", bomb(_DEVKIT, _TRUTH)),
        "devkit name bomb": (".", bomb(_DEVKIT, "x", tarfile.GNUTYPE_LONGNAME)),
        "cifar bomb": ("cifar-10-python.tar.gz", bomb("cifar-10-python.tar.gz", "test_batch")),
        "devkit empty": (".", content(_DEVKIT, b"")),
        "devkit of words": (".", content(_DEVKIT, b"words")),
        "devkit cut": (".", content(_DEVKIT, gzip.compress(_member(_TRUTH, 9))[:-9])),
        "devkit checksum": (
            ".", content(_DEVKIT, gzip.compress(_member(_TRUTH, 9))[:-8] + b"x" * 8)
        ),
        "cifar empty": ("cifar-10-python.tar.gz", content("cifar-10-python.tar.gz", b"")),
    }  # fmt: skip


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def _pickles() -> dict[str, bytes]:
    import os

    structured = np.dtype({"names": ["a"], "formats": ["u1"], "offsets": [200], "itemsize": 201})
    labels = [0, 1, 2, 3]
    arrays = {
        "a structured type": np.zeros(2, structured),
        "integers": np.zeros((4, 3072), np.int64),
        "objects": np.array([{}], object),
        "too few": np.zeros((4, 3071), np.uint8),
        "none": np.zeros((0, 3072), np.uint8),
        "another axis": np.zeros((4, 3072, 1), np.uint8),
    }
    found = {k: pickle.dumps({b"data": v, b"labels": labels}, 2) for k, v in arrays.items()}
    good = np.zeros((4, 3072), np.uint8)
    found |= {
        f"labels {kind}": pickle.dumps({b"data": good, b"labels": value}, 2)
        for kind, value in {"of texts": ["a"] * 4, "beyond": [10**30] * 4, "negative": [-1] * 4,
                            "few": [1], "none": None, "deep": [[[1]]] * 4}.items()
    }  # fmt: skip
    return found | {
        "a command": pickle.dumps({b"data": _Call(os.system, "touch executed")}, 2),
        "bytearray of 8 GB": pickle.dumps({b"data": _Call(bytearray, 1 << 33)}, 2),
        "memo of 2^32": b"\x80\x02}r\xff\xff\xff\xff",
        "bytes of 2^63": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f" + b"x" * 9,
        "deep": b"\x80\x02" + b"]" * 100_000 + b".",
        "empty": b"",
        "words": b"words",
    }


def _parquets() -> dict[str, Callable[[Path], object]]:
    import pyarrow
    import pyarrow.parquet as parquet

    def table(columns: dict[str, Any], **metadata: str) -> Callable[[Path], object]:
        def write(folder: Path) -> None:
            made = pyarrow.table(columns)
            made = made.replace_schema_metadata(metadata or None)
            parquet.write_table(made, folder / "test.parquet")

        return write

    def bomb(folder: Path) -> None:
        indices = pyarrow.array(np.zeros(20_000, np.int32))
        image = pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([bytes(200_000)]))
        table({"image": image, "label": np.zeros(20_000, np.int64)})(folder)

    def cut(folder: Path, keep: slice) -> None:
        table({"image": [b"x"] * 9, "label": [1] * 9})(folder)
        path = folder / "test.parquet"
        path.write_bytes(path.read_bytes()[keep] or b"PAR1")

    def footer(folder: Path) -> None:
        cut(folder, slice(None))
        path = folder / "test.parquet"
        path.write_bytes(path.read_bytes()[:-8] + b"\xff\xff\xff\x7fPAR1")

    names = '{"info": {"features": {"label": {"names": %s}}}}'
    return {
        "bomb": bomb,
        "cut at the end": lambda folder: cut(folder, slice(0, -20)),
        "cut at the start": lambda folder: cut(folder, slice(20, None)),
        "empty": lambda folder: (folder / "test.parquet").write_bytes(b""),
        "magic only": lambda folder: (folder / "test.parquet").write_bytes(b"PAR1PAR1"),
        "footer of 2 GB": footer,
        "no rows": table({"image": pyarrow.array([], pyarrow.binary()), "label": np.zeros(0, int)}),
        "labels of texts": table({"image": [b"x"], "label": ["a"]}),
        "labels none": table({"image": [b"x"], "label": pyarrow.array([None], pyarrow.int64())}),
        "labels of 2^62": table({"image": [b"x"], "label": [1 << 62]}),
        "labels negative": table({"image": [b"x"], "label": [-5]}),
        "labels nan": table({"image": [b"x"], "label": [float("nan")]}),
        "images of numbers": table({"image": [1], "label": [1]}),
        "images none": table({"image": pyarrow.array([None], pyarrow.binary()), "label": [1]}),
        "images of paths": table({"image": [{"bytes": None, "path": "/etc/passwd"}], "label": [1]}),
        "images not images": table({"image": [b"words"] * 2, "label": [1, 2]}),
        "no columns": table({}),
        "other columns": table({"a": [1]}),
        "features deep": table({"image": [b"x"], "label": [1]}, huggingface="[" * 100_000),
        "features of numbers": table({"image": [b"x"], "label": [1]}, huggingface=names % "[1, 2]"),
        "features of words": table({"image": [b"x"], "label": [1]}, huggingface='"abc"'),
    }


def _shards() -> dict[str, dict[str, bytes]]:
    from tests.helpers.photographs import crop_photographs, jpeg

    picture = jpeg(crop_photographs(1)[0])
    texts = {
        "superscripts": "\xb2".encode(), "5,000 digits": b"9" * 5000, "empty": b"",
        "negative": b"-1", "zeros": bytes(50), "words": b"cat", "of 2 MB": b"1" * (2 << 20),
    }  # fmt: skip
    found = {f"cls {kind}": {"0.jpg": picture, "0.cls": text} for kind, text in texts.items()}
    documents = {"deep": b"[" * 100_000, "a list": b"[1]", "infinite": b'{"label": 1e999}',
                 "digits": b'{"label": ' + b"9" * 5000 + b"}", "null": b'{"label": null}',
                 "true": b'{"label": true}',
                 "huge": b'{"label": 1' + b"0" * 300 + b"}"}  # fmt: skip
    return found | {
        f"json {kind}": {"0.jpg": picture, "0.json": text} for kind, text in documents.items()
    }


def cases() -> Iterator[Case]:
    for name, write in _tars().items():
        yield Case(f"tar: {name}", write, ("evaluate", "@imagenet", "--data", "a.tar"), READ)
    for name, (place, make) in _gzips().items():
        model = "@cifar" if "cifar" in name else "@imagenet"
        yield Case(f"gzip: {name}", make, ("evaluate", model, "--data", place), READ)
    for name, content in _pickles().items():

        def write_batch(folder: Path, content: bytes = content) -> None:
            (folder / "cifar-10-batches-py").mkdir()
            meta = {b"label_names": [b"a"] * 10}
            (folder / "cifar-10-batches-py/batches.meta").write_bytes(pickle.dumps(meta, 2))
            (folder / "cifar-10-batches-py/test_batch").write_bytes(content)

        command = ("evaluate", "@cifar", "--data", "cifar-10-batches-py")
        yield Case(f"cifar: {name}", write_batch, command, READ)
    for name, write in _parquets().items():
        yield Case(f"parquet: {name}", write, ("evaluate", "@cifar", "--data", "test.parquet"))
    for name, members in _shards().items():

        def write_shard(folder: Path, members: dict[str, bytes] = members) -> None:
            with tarfile.open(folder / "test-0000.tar", "w") as archive:
                for member, content in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))

        yield Case(
            f"webdataset: {name}",
            write_shard,
            ("evaluate", "@cifar", "--data", "test-0000.tar"),
            READ,
        )
