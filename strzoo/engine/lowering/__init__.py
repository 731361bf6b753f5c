"""Lowering: instruction selection, from layers to kernels with their operands."""
