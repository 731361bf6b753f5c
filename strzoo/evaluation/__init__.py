"""Exact top-1 and top-5 of any model on any layout of images, and prediction."""
