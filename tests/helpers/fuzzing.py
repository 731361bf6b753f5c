"""The command line of a fuzzer: how many mutations, from which seed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

Fuzz = Callable[[int, int, Path], tuple[Counter[str], list[str]]]


def main(fuzz: Fuzz, about: str) -> None:
    """Run `fuzz` (count, seed, folder), print what it counted and each problem, and exit with 1 if
    there is one."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, problems = fuzz(given.count, given.seed, Path(folder))
    print(", ".join(f"{what}: {number}" for what, number in sorted(counts.items())))
    print("\n".join(problems))
    sys.exit(bool(problems))
