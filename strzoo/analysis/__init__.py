"""Parameters, per-layer sparsity and MACs; computed against published figures."""
