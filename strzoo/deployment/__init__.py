"""Deployment: ONNX export with its checks, precisions, inspection, benchmarks, matrices."""
