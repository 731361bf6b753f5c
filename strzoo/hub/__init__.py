"""MODEL -> Source -> network."""
