"""The parts of `benchmarks/engine.py`: networks, engines in processes, the busy machine."""
