"""Several processes share the images and give the very same counts as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import strzoo
from tests.helpers.photographs import reference_logits, small_network, write_class_folders

# A plain script of two processes hangs there now and then when it ends, in 2.7 more seldom.
pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8),
    reason="processes of gloo may hang at their end in torch before 2.8",
)
COUNT = 13  # divides by neither 2 nor 4
CLASSES = [f"class{i}" for i in range(10)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of images and a checkpoint file."""
    folder = tmp_path_factory.mktemp("processes")
    write_class_folders(folder / "set", CLASSES, [i % 10 for i in range(COUNT)])
    made = strzoo.build_checkpoint(small_network())
    strzoo.save_checkpoint(made, folder / "model.pth")
    return folder / "model.pth", folder / "set"


def command(*arguments: object) -> list[str]:
    return ["-m", "strzoo", "evaluate", *map(str, arguments), "--batch-size", "2"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def expected(work: tuple[Path, Path]) -> tuple[int, list[int]]:
    paths = sorted(work[1].glob("*/*.JPEG"))
    answers = reference_logits(small_network(), paths, resize=32, crop=32).argmax(1).tolist()
    right = sum(a == CLASSES.index(p.parent.name) for a, p in zip(answers, paths, strict=True))
    return right, answers


def test_two_machines_count_what_one_process_counts(
    work: tuple[Path, Path], tmp_path: Path
) -> None:
    # As on two nodes: a torchrun on each, which find each other at the first one's address.
    arguments = command("--json", work[0], "--data", work[1], "--workers", 1)
    port = free_port()
    nodes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={n}"),
                *("--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"),
                *(*arguments, "--predictions", str(tmp_path / "p.csv")),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )
        for n in range(2)
    ]  # fmt: skip
    outputs = [node.communicate(timeout=120) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    found = json.loads(outputs[0][0])  # one document: only the first process speaks
    assert outputs[1][0] == ""
    right, answers = expected(work)
    assert (found["images"], found["correct_top1"], found["processes"]) == (COUNT, right, 2)
    rows = (tmp_path / "p.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[3]) for row in rows] == answers


def start(rank: int, port: int, *arguments: object) -> subprocess.Popen[str]:
    variables = environment(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *command(*arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_count_what_one_counts_and_both_fail_if_one_does(
    work: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = (work[0], "--data", work[1], "--workers", 0, "--json")
    port = free_port()
    both = [start(rank, port, *arguments, "--resume", tmp_path / "kept") for rank in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    found = json.loads(outputs[0][0])
    assert (found["images"], found["correct_top1"]) == (COUNT, expected(work)[0])
    assert found["loss"] == pytest.approx(
        strzoo.evaluate(work[0], work[1], workers=0).loss, rel=1e-6
    )
    assert outputs[1][0] == ""
    assert list(tmp_path.iterdir()) == []
    # The image that cannot be read is the last process's; the first must not wait for ever.
    spoiled = sorted(work[1].glob("*/*.JPEG"))[-1]
    content = spoiled.read_bytes()
    try:
        spoiled.write_bytes(b"not an image")
        port = free_port()
        both = [start(rank, port, *arguments) for rank in range(2)]
        outputs = [process.communicate(timeout=120) for process in both]
    finally:
        spoiled.write_bytes(content)
    assert [process.returncode for process in both] == [4, 4], outputs
    assert spoiled.name in outputs[0][1]
