"""Checkpoints: pickles in each container, safetensors, compact files."""

from __future__ import annotations

import itertools
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.attack.case import READ, REFUSED, Case
from tests.helpers.foreign import write_tar
from tests.helpers.hostile import (
    HOSTILE,
    call,
    entries,
    number,
    opcodes,
    safetensors_file,
    tensor,
    text,
    zip_file,
)

_COMMANDS = itertools.cycle(
    (
        ("report", "a.pth"),
        ("convert", "a.pth", "out.pth"),
        ("import", "a.pth"),
        ("export", "a.pth", "-o", "out.onnx"),
        ("predict", "a.pth", "@image"),
        ("verify", "a.pth"),
        ("budgets", "extract", "a.pth", "-o", "out.json"),
        ("rnn", "report", "a.pth"),
        ("compile", "a.pth", "-o", "out.strz"),
        ("matrices", "a.pth", "-o", "out"),
        ("evaluate", "a.pth", "--data", "digits"),
        ("rnn", "convert", "a.pth", "out.pth"),
        ("benchmark", "a.pth"),
    )
)
_HARM = ("posix.system", "nt.system", "os.popen", "os.execv", "builtins.eval", "builtins.exec",
         "subprocess.Popen", "pty.spawn", "runpy.run_path", "socket.socket", "shutil.rmtree",
         "builtins.__import__", "importlib.import_module", "webbrowser.open", "code.interact",
         "builtins.getattr", "builtins.open", "io.open", "types.FunctionType", "ctypes.CDLL",
         "torch.load", "torch.hub.load", "numpy.load", "numpy.fromfile", "pickle.loads",
         "marshal.loads", "operator.attrgetter", "functools.partial",
         "builtins.compile")  # fmt: skip
_LONG = 1 << 40


@lru_cache(maxsize=1)
def small_state() -> dict[str, Tensor]:
    from tests.helpers.foreign import small_network

    return dict(small_network().state_dict())


def _bodies() -> dict[str, bytes]:
    """Pickles that lie, as the opcodes of protocol 2."""
    lied = {
        "list of 2^31": b"](" + b"N" * 10 + b"e",
        "frame of 2^60": b"\x95" + struct.pack("<Q", 1 << 60) + b"}",
        "get of nothing": b"h\x07",
        "put of a negative place": b"}p-5\n",
        "text of 4 GB": b"X\xff\xff\xff\xff",
        "bytes of 2 GB": b"T\xff\xff\xff\x7f",
        "integer of 2 GB": b"\x8b\xff\xff\xff\x7f",
        "integer of minus 5 bytes": b"\x8b\xfb\xff\xff\xff",
        "integer of superscripts": "I\xb2\n".encode(),
        "float of words": b"Fnan nan\n",
        "float beyond all": b"F1e99999\n",
        "unicode escapes": b"V\\ud800\n",
        "not closed": b"}(" + text("a"),
        "no end": b"}" * 5,
        "no mark": b"tR",
        "stack empty": b"0",
        "unknown opcode": b"\xfe",
        "extension registry": b"\x82\x01",
        "buffer from outside": b"\x97",
        "persistent of words": b"Pstorage\n",
        "persistent of a list": b"]Q",
        "set in itself": b"\x8fq\x01(h\x01\x90",
        "frozen set of mappings": b"(}\x91",
        "mapping as a key": b"}}Ns",
        "object without a class": b"N)\x81",
        "state of a tensor": tensor("0", 1, (1,), (1,)) + b"}(" + text("a") + b"Nub",
        "tensor of nothing": call("torch._utils._rebuild_tensor_v2"),
        "tensor of texts": call("torch._utils._rebuild_tensor_v2", text("a"), text("b"), text("c")),
        "tensor of 10^30": tensor("0", 1, (1 << 62, 1 << 62), (0, 0)),
        "tensor with a shape of texts": call(
            "torch._utils._rebuild_tensor_v2", text("a"), number(0), b"(" + text("x") + b"t"
        ),
        "parameter of a mapping": call("torch._utils._rebuild_parameter", b"}", b"\x88", b"}"),
        "device of words": call("torch.device", text("cuda:99999999999999999999")),
        "size of words": call("torch.Size", b"(" + text("a") + b"t"),
        "numpy array of 10^12": call(
            "numpy.core.multiarray._reconstruct", b"cnumpy\nndarray\n", b"(" + number(_LONG) + b"t",
            b"U\x01b",
        ),
        "numpy type of objects": call("numpy.dtype", text("O8"), b"\x89\x88"),
        "numpy type with fields": call("numpy.dtype", text("V8"), b"\x89\x88")
        + b"(" + number(3) + text("|") + b"N" + b"}" + b"N" + number(200) + number(1) + number(0)
        + b"tb",
        "ordered mapping of numbers": call("collections.OrderedDict", number(7)),
        "mapping from 10^6 pairs": call(
            "collections.OrderedDict", b"](" + (b"](" + text("a") + b"Ne") * 20_000 + b"e"
        ),
        "counter": call("collections.Counter", text("a" * 1000)),
        "range of 2^60": call("builtins.range", number(1 << 60)),
        "text times 2^30": call("operator.mul", text("a"), number(1 << 30)),
        "slice and complex": call("builtins.slice", number(1)) + b"0" + call("builtins.complex"),
        "decimal of 10^9": call("decimal.Decimal", text("1e999999999")),
        "fraction": call("fractions.Fraction", text("1/0")),
        "date": call("datetime.datetime", b"U\x0a" + bytes(10)),
        "path of a device": call("pathlib.PosixPath", text("/dev/zero")),
        "name with a dot": b"ctorch._utils\n__init__.__globals__\n",
        "name of 100,000 letters": b"c" + b"a" * 100_000 + b"\nb\n",
        "name that is no text": b"c\xff\xfe\n\xff\n",
        "stack global of numbers": number(1) + number(2) + b"\x93",
    }  # fmt: skip
    return {name: opcodes(body) for name, body in lied.items()}


