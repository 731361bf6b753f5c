"""Weights and activations as sparse matrix files."""
