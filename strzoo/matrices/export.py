"""export_matrices: the effective weights of every layer as matrices, for kernel research."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strzoo.arguments import checked
from strzoo.data.calibration import Images
from strzoo.errors import StrzooError, UsageError
from strzoo.files import hide_temporary, write_error
from strzoo.hub.graph_sources import OnnxSource
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import check_image_size
from strzoo.matrices.files import CSR, FORMATS, write_matrix
from strzoo.matrices.graphs import read_graph
from strzoo.matrices.networks import read_network
from strzoo.matrices.products import Geometry, Product, activations_file, file_stem
from strzoo.settings import Settings

log = logging.getLogger(__name__)

SCHEMA = 1
INDEX = "index.json"


@dataclass(frozen=True)
class LayerMatrix(Geometry):
    """One layer as a matrix product: [m, k] weights times [k, n] im2col columns of one image.

    A grouped convolution is `groups` such products; its file holds their weights one below the
    other, [groups x m, k]. `shape` is the weight's, `input_size` and `output_size` one image's,
    `sparsity` percent. Unequal pads of ONNX are those before each axis and then those behind.
    `files` and `activations` are relative to the index.
    """

    m: int
    k: int
    n: int
    nonzeros: int
    sparsity: float
    files: dict[str, str]
    activations: str | None = None


@dataclass(frozen=True)
class MatrixExport:
    """What `export_matrices` wrote; `skipped` layers have no matrix form here.

    `source` is "weights", or "random, budget NAME" where a published model's own were not at hand.
    """

    path: Path
    model: str
    source: str
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
    input_size: tuple[int, ...] | int | None = None,
    images: Images | None = None,
    max_images: int = 4,
    force: bool = False,
    settings: Settings | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> MatrixExport:
    """Write the effective weight matrix of every convolution and linear of `model`.

    A weight [O, C/groups, kH, kW] becomes the matrix [O, C/groups x kH x kW], rows and columns
    in memory order; linears of ONNX files are turned to [out, in]. `folder` gets one file per
    layer and format, and `index.json`.

    Args:
        model: a model id, a checkpoint file, a `Checkpoint`, any `nn.Module`, or an ONNX model.
            Where the weights of an id are not in the cache and cannot be fetched, random ones are
            pruned to its published budget, and a warning says so.
        folder: made by this call, whole or not at all.
        formats: of "npz" (CSR, as scipy.sparse.load_npz reads), "mtx" (Matrix Market) and "smtx"
            (DLMC: the pattern without values).
        input_size: channels, height, width of one image (or height and width, or a side); by
            default what the network was made for.
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
    source, size = resolve(model, settings=settings), check_image_size(input_size)
    read = read_graph if isinstance(source, OnnxSource) else read_network
    with _new_folder(folder) as temporary:
        found = read(source, size, images, max_images, temporary)
        if found.skipped:
            log.warning("left out, no matrix product that is known: %s", ", ".join(found.skipped))
        if not found.products:
            raise UsageError(f"{source.name} has no convolution or linear to write")
        written: list[LayerMatrix] = []
        for product in found.products:
            written.append(_write_layer(product, tuple(formats), temporary, found.images > 0))
            progress(len(written), len(found.products))
        written_bytes = sum(file.stat().st_size for file in temporary.iterdir())
        made = MatrixExport(
            path=folder,
            model=source.name,
            source="weights" if found.budget is None else f"random, budget {found.budget}",
            input_size=found.input_size,
            formats=tuple(formats),
            layers=tuple(written),
            skipped=found.skipped,
            images=found.images,
            bytes=written_bytes,
        )
        index = json.dumps(made.to_dict(), indent=1) + "\n"
        (temporary / INDEX).write_text(index, encoding="utf-8")
    return made


def _write_layer(
    product: Product, formats: tuple[str, ...], folder: Path, saved: bool
) -> LayerMatrix:
    geometry, matrix = product.geometry, CSR(product.rows)
    files = {format: f"{file_stem(geometry.layer)}.{format}" for format in formats}
    for format, file in files.items():
        write_matrix(matrix, folder / file, format)
    rows, columns = matrix.shape
    activations = activations_file(geometry.layer)
    return LayerMatrix(
        **vars(geometry),
        m=rows // geometry.groups,
        k=columns,
        n=math.prod(product.positions) if geometry.output_size else 0,
        nonzeros=matrix.nonzeros,
        sparsity=100.0 * (1 - matrix.nonzeros / (rows * columns)) if rows * columns else 0.0,
        files=files,
        activations=activations if saved and (folder / activations).exists() else None,
    )


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
