"""The graph the compiler works on: layers, shapes, windows."""
