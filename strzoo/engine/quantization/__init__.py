"""Quantization: from a graph in fp32 to one whose convolutions run in 16-bit fixed point."""
