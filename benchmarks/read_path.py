"""Measure the read path against its bars: `python benchmarks/read_path.py`.

- conversion of a 102 MB STR ResNet50 against torch.load + torch.save of the same tensors;
- `strzoo report` from a budget and from that file: wall seconds and peak memory;
- `strzoo --help` and `strzoo list`: CPU seconds.

Rounds are interleaved; medians count.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import medians, ratio, take_turns, timed

ABOUT = """A published-form STR ResNet50 of 90.23 % sparsity is converted to dense, against
`torch.load` and `torch.save` of the same tensors; the commands run in processes of their own.
Interleaved rounds after one warm-up, medians."""
MOST_RATIO, MOST_MEGABYTES = 1.5, 1000


def make_source(path: Path) -> None:
    """A published-form STR ResNet50 of 90.23 % sparsity."""
    import strzoo
    from tests.helpers.published import str_state, write_published

    state = str_state("resnet50", strzoo.load_budget("resnet50_str_90.23"))
    write_published(path, state, "resnet50")


def conversion(source: Path, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of strzoo.convert and of the peer."""
    import torch

    import strzoo

    bare = folder / "bare.pth"
    torch.save(dict(strzoo.read_checkpoint(source).state_dict), bare)

    def convert() -> float:
        target = folder / "ours.pth"
        target.unlink(missing_ok=True)  # to remove a file is not measured
        return timed(lambda: strzoo.convert(source, target))

    def load_and_save() -> float:
        target = folder / "peer.pth"
        target.unlink(missing_ok=True)
        return timed(
            lambda: torch.save(torch.load(bare, map_location="cpu", weights_only=True), target)
        )

    ways = {"strzoo.convert": convert, "torch.load + torch.save": load_and_save}
    return take_turns(ways, rounds)


def command(*arguments: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MB of one run of the command line."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "strzoo", *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"strzoo {' '.join(arguments)} failed")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    title = "The read path: conversion, reports, start-up"
    record = Record(parser, options, "read_path", title, ABOUT, packages=["torch", "strzoo"])
    table = record.table([Column(""), Column("median", "", ".3f"), Column("bar", "", "g")])
    # Other processes make the file and convert it: a child's peak memory counts from its fork.
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, context.Pool(1) as pool:
        folder = Path(name)
        source = folder / "str.pth"
        pool.apply(make_source, (source,))
        found = pool.apply(conversion, (source, folder, options.rounds))
        for way, seconds in medians(found).items():
            table.add(f"{way}, s", seconds, None)
        compared = ratio(*found.values())
        table.add("ratio", compared, MOST_RATIO)
        table.judge("the ratio of conversion", compared, most=MOST_RATIO)
        bars = {
            ("report", "resnet50_str_90.23"): ("wall", 2.0),
            ("report", str(source)): ("wall", 5.0),
            ("--help",): ("CPU", 0.15),
            ("list",): ("CPU", 0.15),
        }
        runs: dict[tuple[str, ...], list[tuple[float, float, float]]] = {a: [] for a in bars}
        for _ in range(options.rounds):
            for arguments in bars:
                runs[arguments].append(command(*arguments))
        starts = record.table([
            Column("command"), Column("wall", "s", ".3f"), Column("CPU", "s", ".3f"),
            Column("bar", "s"), Column("peak", "MB", ".0f"), Column("bar", "MB", "g"),
        ])  # fmt: skip
        for arguments, (kind, bar) in bars.items():
            wall, cpu, memory = (statistics.median(c) for c in zip(*runs[arguments], strict=True))
            shown = "FILE" if arguments[-1] == str(source) else arguments[-1]
            label = " ".join(["`strzoo", *arguments[:-1], f"{shown}`"])
            most = MOST_MEGABYTES if kind == "wall" else None
            starts.add(label, wall, cpu, f"{bar:g}, {kind}", memory, most)
            starts.judge(f"{label}, {kind} s,", wall if kind == "wall" else cpu, most=bar)
            starts.judge(f"{label}, peak MB,", memory, most=most)
        record.say(f"The file has {source.stat().st_size / 1e6:.1f} MB.")
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
