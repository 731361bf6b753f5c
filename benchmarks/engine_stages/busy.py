"""What one busy process on one of two cores does to calls on two threads."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.record import Record
from harness.results import Column

from engine_stages.models import prepare
from engine_stages.server import Server

MODELS = ("resnet50 90.23", "mobilenetv1 89.01", "timm:mobilenetv4_conv_small 90")
MOST = 1.1  # two threads beside a busy process, relative to one thread on an idle machine
CALLS = 20


def measure_busy(
    record: Record, folder: Path, rounds: int, models: Sequence[str] | None = None
) -> None:
    """The table of one thread and two, alone and beside a busy process."""
    table = record.table([
        Column("model"), Column("one thread, idle", "ms", ".2f"),
        Column("two threads, idle", "ms", ".2f"),
        Column("two threads, one busy core", "ms", ".2f"), Column("ratio", "", ".2f"),
        Column("bar", "", "g"),
    ])  # fmt: skip
    for model in models or MODELS:
        path, _ = prepare(model, folder)
        one, two = (Server("sparse", path, threads, 1) for threads in (1, 2))
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        os.sched_setaffinity(busy.pid, {max(os.sched_getaffinity(0))})
        times: list[list[float]] = [[], [], []]
        try:
            for _ in range(rounds):
                busy.send_signal(signal.SIGSTOP)
                time.sleep(0.05)
                times[0] += one.run(CALLS)
                times[1] += two.run(CALLS)
                busy.send_signal(signal.SIGCONT)
                times[2] += two.run(CALLS)
        finally:
            busy.kill()
            busy.wait()
            one.close()
            two.close()
        alone, both, beside = (1e3 * statistics.median(each) for each in times)
        table.add(model, alone, both, beside, beside / alone, MOST)
        table.judge(f"{model}: the ratio", beside / alone, most=MOST)
