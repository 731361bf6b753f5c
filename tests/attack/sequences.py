"""EdgeML's folders of arrays, and FastGRNN files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.attack.case import READ, Case


def _npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin1", "replace")
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little", signed=False)
    return b"\x93NUMPY" + version + size + text + content


def _saved(array: np.ndarray, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def _header(shape: str, kind: str = "'<f4'") -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n"


def _contents() -> dict[str, bytes]:
    return {
        "empty": b"",
        "words": b"words",
        "of 10^12": _npy(_header("(1000000, 1000000)"), bytes(16)),
        "of 2^62": _npy(_header("(4611686018427387904, 4)"), bytes(16)),
        "negative": _npy(_header("(-1, 4)"), bytes(16)),
        "of 100 axes": _npy(_header("(" + "1, " * 100 + ")"), bytes(16)),
        "of objects": _saved(np.array([{}], object), True),
        "of texts": _saved(np.array(["a"])),
        "structured": _npy(_header("(1,)", "[('a', '<f4', (1000000,))]"), bytes(16)),
        "of dates": _saved(np.zeros(4, "M8[s]")),
        "complex": _saved(np.zeros((1, 8), complex)),
        "not finite": _saved(np.full((1, 8), np.nan, np.float32)),
        "header calls": _npy("__import__('os').system('touch executed')\n", bytes(16)),
        "header deep": _npy("(" * 9000, bytes(16)),
        "header of 60,000": _npy(" " * 60_000 + _header("(1,)"), bytes(16)),
        "header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(16),
        "version 9": _npy(_header("(1, 8)"), bytes(32), b"\x09\x00"),
        "a zip": b"PK\x03\x04" + bytes(100),
        "cut": _saved(np.ones((1, 8), np.float32))[:-7],
        "other shape": _saved(np.ones((3, 3), np.float32)),
        "no axes": _saved(np.float32(1)),
    }


def cases() -> Iterator[Case]:
    for name, content in _contents().items():
        for broken in ("Bg.npy", "W.npy"):

            def write(folder: Path, broken: str = broken, content: bytes = content) -> None:
                sound = {"Bg": (1, 8), "Bh": (1, 8), "W": (4, 8), "U": (8, 8), "zeta": (1, 1),
                         "nu": (1, 1), "FC": (8, 3), "FCbias": (3,)}  # fmt: skip
                for part, shape in sound.items():
                    np.save(folder / f"{part}.npy", np.full(shape, 0.1, np.float32))
                (folder / broken).write_bytes(content)

            yield Case(f"arrays: {broken} {name}", write, ("rnn", "report", "."), READ)
