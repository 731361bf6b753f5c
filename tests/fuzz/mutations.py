"""Mutated files of every format that strzoo reads: each gives a result or an error in one line.

    python -m tests.fuzz.mutations [COUNT] [--seed SEED]

Bytes of one seed file in each format are changed, cut or repeated, and the file is read as a
command would. The exit code is 1 if one ended in anything but a result or one of our errors, took
longer than 10 s or more than 2 GB, or started a program.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import strzoo
from strzoo.benchmarking.memory import peak_resident
from strzoo.errors import StrzooError
from strzoo.settings import Settings
from strzoo.zoo.registry import data_path
from tests.fuzz.checkpoints import SECONDS, make_seeds, mutate
from tests.helpers.fuzzing import main

BYTES = 2 << 30  # of memory that the whole process may take
_PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")
_started: list[str] = []


class _Mean(nn.Module):
    """A thousand classes, so that labels of ImageNet fit."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).repeat(1, 334)[:, :1000]


def _picture(kind: str) -> bytes:
    content = io.BytesIO()
    pixels = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def _write_onnx(path: Path, *, quantised: bool) -> None:
    weight = np.linspace(-1, 1, 4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
    tensors = [numpy_helper.from_array(weight, "w")]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    if quantised:
        tensors = [
            numpy_helper.from_array((weight * 127).astype(np.int8), "q"),
            numpy_helper.from_array(np.float32(1 / 127), "s"),
            numpy_helper.from_array(np.int8(0), "z"),
        ]
        nodes.insert(0, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))


def _write_data(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (folder / "a.png").write_bytes(_picture("PNG"))
    (folder / "a.jpg").write_bytes(_picture("JPEG"))
    rows = [{"bytes": _picture("PNG"), "path": None}] * 3
    table = pyarrow.table({"image": rows, "label": [0, 1, 2]})
    parquet.write_table(table, folder / "test-00000-of-00001.parquet")
    with tarfile.open(folder / "a-000000.tar", "w") as archive:
        for number in range(3):
            for end, content in (("png", _picture("PNG")), ("cls", str(number).encode())):
                member = tarfile.TarInfo(f"{number}.{end}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    lines = [f"{number}.png" for number in range(3)]
    (folder / "labels.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(lines)))
    text = "ImageId,PredictionString\n" + "".join(f"{i},n01440764 1 2 3 4\n" for i in range(3))
    (folder / "labels.csv").write_text(text)
    (folder / "wide.txt").write_text("0.png 0\n1.png 1\n2.png 2\n", encoding="utf-16")
    (folder / "recipe.yaml").write_text("epochs: 30\nbatch_size: 8\n")
    registry = json.loads(data_path("checkpoints.json").read_text())
    card = registry["models"][0]  # of resnet50_dense; here of a network that is not published
    registry["models"] = [card | {"id": "resnet20_dense", "architecture": "resnet20"}]
    (folder / "registry.json").write_text(json.dumps(registry, indent=1))


def make_all(folder: Path) -> dict[str, bytes]:
    """The bytes of one small whole file in each format, by name."""
    made = make_seeds(folder)
    _write_onnx(folder / "plain.onnx", quantised=False)
    _write_onnx(folder / "quantised.onnx", quantised=True)
    strzoo.compile(folder / "plain.onnx", cache=False).save(folder / "plan.strz")
    _write_data(folder)
    return made | {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Readers:
    """What a command does with a file of each format."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.images.mkdir()
        for number in range(3):
            (self.images / f"{number}.png").write_bytes(_picture("PNG"))
        self.network = _Mean().eval()
        self.settings = replace(Settings.from_env(), offline=True, cache_dir=folder / "cache")

    def find(self, name: str) -> Callable[[Path], Any]:
        """The reader for files called so."""
        end = name.rpartition(".")[2]
        if end in ("parquet", "tar"):
            return lambda path: strzoo.evaluate(self.network, path, workers=0)
        if end in ("txt", "csv"):
            return lambda path: strzoo.evaluate(self.network, self.images, labels=path, workers=0)
        return {
            "onnx": self._read_onnx,
            "strz": lambda path: strzoo.compile(path)(np.zeros((1, 3, 8, 8), np.float32)),
            "png": lambda path: strzoo.predict(self.network, path, top=1),
            "jpg": lambda path: strzoo.predict(self.network, path, top=1),
            "yaml": strzoo.load_recipe,
            "json": self._read_registry,
        }.get(end, lambda path: strzoo.read_checkpoint(path).sparsity())

    def _read_onnx(self, path: Path) -> None:
        strzoo.inspect_onnx(path)
        strzoo.predict(path, self.images / "0.png", top=1)

    def _read_registry(self, path: Path) -> None:
        strzoo.list_models(settings=replace(self.settings, registries=(path,)))


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _PROGRAMS:
        _started.append(event)


def fuzz(count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Read so many mutated files: how many were read and refused, and what went wrong."""
    seeds, mutated = folder / "seeds", folder / "mutated"
    seeds.mkdir()
    mutated.mkdir()
    files = list(make_all(seeds).items())
    readers = Readers(folder)
    counts: Counter[str] = Counter()
    problems = []
    sys.addaudithook(_watch)
    for number in range(count):
        name, content = files[number % len(files)]
        path = mutated / name
        path.write_bytes(mutate(content, np.random.default_rng([seed, number])))
        _started.clear()
        started = time.perf_counter()
        try:
            readers.find(name)(path)
            counts["read"] += 1
            wrong = ""
        except StrzooError as error:
            counts["refused"] += 1
            wrong = "a line break in the error" if "\n" in str(error) else ""
            wrong = wrong or ("a long error" if len(str(error)) > 1500 else "")
        except Exception as error:
            wrong = f"{type(error).__name__}: {str(error)[:300]}"
        seconds = time.perf_counter() - started
        memory = peak_resident()
        if seconds > SECONDS or memory > BYTES or _started:
            wrong = f"{seconds:.1f} s, {memory / 1e6:.0f} MB, started {_started[:3]}; {wrong}"
        if wrong:
            problems.append(f"mutation {number} of {name} (seed {seed}): {wrong}")
        path.unlink()
    counts["formats"] = len(files)
    return counts, problems


if __name__ == "__main__":
    main(fuzz, __doc__ or "")
