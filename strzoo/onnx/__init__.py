"""ONNX files: reading, metadata, graphs of torch networks, precisions, sessions."""
