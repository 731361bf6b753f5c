"""What the tests of training share: a short run with every stateful part, and its final state."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from strzoo.checkpoint.reading import read_document
from strzoo.training.config import TrainConfig

# 5 steps an epoch; target, average, augmentation and label smoothing at work.
SHORT = TrainConfig(
    recipe="short",
    architecture="resnet20",
    num_classes=10,
    method="str",
    s_init=-8.0,
    target_sparsity=0.8,
    ema_decay=0.9,
    dataset="digits",
    augmentation="pad_crop",
    padding=1,
    epochs=2,
    batch_size=256,
    learning_rate=0.1,
    warmup_epochs=1,
    log_every=1,
    checkpoint_every=3,
    tensorboard=False,
)
_TIMES = ("seconds", "images_per_second")


def environment(**more: str) -> dict[str, str]:
    """For processes that tests start: quiet and on one thread, as the tests themselves."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def run_program(program: str, *arguments: object, timeout: float = 300) -> int:
    """Run Python code in a process of its own; its exit code (negative: the signal)."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment(), timeout=timeout, capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def final_state(folder: Path) -> dict[str, Any]:
    """All that last.pth holds, but for times and the settings of the run itself."""
    document = read_document(folder / "last.pth")
    training = document["training"]
    for name in ("config", "seconds"):
        del training[name]
    for record in training["history"]:
        for name in _TIMES:
            del record[name]
    return document


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two nested states differ, to the bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [where]
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        if set(first) != set(second):
            return [f"{where}: {sorted(set(first) ^ set(second), key=str)}"]
        return [d for key in first for d in differences(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [f"{where}: {len(first)} and {len(second)} entries"]
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}[{i}]")]
    return [] if first == second and type(first) is type(second) else [f"{where}: {first} {second}"]
