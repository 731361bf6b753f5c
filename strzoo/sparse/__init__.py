"""Sparse layers: soft threshold, magnitude masks, and networks turned sparse and back."""
