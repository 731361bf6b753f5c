"""The command lines of fuzzers: how many mutations, from which seed; how many random examples."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

# Settings of random examples that are compiled: to make failing ones smaller would take minutes.
QUIETLY: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.reuse, Phase.generate),
}
Fuzz = Callable[[int, int, Path], tuple[Counter[str], list[str]]]


def main(fuzz: Fuzz, about: str) -> None:
    """Run `fuzz` (count, seed, folder), print what it counted and each problem, and exit with 1 if
    there is one."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, problems = fuzz(options.count, options.seed, Path(folder))
    print(", ".join(f"{what}: {number}" for what, number in sorted(counts.items())))
    print("\n".join(problems))
    sys.exit(bool(problems))


def try_examples(
    check: Callable[..., None], cases: dict[str, Any], count: int, about: str, agreed: str
) -> None:
    """Run `check` on as many random `cases` as the command line says, `count` by default, and exit
    with 1 if one fails, after printing it. `agreed` is what is said otherwise."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=count)
    count = parser.parse_args().count
    began = time.monotonic()
    try:
        settings(max_examples=count, **QUIETLY)(given(**cases)(check))()
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    print(f"{count} {agreed}, in {time.monotonic() - began:.0f} s")
