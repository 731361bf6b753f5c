"""What one busy process on one of two cores does to calls on two threads."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from engine_stages.models import prepare
from engine_stages.server import Server

MODELS = ("resnet50 90.23", "mobilenetv1 89.01", "timm:mobilenetv4_conv_small 90")
MOST = 1.1  # two threads beside a busy process, relative to one thread on an idle machine
CALLS = 20


def measure_busy(folder: Path, rounds: int) -> bool:
    """Print the table; returns whether a bar was missed."""
    print(
        "| model | one thread, idle ms | two threads, idle ms | two threads, one busy core ms | "
        f"ratio (bar {MOST}) |\n|---|---:|---:|---:|---:|",
        flush=True,
    )
    failed = False
    for model in MODELS:
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
        misses = beside > MOST * alone
        failed |= misses
        print(
            f"| {model} | {alone:.2f} | {both:.2f} | {beside:.2f} | "
            f"{beside / alone:.2f}{' FAILS' if misses else ''} |",
            flush=True,
        )
    return failed
