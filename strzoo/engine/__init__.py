"""The sparse CPU engine: an ONNX graph becomes kernels that skip the zero weights."""
