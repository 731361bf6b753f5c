"""Latency, throughput and memory of models on several engines."""
