"""One-shot pruning: a network made sparse at once, without training."""