def _old(body: bytes) -> bytes:
    """`body` as the object of a file of torch's before 1.6."""
    magic = 0x1950A86A20F9469CFC6C
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    return b"".join(pickle.dumps(v, 2) for v in (magic, 1001, system)) + body + pickle.dumps([], 2)


def _containers(body: bytes) -> dict[str, Callable[[Path], object]]:
    return {
        "zip": lambda folder: zip_file(folder / "a.pth", body, {"0": bytes(4)}),
        "old": lambda folder: (folder / "a.pth").write_bytes(_old(body)),
        "bare": lambda folder: (folder / "a.pth").write_bytes(body),
    }


def _whole(folder: Path) -> dict[str, bytes]:
    """A sound file in each container."""
    state = small_state()
    torch.save(state, folder / "zip")
    torch.save(state, folder / "old", _use_new_zipfile_serialization=False)
    write_tar(folder / "tar", state)
    import strzoo

    made = strzoo.build_checkpoint(state)
    for compact in (False, True):
        strzoo.save_checkpoint(made, folder / f"{compact}.safetensors", compact=compact)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    return found


def _damage(content: bytes, kind: str) -> bytes:
    half = len(content) // 2
    return {
        "cut at a half": content[:half],
        "cut at the end": content[:-9],
        "cut at the start": content[:40],
        "zeros inside": content[:half] + bytes(600) + content[half + 600 :],
        "ones at the start": content[:8] + b"\xff" * 40 + content[48:],
        "ones at the end": content[:-300] + b"\xff" * 300,
        "twice": content + content,
        "text before": b"# a comment\n" + content,
    }[kind]


_DAMAGES = ("cut at a half", "cut at the end", "cut at the start", "zeros inside",
            "ones at the start", "ones at the end", "twice", "text before")  # fmt: skip


def cases() -> Iterator[Case]:
    for name, (write, _) in HOSTILE.items():

        def make(folder: Path, write: Any = write) -> None:
            write(folder / "a.pth", small_state())

        yield Case(f"checkpoint: {name}", make, next(_COMMANDS))
    for name in _HARM:
        body = opcodes(entries({"a": call(name, text("touch executed"))}))
        for container, make_file in _containers(body).items():
            yield Case(f"checkpoint: calls {name} ({container})", make_file, next(_COMMANDS))
    for name, body in _bodies().items():
        for container, make_file in _containers(body).items():
            yield Case(f"checkpoint: {name} ({container})", make_file, next(_COMMANDS))
    for container in ("zip", "old", "tar", "False.safetensors", "True.safetensors"):
        for damage in _DAMAGES:

            def make_damaged(
                folder: Path, container: str = container, damage: str = damage
            ) -> None:
                content = _damage(_whole(folder)[container], damage)
                (folder / "a.pth").write_bytes(content)

            yield Case(f"checkpoint: {container} {damage}", make_damaged, ("report", "a.pth"), READ)
    yield from _safetensors()


def _tensor(**changed: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changed}


def _compact(shapes: Any, tensors: dict[str, Any], **fields: str) -> dict[str, Any]:
    written = shapes if isinstance(shapes, str) else json.dumps(shapes)
    header = {"format": "strzoo-compact", "version": "1", "shapes": written, **fields}
    return {"__metadata__": header, **tensors}


def _mask(bits: int, values: int) -> dict[str, Any]:
    return {
        "t.mask": _tensor(dtype="U8", shape=[bits], data_offsets=[0, bits]),
        "t.values": _tensor(shape=[values], data_offsets=[bits, bits + 4 * values]),
    }


