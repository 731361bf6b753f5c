"""What is no file where a model, labels, a recipe or a cache is expected; names that no one can
print; variables of the environment stay with tests/downloads."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.attack.case import READ, REFUSED, Case
from tests.attack.images import _places

_COMMANDS = {
    "report": ("report", "x.pth"),
    "convert": ("convert", "x.pth", "out.pth"),
    "import": ("import", "x.pth"),
    "inspect": ("inspect", "x.onnx"),
    "compile": ("compile", "x.onnx"),
    "predict": ("predict", "x.strz", "@image"),
    "classes": ("predict", "@cifar", "@image", "--classes", "x.txt"),
    "labels": ("evaluate", "@imagenet", "--data", "@images", "--labels", "x.txt"),
    "real": ("evaluate", "@imagenet", "--data", "@images", "--real", "x.json"),
    "train": ("train", "x.yaml", "--dry-run"),
    "rnn train": ("rnn", "train", "x.yaml", "--dry-run"),
    "list": ("list", "--registry", "x.json"),
    "budgets": ("budgets", "show", "x.json"),
    "runs": ("paper", "1", "--runs", "x.d"),
    "rnn report": ("rnn", "report", "x.pth"),
}


def cases() -> Iterator[Case]:
    for (command, words), (kind, make) in itertools.product(_COMMANDS.items(), _places().items()):
        name = next(word for word in words if word.startswith("x."))
        if kind == "without permission" and os.geteuid() == 0:
            continue
        codes = READ if "folder" in kind and command in ("runs", "rnn report") else REFUSED

        def write(folder: Path, name: str = name, make: Callable[[Path], object] = make) -> None:
            make(folder / name)

        yield Case(f"place: {kind} ({command})", write, words, codes)
    for kind, raw in {
        "of no UTF-8": b"\xff\xfe.png",
        "with escapes": b"a\x1b[31m\n.png",
        "of 250 letters": b"a" * 250 + b".png",
        "like an option": b"--json.png",
        "right to left": "\u202egnp.png".encode(),
    }.items():
        for words in (("predict", "@cifar", "."), ("evaluate", "@cifar", "--data", ".")):

            def write_named(folder: Path, raw: bytes = raw) -> None:
                with open(os.fsencode(folder) + b"/" + raw, "wb") as stream:
                    stream.write(b"x")

            yield Case(f"place: a name {kind} ({words[0]})", write_named, words)
