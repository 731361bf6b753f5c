"""Checkpoint files that lie or attack, written opcode by opcode; none takes more than some MB."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def zip_file(path: Path, body: bytes, members: Mapping[str, bytes] | None = None) -> Path:
    """A file of torch's with that pickle; `members` are storages by key."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", body)
        for key, content in (members or {}).items():
            archive.writestr(f"a/data/{key}", content)
    return path


def opcodes(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def entries(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(name: str, *arguments: bytes) -> bytes:
    """A call of `module.name`."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n(".encode() + b"".join(arguments) + b"tR"


def tensor(
    key: str, count: int, shape: Sequence[int], stride: Sequence[int], offset: int = 0
) -> bytes:
    """A tensor in a storage of `count` floats, as torch writes it."""

    def numbers(values: Sequence[int]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    return call(
        "torch._utils._rebuild_tensor_v2",
        *(storage + number(count) + b"tQ", number(offset), numbers(shape), numbers(stride)),
        *(b"\x89", b"ccollections\nOrderedDict\n)R"),
    )


def with_entry(path: Path, state: Mapping[str, Tensor], changed: Mapping[str, bytes]) -> Path:
    """A whole state dict but for entries that are those opcodes; storage "z" is four zeros."""
    members, items = {"z": bytes(4)}, {}
    for index, (key, value) in enumerate(state.items()):
        floats = value.float()
        items[key] = tensor(str(index), value.numel(), value.shape, floats.stride())
        members[str(index)] = floats.numpy().tobytes()
    return zip_file(path, opcodes(entries({**items, **changed})), members)


def safetensors_file(path: Path, header: Any, content: bytes = b"") -> Path:
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + content)
    return path


def _compact(path: Path, shape: Any, mask: int) -> Path:
    fields = {"format": "strzoo-compact", "version": "1", "shapes": json.dumps({"t": shape})}
    return safetensors_file(
        path,
        {
            "__metadata__": fields,
            "t.mask": {"dtype": "U8", "shape": [mask], "data_offsets": [0, mask]},
            "t.values": {"dtype": "F32", "shape": [0], "data_offsets": [mask, mask]},
        },
        bytes(mask),
    )


def _network(children: Mapping[str, bytes]) -> bytes:
    state = {"_parameters": b"}", "_buffers": b"}", "_modules": entries(children)}
    return b"cown\nNet\n)\x81" + entries(state) + b"b"


def _endless_network() -> bytes:
    """Fifty layers, each twice in the next: 2^50 of them."""
    body = _network({}) + b"q\x01"
    for index in range(1, 50):
        previous = b"h" + bytes([index])
        body += b"0" + _network({"a": previous, "b": previous}) + b"q" + bytes([index + 1])
    return body


def _shared_mapping() -> bytes:
    """A large mapping without tensors, in many places at once."""
    large = entries({str(index): b"N" for index in range(100_000)}) + b"q\x01"
    names = ["model", "state_dict", "net", "ema", *(f"e{index}" for index in range(30_000))]
    return large + b"0" + entries(dict.fromkeys(names, b"h\x01"))


def _tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member, content = tarfile.TarInfo(name), pickle.dumps(10**9, 2)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _old_pickle(path: Path, count: int) -> Path:
    """The format before torch 1.6, with a storage that says it has `count` numbers."""
    torch.save({"weight": torch.ones(7)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    start = content.rindex(struct.pack("<q", 7))
    path.write_bytes(content[:start] + struct.pack("<q", count) + content[start + 8 :])
    return path


def _sparse(path: Path, state: Mapping[str, Tensor], index: int, rows: int) -> Path:
    indices = torch.tensor([[index], [0], [0], [0]])
    shape = (rows, 64, 1, 1)
    made = torch.sparse_coo_tensor(indices, torch.ones(1), shape, check_invariants=False)
    torch.save({**state, "fc.weight": made}, path)
    return path


def _many_members(path: Path) -> Path:
    return zip_file(path, opcodes(b"}"), {str(index): b"" for index in range(20_000)})


def _bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(50_000_000))
    return path


LONG = 1 << 40
_FLOAT: dict[str, Any] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
Writer = Callable[[Path, Mapping[str, Tensor]], Path]


def _of(body: bytes) -> Writer:
    return lambda path, state: zip_file(path, opcodes(body))


def _head(
    shape: Sequence[int], stride: Sequence[int], *, count: int = 1, offset: int = 0
) -> Writer:
    changed = {"fc.weight": tensor("z", count, shape, stride, offset)}
    return lambda path, state: with_entry(path, state, changed)


# What a file tries, how it is written, and what the error says.
HOSTILE: dict[str, tuple[Writer, str]] = {
    "bytearray of 8 GB": (
        _of(entries({"a": call("builtins.bytearray", number(8 << 30))})),
        "holds a mapping with 'a', not a state dict",
    ),
    "bytes of 1 TB": (_of(b"\x8e" + struct.pack("<Q", LONG)), "or is damaged"),
    "bytearray opcode of 1 TB": (_of(b"\x96" + struct.pack("<Q", LONG)), "or is damaged"),
    "text of 1 TB": (_of(b"\x8d" + struct.pack("<Q", LONG)), "or is damaged"),
    "memo of 4 billion places": (_of(b"}r\xff\xff\xff\xff"), "with nothing, not a state dict"),
    "numpy scalar of 40 MB": (
        _of(
            entries(
                {
                    "a": call(
                        "numpy.core.multiarray.scalar",
                        call("numpy.dtype", text("U9999999"), b"\x89\x88"),
                        b"U\x01x",
                    )
                }
            )
        ),
        "or is damaged",
    ),
    "3,000 copies of a long text": (
        _of(
            text("a" * 4_000_000)
            + b"q\x01"
            + call("_codecs.encode", b"h\x01", text("latin1")) * 3000
        ),
        "above the limit of 1,073,741,824; raise it with STRZOO_MAX_BYTES",
    ),
    "more operations than any": (_of(b"}" * 2_200_000), "more than 2,097,152 operations"),
    "deep list": (_of(b"]" * 100_000 + b"a" * 99_999), "holds a list, not a state dict"),
    "deep tuple as a key": (_of(b"})" + b"2\x86" * 60 + b"Ns"), "not a state dict"),
    "mapping in itself": (_of(b"}q\x01" + text("model") + b"h\x01s"), "not a state dict"),
    "keys of one hash": (
        _of(b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(50_000)) + b"u"),
        "not a state dict",
    ),
    "mapping everywhere": (_of(_shared_mapping()), "not a state dict"),
    "network without an end": (_of(_endless_network()), "a network whose layers do not end"),
    "integer of 5,000 digits": (_of(b"I" + b"9" * 5000 + b"\n"), "or is damaged"),
    "10^12 classes": (_head((10**12, 64, 1, 1), (0, 0, 0, 0)), "fc.weight claims"),
    "3 million classes": (_head((3_000_000, 64, 1, 1), (0, 0, 0, 0)), "claims 768,000,000 bytes"),
    "a storage that lies": (_head((9, 64, 1, 1), (64, 1, 1, 1), count=576), "not in the file"),
    "an offset before the start": (_head((3, 64, 1, 1), (0, 0, 0, 0), offset=-5), "damaged"),
    "a stride backwards": (_head((3, 64, 1, 1), (-1, 0, 0, 0)), "or is damaged"),
    "no classes": (_head((0, 64, 1, 1), (0, 0, 0, 0)), "no classes"),
    "70 axes": (_head([1] * 70, [0] * 70), "70 axes"),
    "sparse 64 billion": (lambda path, state: _sparse(path, state, 0, 10**9), "MAX_ELEMENTS"),
    "sparse outside": (lambda path, state: _sparse(path, state, 5, 3), "or is damaged"),
    "zip bomb": (lambda path, state: _bomb(path), "is a compressed archive"),
    "many members": (lambda path, state: _many_members(path), "not a state dict"),
    "tar of 10^9 storages": (lambda path, state: _tar(path), "or is damaged"),
    "old pickle of 10^12": (lambda path, state: _old_pickle(path, 10**12), "or is damaged"),
    "old pickle of -1": (lambda path, state: _old_pickle(path, -1), "or is damaged"),
    "safetensors header deep": (
        lambda path, state: safetensors_file(
            path, {"__metadata__": {"strzoo": "[" * 100_000}, "t": _FLOAT}, bytes(4)
        ),
        "nested too deeply",
    ),
    "safetensors integer": (
        lambda path, state: safetensors_file(
            path, {"__metadata__": {"strzoo": "9" * 5000}, "t": _FLOAT}, bytes(4)
        ),
        "its header",
    ),
    "safetensors 10^12": (
        lambda path, state: safetensors_file(path, {"t": {**_FLOAT, "shape": [10**12]}}, bytes(4)),
        "or is damaged",
    ),
    "compact mask of 40 million": (
        lambda path, state: _compact(path, [320_000_000], 40_000_000),
        "above the limit of 268,435,456",
    ),
    "compact shape of 10^18": (lambda path, state: _compact(path, [10**18], 9), "does not have"),
    "compact 100,000 axes": (lambda path, state: _compact(path, [1] * 100_000, 1), "not a shape"),
}
