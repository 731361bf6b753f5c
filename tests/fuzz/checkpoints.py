"""Mutated checkpoint files: each is read or refused in one line, in bounded time and memory.

    python -m tests.fuzz.checkpoints [COUNT] [--seed SEED]

Bytes of a small complete file in each container are changed, cut or repeated. The exit code is 1
if reading one ended in anything but a checkpoint or one of our errors, or took too long.
"""

from __future__ import annotations

import pickle
import time
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

import strzoo
from strzoo.errors import StrzooError
from tests.helpers.foreign import foreign_values, write_tar
from tests.helpers.fuzzing import main

SECONDS = 10.0  # that reading one may take
BYTES = 500_000_000  # of Python objects
_SPANS = (200, 4000, None)  # the structure is at both ends; damage there most often
_VALUES = (0, 1, 0x2E, 0x7F, 0x80, 0xFF)


def make_seeds(folder: Path) -> dict[str, bytes]:
    """The bytes of a small complete checkpoint in each container and form, by name."""
    torch.manual_seed(0)
    model = strzoo.create_model("mobilenetv1", width=0.1, num_classes=2).eval()
    checkpoint = strzoo.build_checkpoint(model)
    for name in ("zip.pth", "plain.safetensors", "compact.safetensors"):
        strzoo.save_checkpoint(checkpoint, folder / name, compact=name.startswith("compact"))
    state = dict(model.state_dict())
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    write_tar(folder / "tar.pth", state)
    arrays = {key: value.numpy() for key, value in state.items()}
    (folder / "arrays.pkl").write_bytes(pickle.dumps({"model": arrays}, 4))
    with foreign_values() as values:
        torch.save(
            {**values, "ema": {f"module.{k}": v for k, v in state.items()}}, folder / "f.ckpt"
        )
    torch.save({"net": nn.DataParallel(model)}, folder / "whole.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is on its way out
        torch.jit.trace(model, torch.zeros(1, 3, 32, 32)).save(str(folder / "script.pt"))
        sparse = {k: v.to_sparse() if v.dim() == 4 else v for k, v in state.items()}
        torch.save(sparse, folder / "sparse.pth")
    prune.l1_unstructured(model.fc, "weight", amount=0.5)
    torch.save({"state_dict": model.state_dict()}, folder / "pruned.pth")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mutate(content: bytes, random: np.random.Generator) -> bytes:
    """`content` cut off, or with a few changed, removed or repeated bytes."""
    changed = bytearray(content)
    if random.random() < 0.2:
        del changed[int(random.integers(0, len(changed))) :]
        return bytes(changed)
    for _ in range(int(random.integers(1, 9))):
        span = _SPANS[int(random.integers(len(_SPANS)))] or len(changed)
        place = int(random.integers(0, max(1, min(span, len(changed)))))
        place = place if random.random() < 0.5 else max(0, len(changed) - 1 - place)
        kind = random.random()
        if kind < 0.8:
            value = random.choice(_VALUES) if random.random() < 0.3 else random.integers(256)
            changed[place : place + 1] = bytes([int(value)])
        elif kind < 0.9:
            del changed[place : place + int(random.integers(1, 9))]
        else:
            changed[place:place] = changed[place : place + int(random.integers(1, 65))]
    return bytes(changed)


def fuzz(count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Read so many mutated files: how many were read and refused, and what went wrong."""
    (folder / "seeds").mkdir()
    seeds = list(make_seeds(folder / "seeds").items())
    counts: Counter[str] = Counter()
    problems = []
    path = folder / "mutated.bin"
    for number in range(count):
        random = np.random.default_rng([seed, number])
        name, content = seeds[number % len(seeds)]
        path.write_bytes(mutate(content, random))
        tracemalloc.start()
        started = time.perf_counter()
        try:
            strzoo.read_checkpoint(path).sparsity()
            counts["read"] += 1
            wrong = ""
        except StrzooError as error:
            counts["refused"] += 1
            wrong = "a line break in the error" if "\n" in str(error) else ""
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        seconds, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        if seconds > SECONDS or peak > BYTES:
            wrong = f"{seconds:.1f} s, {peak / 1e6:.0f} MB"
        if wrong:
            problems.append(f"mutation {number} of {name} (seed {seed}): {wrong}")
    return counts, problems


if __name__ == "__main__":
    main(fuzz, __doc__ or "")
