"""resolve: the only place that asks what a MODEL argument is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from strzoo.arguments import check_path
from strzoo.errors import UsageError
from strzoo.files import is_plan, run_checkpoint
from strzoo.hub.families import open_family
from strzoo.hub.graph_sources import OnnxSource, PlanSource
from strzoo.hub.network_sources import CardSource, CheckpointSource, ModuleSource
from strzoo.hub.source import Source
from strzoo.settings import Settings
from strzoo.zoo.registry import FORMATS, get_card

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from strzoo.checkpoint import Checkpoint
    from strzoo.hub.graph_sources import Compiled

# A text, so that nothing of it is imported to define it.
Model: TypeAlias = (
    "str | os.PathLike[str] | bytes | onnx.ModelProto | nn.Module | Checkpoint | Compiled | Source"
)

_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".onnx", ".strz")


def resolve(model: Model, *, format: str | None = None, settings: Settings | None = None) -> Source:
    """What `model` means, as a `Source`; a `Source` is given back as it is.

    Args:
        model: a model id or unique prefix; a checkpoint, ONNX or .strz file; the folder of a
            training run; a `Checkpoint`; an `nn.Module`; an `onnx.ModelProto` or the bytes of an
            ONNX file; a `SparseModel`; a file, folder or network of a family
            (`strzoo.hub.families`).
        format: "str" or "dense": which published file of an id is meant; by default dense.
        settings: cache folder, registries, network switches; from the environment by default.

    Raises:
        UnknownNameError: the id is unknown.
        UsageError: the format is not known, or `model` is nothing of the above.
    """
    if format not in (None, *FORMATS):
        raise UsageError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if isinstance(model, Source):
        return model
    settings = settings or Settings.from_env()
    if isinstance(model, str | os.PathLike):
        check_path(model, "MODEL")
        text = os.fspath(model)
        if is_file(text):
            return _open_file(Path(text), format, settings)
        return CardSource(get_card(text, settings=settings), settings, format)
    if isinstance(model, bytes | bytearray):
        return OnnxSource(settings, content=bytes(model))
    if callable(own := getattr(type(model), "strzoo_source", None)):
        found: Source = own(model, settings)
        return found
    kind = type(model).__module__.split(".")[0]
    if kind == "onnx" or (kind.startswith("onnx_") and hasattr(model, "SerializeToString")):
        return OnnxSource(settings, proto=model)  # type: ignore[arg-type]
    if "torch" in sys.modules:  # without torch nobody has a network
        from strzoo.checkpoint import Checkpoint

        if isinstance(model, sys.modules["torch"].nn.Module):
            return open_family(settings, network=model) or ModuleSource(model, settings)
        if isinstance(model, Checkpoint):
            return CheckpointSource(settings, checkpoint=model)
    raise UsageError(
        f"a {type(model).__name__} is no model; give a model id, a checkpoint, ONNX or .strz "
        "file, a run folder, a Checkpoint, a torch.nn.Module, a SparseModel, an onnx.ModelProto or "
        "its bytes"
    )


def is_file(text: str) -> bool:
    """Whether a MODEL argument means a file: it looks like a path, or exists."""
    path = Path(text)
    return path.suffix in _SUFFIXES or os.sep in text or path.exists()


def _open_file(path: Path, format: str | None, settings: Settings) -> Source:
    if path.suffix not in (".onnx", ".strz") and (found := open_family(settings, path=path)):
        return found
    path = run_checkpoint(path, format)
    if is_plan(path):
        return PlanSource(settings, path=path)
    if path.suffix == ".onnx":
        return OnnxSource(settings, path=path)
    return CheckpointSource(settings, path=path)
