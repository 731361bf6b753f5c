"""The stages of `benchmarks/device.py`, each run in a process of its own."""
