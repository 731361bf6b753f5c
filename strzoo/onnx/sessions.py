"""Opening ONNX files with onnxruntime: one place for its options and errors. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.errors import IntegrityError
from strzoo.files import refuse_foreign
from strzoo.onnx.files import list_external

if TYPE_CHECKING:
    import onnxruntime

CPU_PROVIDER = "CPUExecutionProvider"


def open_session(
    model: str | Path | bytes,
    *,
    threads: int | None = None,
    providers: Sequence[str] = (CPU_PROVIDER,),
    entries: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """An onnxruntime session that writes no warnings to the terminal.

    Args:
        model: an ONNX file, or the bytes of one.
        threads: for one operator; by default as onnxruntime chooses.
        providers: full names of execution providers in order of preference.
        entries: further entries of the session's configuration.

    Raises:
        StrzooError: there is no such file.
        IntegrityError: it is a web page or a plan, refers to files outside its folder, or
            onnxruntime cannot load it.
    """
    import onnxruntime

    if not isinstance(model, bytes):
        refuse_foreign(model, "an ONNX model")
        list_external(Path(model))  # refuses what lies outside its folder
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # else warnings, and errors that it raises too, are printed
    if threads:
        options.intra_op_num_threads = threads
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=list(providers),
            enable_fallback=0,  # it prints, then tries the same again
        )
    except Exception as error:  # onnxruntime's exceptions share no documented base class
        reason = " ".join(str(error).split())[:200]
        name = "the model" if isinstance(model, bytes) else model
        raise IntegrityError(f"onnxruntime cannot load {name}: {reason}") from error


def read_versions() -> dict[str, str]:
    """Of what an export was written and checked with."""
    return {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
