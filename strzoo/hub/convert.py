"""convert: a model as another file: dense or STR, in our key layout or another library's."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from strzoo.arguments import checked
from strzoo.checkpoint.convert import Conversion, to_dense, verify_conversion
from strzoo.checkpoint.layouts import check_layout
from strzoo.checkpoint.writing import check_form, save_checkpoint
from strzoo.errors import UsageError
from strzoo.files import check_destination
from strzoo.hub.families import FamilySource
from strzoo.hub.network_sources import CardSource, CheckpointSource
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import Source
from strzoo.settings import Settings


@checked
def convert(
    source: Model,
    destination: str | os.PathLike[str],
    *,
    format: str = "dense",
    layout: str = "strzoo",
    compact: bool = False,
    half: bool = False,
    verify: bool = False,
    force: bool = False,
    entry: str | None = None,
    settings: Settings | None = None,
) -> Conversion:
    """Convert a model and write the result, whole or not at all.

    Args:
        source: a model id, a checkpoint file, a run folder, or a `Checkpoint`; or a FastGRNN
            network or its file, whose learned ranks are folded.
        destination: ends in .pth, .pt or .safetensors.
        format: "dense", or "str" to rewrite an STR checkpoint without its optimizer state.
        settings: cache folder, registries, network switches; from the environment by default.
        layout, compact, half, force: as `save_checkpoint`.
        entry: of a file that holds several state dicts, the one to take, such as "model_ema".
        verify: read the result back, run both networks on one random image, and require equal
            logits (within fp16 rounding for `half`) before the file gets its final name. The timm
            layout needs timm installed for this.

    Returns:
        What was written: sizes in bytes, sparsity in percent.

    Raises:
        UnknownNameError, OfflineError, NetworkError: an id's file cannot be had.
        UsageError: the combination is not possible.
        StrzooError, IntegrityError: the source or the destination is refused.
        VerificationError: the logits differ.
    """
    if format not in ("dense", "str"):
        raise UsageError(f"format {format!r} is not one of dense, str")
    opened = resolve(source, format=format, settings=settings)
    if isinstance(opened, FamilySource):
        opened.refuse(
            STR=format == "str", layout=layout != "strzoo", compact=compact, half=half, entry=entry
        )
        return opened.convert(Path(destination), verify=verify, force=force)
    if entry is not None:
        opened = _take_entry(opened, entry)
    if isinstance(opened, CardSource):  # what cannot be is said before anything is fetched
        check_form(
            Path(destination),
            opened.architecture,
            format=format,
            layout=layout,
            compact=compact,
            force=force,
        )
    check_destination(destination, force=force)
    read = opened.checkpoint
    if format == "str" and read.format == "dense":
        raise UsageError(
            f"{opened.path or opened.name} is dense: its thresholds are gone, it cannot become STR"
        )
    result = read if format == "str" else to_dense(read)
    if verify and (foreign := check_layout(layout, read.architecture, read.spec.options)):
        foreign.create(1)  # whether its library is here is said before anything is written
    check = partial(verify_conversion, read, layout=layout, half=half) if verify else None
    path = save_checkpoint(
        result, destination, layout=layout, compact=compact, half=half, force=force, check=check
    )
    return Conversion(
        path=path,
        architecture=read.architecture,
        source_format=read.format,
        format=format,
        layout=layout,
        compact=compact,
        half=half,
        sparsity=result.sparsity(),
        bytes=path.stat().st_size,
        source_bytes=opened.path.stat().st_size if opened.path else 0,
        verified=verify,
        notes=read.notes,
    )


def _take_entry(opened: Source, entry: str) -> Source:
    if opened.kind != "checkpoint" or opened.path is None:
        raise UsageError(f"{opened.name} is no checkpoint file: leave out entry {entry!r}")
    return CheckpointSource(opened.settings, path=opened.path, entry=entry)
