"""Random networks of ONNX's operators: the engine alone makes of them what onnxruntime does.

    python -m tests.fuzz.operators [COUNT]

The suite runs a few of them; 300 take about four minutes on one core. A network that fails is
printed, and the exit code is 1.
"""

from __future__ import annotations

import numpy as np
import onnx

import strzoo
from tests.helpers.engine.models import run_onnxruntime
from tests.helpers.engine.operators import networks
from tests.helpers.fuzzing import try_examples

ALLOWED = 1e-4  # of the largest output


def check_network(model: onnx.ModelProto) -> None:
    """On one thread and on two, several images at a time and one."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    images = np.random.default_rng(0).standard_normal((3, *shape), dtype=np.float32)
    expected = run_onnxruntime(model, images)
    largest = max(float(np.abs(expected).max()), 1e-3)
    for threads, count in ((1, 3), (2, 1)):
        compiled = strzoo.compile(model, threads, cache=False, islands="none")
        error = float(np.abs(compiled(images[:count]) - expected[:count]).max())
        assert error <= ALLOWED * largest, (threads, error, largest)


if __name__ == "__main__":
    try_examples(
        check_network, {"model": networks()}, 300, __doc__, "networks agree with onnxruntime"
    )
