"""Running plans: memory, threads, batches."""
