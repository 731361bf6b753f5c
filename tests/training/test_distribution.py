"""Two processes of torchrun train as one process does on the same global batches, to rounding."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import strzoo
from strzoo.checkpoint.reading import read_document
from strzoo.data.imageset import ImageSet
from strzoo.training import datasets
from strzoo.training.parsing import dump_config
from tests.helpers.runs import SHORT, environment

CALM = dataclasses.replace(
    SHORT, learning_rate=0.01, epochs=1, warmup_epochs=0, target_end=0.6, checkpoint_every=0
)
ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# The command as it is, but in double precision, where rounding is far from everything else.
DOUBLE = """
import sys, torch
from strzoo.cli import run
from tests.training.test_distribution import in_doubles
torch.set_num_threads(1)
with in_doubles():
    sys.exit(run(["train", sys.argv[1]]))
"""


@contextlib.contextmanager
def in_doubles() -> Iterator[None]:
    """Networks and images in double precision, and 160 digits of each split."""
    load = datasets.load_digits

    def load_some(split: str) -> ImageSet:
        some = load(split)
        return dataclasses.replace(
            some, images=some.images[:160].double(), labels=some.labels[:160]
        )

    torch.set_default_dtype(torch.float64)
    datasets.load_digits = load_some  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        datasets.load_digits = load


def assert_close(one: Path, two: Path, tolerance: float) -> None:
    """Everything in the state dicts, and the losses."""
    first, second = (read_document(folder / "last.pth") for folder in (one, two))
    start = read_document(one / "initial.pth")["state_dict"]
    for key, value in first["state_dict"].items():
        torch.testing.assert_close(
            second["state_dict"][key], value, rtol=tolerance, atol=tolerance, msg=key
        )
        if key.endswith("conv1.weight"):  # and what is compared has learned
            assert (value - start[key]).abs().max() > 1e-3
    a, b = (document["training"]["history"][-1] for document in (first, second))
    for name in ("train_loss", "train_top1", "loss", "top1", "sparsity"):
        assert b[name] == pytest.approx(a[name], rel=max(tolerance, 1e-6))  # logits are fp32


@pytest.mark.slow
def test_two_processes_with_shared_batchnorm_equal_one_to_the_rounding_of_doubles(
    tmp_path: Path,
) -> None:
    config = dataclasses.replace(CALM, sync_batchnorm=True, batch_size=32)
    with in_doubles():
        strzoo.train(dataclasses.replace(config, output=str(tmp_path / "one")))
    (tmp_path / "double.py").write_text(DOUBLE)
    file = tmp_path / "two.yaml"
    file.write_text(dump_config(dataclasses.replace(config, output=str(tmp_path / "two"))))
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / "double.py"), str(file)],
        env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    assert done.stdout.count("best") == 1  # only the first process speaks
    assert_close(tmp_path / "one", tmp_path / "two", 1e-9)


@pytest.mark.slow
def test_batches_in_parts_equal_whole_ones_where_no_batchnorm_looks_at_them(
    tmp_path: Path,
) -> None:
    # BatchNorm sees one part at a time; frozen, it holds its statistics and looks at none.
    config = dataclasses.replace(CALM, freeze=("bn1", "*.bn?", "*.downsample.1"), ema_decay=None)
    for accumulate in (1, 4):
        output = str(tmp_path / str(accumulate))
        strzoo.train(dataclasses.replace(config, accumulate=accumulate, output=output))
    assert_close(tmp_path / "1", tmp_path / "4", 1e-4)
