"""All hostile inputs against the commands: `python -m tests.attack [--only WORD] [--quick]`.

Prints a line of JSON for each failure (for each case with -v) and one that sums up. The exit code
is 1 if a case failed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.attack.case import Case
from tests.attack.run import Outcome, describe, prepare, run_all
from tests.attack.shared import write_shared

FAMILIES = ("checkpoints", "plans", "networks", "folding", "images", "data", "labels", "texts",
            "places", "sequences", "runs")  # fmt: skip
QUICK = 37  # each so-manieth case is in the suite


def list_cases() -> Iterator[Case]:
    for name in FAMILIES:
        yield from importlib.import_module(f"tests.attack.{name}").cases()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose names hold this word")
    parser.add_argument("--quick", action="store_true", help="a part of each family")
    parser.add_argument("-v", "--verbose", action="store_true")
    given = parser.parse_args()
    cases = [case for case in list_cases() if given.only in case.name]
    if given.quick:
        cases = cases[::QUICK]
    started, slowest = time.monotonic(), [(0.0, "")]

    def report(case: Case, outcome: Outcome) -> None:
        slowest.append((outcome.seconds, case.name))
        if given.verbose or outcome.problem:
            print(describe(case, outcome), flush=True)

    prepare()
    with tempfile.TemporaryDirectory() as folder:
        shared = write_shared(Path(folder))
        failed = run_all(cases, Path(folder), shared, report)
    seconds = time.monotonic() - started
    print(f"{len(cases)} cases, {failed} failed, {seconds:.0f} s", end="; ")
    print("slowest:", ", ".join(f"{name} {took:.1f} s" for took, name in sorted(slowest)[-3:]))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
