"""The parts of `benchmarks/engine.py`: networks, engines in processes, the busy machine."""

import harness  # noqa: F401, puts the checkout on the path
