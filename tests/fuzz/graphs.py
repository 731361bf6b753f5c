"""Random graphs: what their plans compute is compared with float64.

    python -m tests.fuzz.graphs [COUNT]

The suite runs a few of them; 200 take about 45 seconds on one core. A graph that fails is printed,
and the exit code is 1.
"""

from __future__ import annotations

from tests.engine.runtime.test_run import CASES, check_agreement
from tests.helpers.fuzzing import try_examples

if __name__ == "__main__":
    try_examples(check_agreement, CASES, 200, __doc__, "graphs agree with float64")
