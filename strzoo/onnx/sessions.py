"""Opening ONNX files with onnxruntime: one place for its options and errors. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.borders import is_utf8, read_file
from strzoo.errors import IntegrityError
from strzoo.files import refuse_foreign
from strzoo.onnx.files import list_external, read_onnx

if TYPE_CHECKING:
    import onnxruntime

CPU_PROVIDER = "CPUExecutionProvider"
# The metadata entry of fp16 exports as ONNX files hold it: a key, then a text of four bytes.
_HALF = b"strzoo.precision\x12\x04fp16"
# Products of uint8 and int8 are summed in pairs in 16 bits on x86 processors without VNNI, and
# saturate there. With this entry onnxruntime sums them exactly, so that a file gives the same
# numbers on every processor.
_EXACT = {"session.x64quantprecision": "1"}
# What onnxruntime does by default: for timing it as a user would run it.
SATURATING = {"session.x64quantprecision": "0"}


def open_session(
    model: str | Path | bytes,
    *,
    threads: int | None = None,
    providers: Sequence[str] = (CPU_PROVIDER,),
    entries: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """An onnxruntime session that writes no warnings to the terminal and sums int8 exactly.

    Args:
        model: an ONNX file, or the bytes of one.
        threads: for one operator; by default as onnxruntime chooses.
        providers: full names of execution providers in order of preference.
        entries: further entries of the session's configuration, which replace the ones of here.

    Raises:
        StrzooError: there is no such file.
        IntegrityError: it is a web page or a plan, refers to files outside its folder, or
            onnxruntime cannot load it.
    """
    import onnxruntime

    if not isinstance(model, bytes):
        refuse_foreign(model, "an ONNX model")
        external = list_external(Path(model))  # refuses what lies outside its folder
        if not is_utf8(model):  # onnxruntime takes no such path
            model = read_onnx(Path(model)).SerializeToString() if external else read_file(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # else warnings, and errors that it raises too, are printed
    if threads:
        options.intra_op_num_threads = threads
    for key, value in {**_EXACT, **(entries or {})}.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=list(providers),
            enable_fallback=0,  # it prints, then tries the same again
            disabled_optimizers=["NchwcTransformer"] if is_half_transformer(model) else None,
        )
    except Exception as error:  # onnxruntime's exceptions share no documented base class
        reason = " ".join(str(error).split())[:200]
        name = "the model" if isinstance(model, bytes) else model
        raise IntegrityError(f"onnxruntime cannot load {name}: {reason}") from error


def is_half_transformer(model: str | Path | bytes) -> bool:
    """Whether a model is an fp16 export of ours with layer normalisations. onnxruntime 1.32 ends
    the process when it chooses blocked layouts for such a network with a convolution in front."""
    content = model if isinstance(model, bytes) else Path(model).read_bytes()
    return _HALF in content and b"LayerNormalization" in content


def read_versions() -> dict[str, str]:
    """Of what an export was written and checked with."""
    return {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
