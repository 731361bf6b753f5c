"""Layers -> instructions: which kernel runs each layer, with which operands."""
