"""Exact top-1 and top-5 of a network or an ONNX file, on ImageNet in every layout and more."""

from strzoo.evaluation.evaluate import evaluate
from strzoo.evaluation.results import EvalResult

__all__ = ["EvalResult", "evaluate"]
