"""Thin adapters for other libraries' training loops; each needs its library."""
