"""Layout and memory planning: buffers, tiles, liveness, allocation."""
