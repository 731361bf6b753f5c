"""Sequences to train on: digits by rows, HAR-2, EdgeML's arrays, Speech Commands."""
