"""export_matrices: the effective weights of every layer as matrices, for kernel research."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strzoo.analysis.counting import prunable_layers
from strzoo.arguments import checked
from strzoo.data.calibration import Images, load_samples, random_samples
from strzoo.errors import StrzooError, UsageError
from strzoo.export.export_onnx import check_image_size
from strzoo.files import hide_temporary, write_error
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import ImageSize, Source
from strzoo.matrices.files import CSR, FORMATS, write_matrix
from strzoo.settings import Settings

log = logging.getLogger(__name__)

SCHEMA = 1
INDEX = "index.json"
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class LayerMatrix:
    """One layer as a matrix product: [m, k] weights times [k, n] im2col columns of one image.

    A grouped convolution is `groups` such products; its file holds their weights one below the
    other, [groups x m, k]. `shape` is the weight's, `input_size` and `output_size` one image's,
    `sparsity` percent. `files` and `activations` are relative to the index.
    """

    layer: str
    type: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    m: int
    k: int
    n: int
    nonzeros: int
    sparsity: float
    files: dict[str, str]
    activations: str | None = None


@dataclass(frozen=True)
class MatrixExport:
    """What `export_matrices` wrote; `skipped` layers have no matrix form here."""

    path: Path
    model: str
    input_size: tuple[int, ...]
    formats: tuple[str, ...]
    layers: tuple[LayerMatrix, ...]
    skipped: tuple[str, ...]
    images: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the index file is the same document."""
        return {"schema": SCHEMA, **dataclasses.asdict(self), "path": str(self.path)}


@checked
def export_matrices(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    formats: Sequence[str] = FORMATS,
    input_size: tuple[int, ...] | None = None,
    images: Images | None = None,
    max_images: int = 4,
    force: bool = False,
    settings: Settings | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> MatrixExport:
    """Write the effective weight matrix of every convolution and linear of `model`.

    A weight [O, C/groups, kH, kW] becomes the matrix [O, C/groups x kH x kW], rows and columns
    in memory order. `folder` gets one file per layer and format, and `index.json`.

    Args:
        model: a model id, a checkpoint file, a `Checkpoint`, or any `nn.Module`.
        folder: made by this call, whole or not at all.
        formats: of "npz" (CSR, as scipy.sparse.load_npz reads), "mtx" (Matrix Market) and "smtx"
            (DLMC: the pattern without values).
        input_size: channels, height, width of one image; by default what the network was made for.
        images: also write the input of each layer for these images as `<layer>.input.npy`,
            float32 [N, ...]; as in `export_onnx`.
        max_images: at most so many of them.
        force: replace a folder that this function wrote.
        settings: cache folder, registries, network switches; from the environment by default.
        progress: called with the layers done and their number.

    Returns:
        What was written: a record per layer, the same as in `index.json`.

    Raises:
        UsageError: an unknown format, no layer to write, or wrong images.
        StrzooError: the folder exists or cannot be written, or the network does not run.
    """
    folder = Path(folder)
    for format in formats:
        if format not in FORMATS:
            raise UsageError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if not formats or max_images < 1:
        raise UsageError("give at least one format and at least one image")
    _check_folder(folder, force)
    source = resolve(model, settings=settings)
    network, size = source.build_dense(), check_image_size(input_size) or source.input_size
    layers = prunable_layers(network)
    skipped = tuple(name for name, layer in layers.items() if isinstance(layer, _TRANSPOSED))
    if skipped:
        log.warning("transposed convolutions are no matrix product: %s", ", ".join(skipped))
    chosen = {name: layer for name, layer in layers.items() if name not in skipped}
    if not chosen:
        raise UsageError(f"{source.name} has no convolution or linear to write")
    with _new_folder(folder) as temporary:
        sizes, count = _run(source, network, size, chosen, images, max_images, temporary)
        written = []
        for name, layer in chosen.items():
            written.append(_write_layer(name, layer, sizes, tuple(formats), temporary, count > 0))
            progress(len(written), len(chosen))
        written_bytes = sum(file.stat().st_size for file in temporary.iterdir())
        made = MatrixExport(
            path=folder,
            model=source.name,
            input_size=size,
            formats=tuple(formats),
            layers=tuple(written),
            skipped=skipped,
            images=count,
            bytes=written_bytes,
        )
        index = json.dumps(made.to_dict(), indent=1) + "\n"
        (temporary / INDEX).write_text(index, encoding="utf-8")
    return made


Sizes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def _run(
    source: Source,
    network: nn.Module,
    size: ImageSize,
    layers: dict[str, nn.Module],
    images: Images | None,
    max_images: int,
    folder: Path,
) -> tuple[Sizes, int]:
    """Run the network once; input and output size of each layer, and how many inputs were saved."""
    if images is None:
        batch = random_samples(size, 1).images
    else:
        batch = load_samples(images, size, source.preprocessing).images[:max_images]
    sizes: Sizes = {}

    def observe(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name in sizes:
                log.warning("%s runs more than once; its first input is kept", name)
                return
            sizes[name] = (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))
            if images is not None:
                np.save(folder / _activations(name), inputs[0].numpy())

        return hook

    handles = [layer.register_forward_hook(observe(name)) for name, layer in layers.items()]
    try:
        with torch.inference_mode():
            network(batch)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        shown = "x".join(map(str, batch.shape[1:]))
        raise StrzooError(
            f"{source.name} does not run on one {shown} input ({reason}); pass the size it takes"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return sizes, 0 if images is None else len(batch)


def _write_layer(
    name: str,
    layer: nn.Module,
    sizes: Sizes,
    formats: tuple[str, ...],
    folder: Path,
    saved: bool,
) -> LayerMatrix:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    matrix = CSR(weight.detach().float().reshape(len(weight), -1).numpy())
    files = {format: f"{_stem(name)}.{format}" for format in formats}
    for format, file in files.items():
        write_matrix(matrix, folder / file, format)
    inputs, outputs = sizes.get(name, ((), ()))
    rows, columns = matrix.shape
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    groups, positions = 1, outputs[:-1]
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        stride, padding, dilation = layer.stride, layer.padding, layer.dilation
        groups, positions = layer.groups, outputs[1:]
    return LayerMatrix(
        layer=name,
        type=type(layer).__name__,
        shape=tuple(weight.shape),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_size=inputs,
        output_size=outputs,
        m=rows // groups,
        k=columns,
        n=int(np.prod(positions, dtype=int)) if outputs else 0,
        nonzeros=matrix.nonzeros,
        sparsity=100.0 * (1 - matrix.nonzeros / (rows * columns)),
        files=files,
        activations=_activations(name) if saved and name in sizes else None,
    )


def _stem(name: str) -> str:
    return name or "model"


def _activations(name: str) -> str:
    return f"{_stem(name)}.input.npy"


def _check_folder(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise StrzooError(f"cannot write {folder}: it is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not force:
            raise StrzooError(f"{folder} exists; pass --force (force=True) to replace it")
        if not (folder / INDEX).is_file():
            raise StrzooError(f"{folder} was not written by strzoo matrices; choose another folder")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block succeeds, and vanishes if not."""
    token = secrets.token_hex(6)
    temporary, old = (
        folder.with_name(f".{folder.name}.{token}.{kind}") for kind in ("part", "old")
    )
    try:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            folder.rename(old)
        try:
            temporary.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise write_error(folder, error) from error
    except StrzooError as error:
        hide_temporary(error, temporary, folder)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
