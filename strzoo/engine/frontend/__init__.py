"""ONNX in: the engine's own graph, or one error with all it cannot do."""
