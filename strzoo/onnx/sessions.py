"""Opening ONNX files with onnxruntime: one place for its options and errors. Imports no torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.borders import is_utf8, read_file, reading
from strzoo.errors import IntegrityError
from strzoo.files import refuse_foreign
from strzoo.onnx.files import list_external, read_onnx

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

CPU_PROVIDER = "CPUExecutionProvider"
# The metadata entry of fp16 exports as ONNX files hold it: a key, then a text of four bytes.
_HALF = b"strzoo.precision\x12\x04fp16"
# Products of uint8 and int8 are summed in pairs in 16 bits on x86 processors without VNNI, and
# saturate there. With this entry onnxruntime sums them exactly, so that a file gives the same
# numbers on every processor.
_EXACT = {"session.x64quantprecision": "1"}
_LARGEST_CONTENT = 2_000_000_000  # bytes; protobuf writes less than 2 GiB
# Of the error by which it refuses weights in 8 bits that several layers share, with that entry.
_REPLACED = "Attempt to replace the existing tensor"
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

    given = model
    if not isinstance(model, bytes):
        refuse_foreign(model, "an ONNX model")
        given = find_loadable(Path(model))  # refuses what lies outside its folder

    def start(entries: Mapping[str, str]) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # else warnings, and errors that it raises, are printed
        if threads:
            options.intra_op_num_threads = threads
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        return onnxruntime.InferenceSession(
            given,
            options,
            providers=list(providers),
            enable_fallback=0,  # it prints, then tries the same again
            disabled_optimizers=["NchwcTransformer"] if is_half_transformer(model) else None,
        )

    wanted = {**_EXACT, **(entries or {})}
    try:
        try:
            return start(wanted)
        except Exception as error:
            if _REPLACED not in str(error):
                raise
            log.warning(
                "%s: layers share weights in 8 bits, whose sums onnxruntime (1.32) cannot make "
                "exact; without VNNI they may saturate",
                "the model" if isinstance(model, bytes) else model,
            )
            return start(wanted | SATURATING)
    except Exception as error:  # onnxruntime's exceptions share no documented base class
        reason = " ".join(str(error).split())[:200]
        name = "the model" if isinstance(model, bytes) else model
        raise IntegrityError(f"onnxruntime cannot load {name}: {reason}") from error


def find_loadable(path: Path) -> str | bytes:
    """What another library can load: the path, or the content, as some take no name that is not
    UTF-8, and some do not follow the links of a cache to the weights. Errors as `list_external`."""
    external = list_external(path)
    size = sum(file.stat().st_size for file in (path, *external))
    linked = any(file.is_symlink() for file in external)
    if is_utf8(path) and not (linked and size < _LARGEST_CONTENT):
        return os.fspath(path)
    if not external:
        return read_file(path)
    with reading(path, "a model of less than 2 GB"):
        content: bytes = read_onnx(path).SerializeToString()
        return content


def is_half_transformer(model: str | Path | bytes) -> bool:
    """Whether a model is an fp16 export of ours with layer normalisations. onnxruntime 1.32 ends
    the process when it chooses blocked layouts for such a network with a convolution in front."""
    content = model if isinstance(model, bytes) else Path(model).read_bytes()
    return _HALF in content and b"LayerNormalization" in content


def read_versions() -> dict[str, str]:
    """Of what an export was written and checked with."""
    return {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
