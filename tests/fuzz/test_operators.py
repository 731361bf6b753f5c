"""A few random networks of ONNX's operators; `python -m tests.fuzz.operators` runs any number."""

from __future__ import annotations

import onnx
from hypothesis import given, settings

from tests.fuzz.operators import check_network
from tests.helpers.engine.operators import networks
from tests.helpers.fuzzing import QUIETLY


@settings(max_examples=2, **QUIETLY)
@given(networks())
def test_the_engine_alone_computes_what_onnxruntime_does(model: onnx.ModelProto) -> None:
    check_network(model)
