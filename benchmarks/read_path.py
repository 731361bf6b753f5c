"""Measure the read path against its bars: `python benchmarks/read_path.py`.

- conversion of a 102 MB STR ResNet50 against torch.load + torch.save of the same tensors;
- `strzoo report` from a budget and from that file: wall seconds and peak memory;
- `strzoo --help` and `strzoo list`: CPU seconds.

Rounds are interleaved; medians are printed as a Markdown table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def make_source(path: Path) -> None:
    """A published-form STR ResNet50 of 90.23 % sparsity."""
    import strzoo
    from tests.helpers.published import str_state, write_published

    state = str_state("resnet50", strzoo.load_budget("resnet50_str_90.23"))
    write_published(path, state, "resnet50")


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def conversion(source: Path, folder: Path, rounds: int) -> tuple[float, float, float]:
    """Median seconds of strzoo.convert and of the peer, and the median of the round ratios."""
    import torch

    import strzoo

    ours, bare, peer = folder / "ours.pth", folder / "bare.pth", folder / "peer.pth"
    torch.save(dict(strzoo.read_checkpoint(source).state_dict), bare)

    def load_and_save() -> None:
        torch.save(torch.load(bare, map_location="cpu", weights_only=True), peer)

    pairs = []
    for number in range(rounds + 1):
        for written in (ours, peer):  # both write a new file: removing one is not measured
            written.unlink(missing_ok=True)
        mine = timed(lambda: strzoo.convert(source, ours))
        theirs = timed(load_and_save)
        if number:  # the first round warms the page cache
            pairs.append((mine, theirs))
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return mine, theirs, ratio


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    # Other processes make the file and convert it: a child's peak memory counts from its fork.
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, context.Pool(1) as pool:
        folder = Path(name)
        source = folder / "str.pth"
        pool.apply(make_source, (source,))
        mine, theirs, ratio = pool.apply(conversion, (source, folder, rounds))
        print(f"STR file: {source.stat().st_size / 1e6:.1f} MB, {rounds} rounds\n")
        print("| | median | bar |\n|---|---:|---:|")
        print(f"| strzoo.convert | {mine:.3f} s | |")
        print(f"| torch.load + torch.save | {theirs:.3f} s | |")
        print(f"| ratio | {ratio:.2f} | 1.50 |")
        bars = {
            ("report", "resnet50_str_90.23"): ("wall", 2.0),
            ("report", str(source)): ("wall", 5.0),
            ("--help",): ("CPU", 0.15),
            ("list",): ("CPU", 0.15),
        }
        runs: dict[tuple[str, ...], list[tuple[float, float, float]]] = {a: [] for a in bars}
        for _ in range(rounds):
            for arguments in bars:
                runs[arguments].append(command(*arguments))
        for arguments, (kind, bar) in bars.items():
            wall, cpu, memory = (statistics.median(c) for c in zip(*runs[arguments], strict=True))
            shown = "FILE" if arguments[-1] == str(source) else arguments[-1]
            label = " ".join(["strzoo", *arguments[:-1], shown])
            value = wall if kind == "wall" else cpu
            print(f"| `{label}`, {kind} s | {value:.3f} | {bar:.2f} |")
            print(f"| `{label}`, peak MB | {memory:.0f} | {1000 if kind == 'wall' else ''} |")
    print(
        f"\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, strzoo {version('strzoo')}"
    )


if __name__ == "__main__":
    main()
