"""open_runner: a source on the engine that is meant."""

from __future__ import annotations

import contextlib

from strzoo.errors import UsageError
from strzoo.evaluation.runner import Runner, RunnerOptions
from strzoo.hub.graph_sources import OnnxSource, PlanSource
from strzoo.hub.source import Source


def open_runner(
    source: Source, options: RunnerOptions
) -> contextlib.AbstractContextManager[Runner]:
    """The model, ready to run while the context lasts; a network passed in is left as it was.

    Raises:
        UsageError: an option is not possible for this model or here.
        StrzooError and its subclasses: the model cannot be had or read.
    """
    usual = "torch"
    if isinstance(source, OnnxSource):
        usual = "onnxruntime"
    elif isinstance(source, PlanSource):
        usual = "sparse"
    engine = options.engine or usual
    # Each engine has packages of its own, so only the one that is meant is imported.
    if engine == "sparse":
        from strzoo.evaluation.sparse_runner import open_sparse

        return contextlib.nullcontext(open_sparse(source, options))
    if isinstance(source, PlanSource):
        raise UsageError(f"{source.shown} is {source.described}; {engine} cannot run it")
    if isinstance(source, OnnxSource) and engine == "onnxruntime":
        from strzoo.evaluation.onnx_runner import open_onnx

        return contextlib.nullcontext(open_onnx(source, options))
    if isinstance(source, OnnxSource) or engine == "onnxruntime":
        takes = "an ONNX file" if engine == "onnxruntime" else "an id, a checkpoint or a network"
        raise UsageError(f"engine {engine} takes {takes}")
    from strzoo.evaluation.torch_runner import open_torch

    return open_torch(source, options)
