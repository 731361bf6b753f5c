"""The front end: reads an ONNX network as a graph, or lists all that it cannot read."""
