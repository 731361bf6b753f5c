"""A network as one ONNX file, checked against torch before it gets its name."""
