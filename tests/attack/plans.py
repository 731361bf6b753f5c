"""`.strz` files: headers that lie, sealed anew, and damaged bytes."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.attack.case import READ, REFUSED, Case
from tests.helpers.sealing import seal

_COMMANDS = itertools.cycle(
    (
        ("predict", "a.strz", "@image"),
        ("evaluate", "a.strz", "--data", "@images"),
        ("benchmark", "a.strz", "--runs", "1", "--no-memory"),
        ("report", "a.strz"),
        ("compile", "a.strz"),
        ("inspect", "a.strz"),
        ("convert", "a.strz", "out.pth"),
    )
)


@lru_cache(maxsize=1)
def _sound() -> tuple[dict[str, Any], bytes]:
    """Header and arrays of a sound file."""
    import tempfile

    from strzoo.sealed_files import CONTENT
    from tests.fuzz.plans import make_files

    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), {1: 1})
        content = (Path(folder) / "0_1.strz").read_bytes()[CONTENT:]
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _seal(header: Any, arrays: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return seal(struct.pack("<Q", len(text)) + text + arrays)


def _changed(*path: Any, to: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        header, arrays = _sound()
        header = json.loads(json.dumps(header))
        place = header
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to
        return _seal(header, arrays)

    return make


def _removed(name: str) -> Callable[[], bytes]:
    def make() -> bytes:
        header, arrays = _sound()
        return _seal({k: v for k, v in header.items() if k != name}, arrays)

    return make


def _contents() -> dict[str, Callable[[], bytes]]:
    plan = ("plans", 0)
    found: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "short": lambda: b"STRZ",
        "header deep": lambda: _seal(b"[" * 100_000),
        "header a list": lambda: _seal([1]),
        "header of 5,000 digits": lambda: _seal(b'{"strzoo": ' + b"9" * 5000 + b"}"),
        "header not text": lambda: _seal(b"\xff\xfe" * 100),
        "header of 2^63 bytes": lambda: seal(struct.pack("<Q", 1 << 63)),
        "content of nothing": lambda: seal(b""),
        "content of 3 bytes": lambda: seal(b"abc"),
        "a wrong hash": lambda: _seal(*_sound())[:-1] + b"x",
        "cut": lambda: _seal(*_sound())[:-100],
        "longer": lambda: _seal(*_sound()) + b"x",
        "no arrays": lambda: _seal(_sound()[0]),
        "no plans": _changed("plans", to=[]),
        "plans a mapping": _changed("plans", to={"a": 1}),
        "version deep": _changed("strzoo", to=[[[[]]]]),
        "metadata of numbers": _changed("metadata", to={"a": 1}),
        "metadata a list": _changed("metadata", to=[1]),
        "metadata hostile": _changed(
            "metadata", to={"strzoo.class_names": "[" * 9000, "strzoo.preprocessing": "{"}
        ),
        "model with controls": _changed("model", to="\x1b[31m\n" * 100),
        "model of 1 MB": _changed("model", to="a" * 10**6),
        "threads 10^9": _changed("threads", to=10**9),
        "images 2^40": _changed("images", to=1 << 40),
        "tuned of words": _changed("tuned", to="x"),
        "tuned infinite": _changed("tuned", to=float("inf")),
        "hardware of words": _changed("hardware", to={"lanes": "x"}),
        "lanes 2^62": _changed("hardware", "lanes", to=1 << 62),
        "fields missing": _changed("fields", to={}),
        "kernels unknown": _changed(*plan, "kernels", 0, 0, to="Evil"),
        "kernels empty": _changed(*plan, "kernels", to=[]),
        "kernel deep": _changed(*plan, "kernels", 0, 1, to={"a": {"b": {}}}),
        "steps beyond": _changed(*plan, "steps", 0, to=10**6),
        "steps negative": _changed(*plan, "steps", 0, to=-1),
        "steps true": _changed(*plan, "steps", 0, to=True),
        "rows beyond": _changed(*plan, "rows", to=[0, 1 << 40]),
        "rows negative": _changed(*plan, "rows", to=[-64, 64]),
        "rows crooked": _changed(*plan, "rows", to=[1, 64]),
        "rows of words": _changed(*plan, "rows", to="ab"),
        "row fields 0": _changed(*plan, "row_fields", to=0),
        "row fields 2^62": _changed(*plan, "row_fields", to=1 << 62),
        "constants none": _changed(*plan, "constants", to=[0, 0]),
        "arena of 8 bytes": _changed(*plan, "arena", to=8),
        "arena of 2^39": _changed(*plan, "arena", to=1 << 39),
        "arena negative": _changed(*plan, "arena", to=-1),
        "scratch of 2^39": _changed(*plan, "scratch", to=1 << 39),
        "scratch of 1": _changed(*plan, "scratch", to=1),
        "images of 2^30": _changed(*plan, "images", to=1 << 30),
        "input of 2^39": _changed(*plan, "input_shape", to=[3, 1 << 30, 256]),
        "input of one axis": _changed(*plan, "input_shape", to=[3]),
        "output of 2^39": _changed(*plan, "output_shape", to=[1 << 39]),
        "output of none": _changed(*plan, "output_shape", to=[]),
        "chosen of numbers": _changed(*plan, "chosen", to=[1]),
        "layers of words": _changed(*plan, "layers", to=["x"]),
        "layer names missing": _changed(*plan, "step_layers", to=[]),
        "threads of a plan 2^40": _changed(*plan, "threads", to=1 << 40),
        "lanes of a plan 3": _changed(*plan, "lanes", to=3),
    }
    found |= {
        f"without {name}": _removed(name) for name in ("plans", "hardware", "fields", "model")
    }
    return found


def cases() -> Iterator[Case]:
    for name, make in _contents().items():

        def write(folder: Path, make: Callable[[], bytes] = make) -> None:
            (folder / "a.strz").write_bytes(make())

        codes = READ if name.startswith(("model", "metadata hostile", "tuned")) else REFUSED
        yield Case(f"plan: {name}", write, next(_COMMANDS), codes)
