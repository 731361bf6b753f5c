"""Random graphs: what their plans compute is compared with float64.

    python -m tests.fuzz.graphs [COUNT]

The suite runs a few of them; 200 take about 45 seconds on one core. A graph that fails is printed,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from hypothesis import given, settings

from tests.engine.runtime.test_run import CASES, QUIETLY, check_agreement


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=200)
    count = parser.parse_args().count
    began = time.monotonic()
    try:
        settings(max_examples=count, **QUIETLY)(given(**CASES)(check_agreement))()
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{count} graphs agree with float64, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
