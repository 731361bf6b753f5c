"""The sparse CPU engine: compiles an ONNX graph to kernels that skip the zero weights."""
