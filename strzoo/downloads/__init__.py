"""Model card -> verified local file: cache, sources, transfer, staging."""
