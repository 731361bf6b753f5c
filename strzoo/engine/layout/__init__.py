"""Where values lie in memory: buffers, tiles, liveness, allocation."""
