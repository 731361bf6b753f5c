"""Reading ONNX files: damaged and foreign ones are refused in one line. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import inliner

from strzoo.errors import IntegrityError, StrzooError
from strzoo.files import refuse_foreign


def read_onnx(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """The model in a file, with functions inlined and (with `weights`) external files read.

    Raises:
        StrzooError: the file, or one with its weights, cannot be read.
        IntegrityError: it is not an ONNX model.
    """
    refuse_foreign(path, "an ONNX model")
    try:
        model = onnx.load(str(path), load_external_data=weights)
    except FileNotFoundError as error:
        missing = error.filename or path
        raise StrzooError(f"{missing} does not exist") from None
    except OSError as error:
        raise StrzooError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf's and onnx's own share no base class
        reason = " ".join(str(error).split())[:160]
        raise IntegrityError(f"{path} is not a readable ONNX model ({reason})") from error
    return check_model(model, str(path))


def parse_onnx(content: bytes, source: str) -> onnx.ModelProto:
    """The model in `content`, the bytes of a file; `source` names it. Errors as `read_onnx`."""
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:160]
        raise IntegrityError(f"{source} is not a readable ONNX model ({reason})") from error
    return check_model(model, source)


def check_model(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """`model` with functions inlined; an IntegrityError if it holds no graph."""
    if not model.ir_version or not model.graph.node:
        raise IntegrityError(f"{source} is not an ONNX model: it has no graph")
    return inliner.inline_local_functions(model) if model.functions else model


def real_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are no initializers (old files list those too)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def read_opset(model: onnx.ModelProto) -> dict[str, int]:
    """Version of each operator set by domain; the default one is "ai.onnx"."""
    return {o.domain or "ai.onnx": o.version for o in model.opset_import}