def _headers() -> dict[str, tuple[Any, int]]:
    """Headers of safetensors files, and the bytes that follow."""
    huge = "[" * 100_000
    return {
        "no tensors": ({}, 0),
        "a list": ([], 0),
        "a number": (7, 0),
        "deep": (huge.encode(), 0),
        "not text": (b"\xff\xfe\xfd", 0),
        "zeros": (bytes(100), 100),
        "shape negative": ({"t": _tensor(shape=[-1])}, 4),
        "shape of 2^63": ({"t": _tensor(shape=[1 << 63])}, 4),
        "shape overflows": ({"t": _tensor(shape=[1 << 32, 1 << 32])}, 4),
        "shape of words": ({"t": _tensor(shape=["a"])}, 4),
        "shape of 10,000 axes": ({"t": _tensor(shape=[1] * 10_000)}, 4),
        "offsets backwards": ({"t": _tensor(data_offsets=[4, 0])}, 4),
        "offsets beyond": ({"t": _tensor(data_offsets=[0, 1 << 60])}, 4),
        "offsets overlap": ({"a": _tensor(), "b": _tensor()}, 4),
        "offsets with a hole": ({"t": _tensor(data_offsets=[8, 12])}, 12),
        "type unknown": ({"t": _tensor(dtype="F128")}, 4),
        "type of four bits": ({"t": _tensor(dtype="F4", shape=[8])}, 4),
        "name of 100,000 letters": ({"a" * 100_000: _tensor()}, 4),
        "name with controls": ({"a\x1b[31m\0\n": _tensor()}, 4),
        "10,000 empty tensors": (
            {str(i): _tensor(shape=[0], data_offsets=[0, 0]) for i in range(10_000)}, 0,
        ),
        "metadata of a list": ({"__metadata__": [1], "t": _tensor()}, 4),
        "metadata deep": ({"__metadata__": {"strzoo": huge}, "t": _tensor()}, 4),
        "metadata a list": ({"__metadata__": {"strzoo": "[1]"}, "t": _tensor()}, 4),
        "metadata of words": ({"__metadata__": {"strzoo": "{", "metadata": "}"}}, 0),
        "metadata nan": ({"__metadata__": {"strzoo": "NaN"}, "t": _tensor()}, 4),
        "metadata 5,000 digits": ({"__metadata__": {"strzoo": "9" * 5000}, "t": _tensor()}, 4),
        "options absurd": (
            {"__metadata__": {"strzoo": json.dumps({"width": 1e300, "num_classes": 1 << 62})},
             "t": _tensor()}, 4,
        ),
        "compact without shapes": ({"__metadata__": {"format": "strzoo-compact"}}, 0),
        "compact of version 2": (_compact({}, {}, version="2"), 0),
        "compact shapes deep": (_compact(huge, {}), 0),
        "compact shapes a list": (_compact([1], {}), 0),
        "compact shapes 5,000 digits": (_compact('{"t": [' + "9" * 5000 + "]}", _mask(1, 0)), 1),
        "compact shape negative": (_compact({"t": [-8]}, _mask(1, 0)), 1),
        "compact shape of texts": (_compact({"t": ["8"]}, _mask(1, 0)), 1),
        "compact shape true": (_compact({"t": [True]}, _mask(1, 0)), 1),
        "compact shape missing": (_compact({}, _mask(1, 0)), 1),
        "compact mask missing": (_compact({"t": [8]}, {}), 0),
        "compact mask too short": (_compact({"t": [800]}, _mask(1, 0)), 1),
        "compact mask too long": (_compact({"t": [8]}, _mask(9, 0)), 9),
        "compact mask of 100 million": (_compact({"t": [800_000_000]}, _mask(10**8, 0)), 10**8),
        "compact values missing": (_compact({"t": [8]}, _mask(1, 2)), 9),
        "compact shape of zeros": (_compact({"t": [0, 1 << 62, 1 << 62]}, _mask(0, 0)), 0),
        "compact values of texts": (_compact({"t": "8"}, _mask(1, 0)), 1),
    }  # fmt: skip


def _safetensors() -> Iterator[Case]:
    for name, (header, size) in _headers().items():

        def make(folder: Path, header: Any = header, size: int = size) -> None:
            path = safetensors_file(folder / "a.pth", header)
            with open(path, "ab") as stream:
                stream.truncate(path.stat().st_size + size)

        yield Case(f"safetensors: {name}", make, next(_COMMANDS), REFUSED)
    for length in (0, 1, 1 << 40, (1 << 64) - 1):

        def make_length(folder: Path, length: int = length) -> None:
            (folder / "a.pth").write_bytes(struct.pack("<Q", length) + b"{}")

        yield Case(f"safetensors: header of {length} bytes", make_length, next(_COMMANDS))
