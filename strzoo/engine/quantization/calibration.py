"""Calibration: the images that scales are chosen by, the graph that comes of it, its agreement."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strzoo.data.trees import FolderTree
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.fixed import FixedConvolution
from strzoo.engine.ir.graph import Graph
from strzoo.engine.ir.quads import QuadConvolution
from strzoo.engine.quantization.fixing import fix
from strzoo.engine.quantization.observation import observe
from strzoo.engine.quantization.quads import fix_quads
from strzoo.engine.results import PrecisionReport
from strzoo.errors import UsageError
from strzoo.hub.hashes import file_stamp
from strzoo.settings import user_path

if TYPE_CHECKING:
    from strzoo.data.calibration import Images

TOLERANCES = {"int16": 0.01, "int8": 0.05}
_CONVOLUTIONS = (FixedConvolution, QuadConvolution)
MOST = 48  # images: more change the scales little
_HELD_OUT = 3  # every third image is not calibrated with


@dataclass(frozen=True, eq=False)
class Precision:
    """How a network is to be brought into fewer bits.

    Args:
        name: "int16", fixed point of 16 bits, or "int8".
        images: as `strzoo.data.calibration.load_samples` takes them; None for the bundled ones.
        tolerance: the largest relative error (root mean square) that a layer may add.
    """

    name: str
    images: Images | np.ndarray | None
    tolerance: float

    @cached_property
    def identity(self) -> str:
        """What plans in this precision depend on, found without reading images of a folder."""
        return f"{self.name} {self.tolerance} {_identify(self.images)}"


def _identify(images: Any) -> str:
    """Names a set of images; their content where it is in memory, names and dates of files."""
    if images is None:
        return "bundled"
    digest = hashlib.sha256()
    if isinstance(images, str | os.PathLike):
        folder = user_path(images)
        digest.update(os.fsencode(folder.resolve()))
        for name in FolderTree(folder).images if folder.is_dir() else ():
            digest.update(f"{name} {file_stamp(folder / name)}".encode("utf-8", "surrogateescape"))
    else:
        array = np.ascontiguousarray(getattr(images, "images", images))
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class FixedNetwork:
    """A graph in fixed point, and what is needed to compare its results.

    Args:
        graph: whose convolutions run in fixed point where that pays.
        held_out: images fp32 [N, C, H, W] that it was not calibrated with.
        expected: their outputs in fp32, [N, ...].
    """

    graph: Graph
    held_out: np.ndarray
    expected: np.ndarray
    _report: PrecisionReport

    def report(self, outputs: np.ndarray) -> PrecisionReport:
        """The report, given the outputs of the held-out images in fixed point."""
        expected = self.expected.astype(np.float64)
        top = [each.reshape(len(each), each.shape[1], -1).argmax(1) for each in (outputs, expected)]
        agreement = 100 * float(np.mean(top[0] == top[1]))
        noise, signal = np.sum((outputs - expected) ** 2), np.sum(expected**2)
        snr = math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-30) / noise)
        return replace(self._report, top1=agreement, snr=float(snr))


def calibrate(
    graph: Graph,
    hardware: Hardware,
    precision: Precision,
    metadata: Mapping[str, str],
    folder: Path | None = None,
) -> FixedNetwork:
    """Bring `graph` into fixed point.

    Args:
        graph: simplified, in fp32.
        hardware: what it will run on.
        precision: images and tolerance.
        metadata: of the export, which may state the preprocessing.
        folder: keeps machine code; None keeps none.

    Raises:
        UsageError: the images do not fit the network, or they or its outputs hold NaN or infinity,
            or they are all one number.
        StrzooError: an image cannot be read.
    """
    name, images = _load(graph, precision, metadata)
    _check_images(name, images)
    held = np.arange(len(images)) % _HELD_OUT == _HELD_OUT - 1
    calibration, held_out = images[~held], images[held]
    if not len(held_out):  # too few to hold any out
        held_out = images
    seen = observe(graph, hardware, calibration, held_out, folder)
    if not np.isfinite(seen.outputs).all():
        raise UsageError(
            f"{graph.source} makes NaN or infinity of the images to calibrate with ({name}) in "
            "fp32, so there is nothing to compare with; look at its weights, or give other images"
        )
    fix_graph = fix_quads if precision.name == "int8" else fix
    fixed = fix_graph(graph, seen, hardware, precision.tolerance)
    report = PrecisionReport(
        precision=precision.name,
        images=name,
        calibrated=len(calibration),
        held_out=len(held_out),
        tolerance=precision.tolerance,
        layers=sum(isinstance(layer, _CONVOLUTIONS) for layer in fixed.graph.layers),
        error=max(fixed.errors.values(), default=0.0),
        lossy=fixed.lossy,
        top1=100.0,
        snr=math.inf,
    )
    return FixedNetwork(fixed.graph, held_out, seen.outputs, report)


def _check_images(name: str, images: np.ndarray) -> None:
    if not np.isfinite(images).all():
        raise UsageError(
            f"the images to calibrate with ({name}) hold NaN or infinity; give images as the "
            "network gets them"
        )
    if images.min() == images.max():
        raise UsageError(
            f"the images to calibrate with ({name}) are {images.min():g} everywhere, which shows "
            "nothing of the ranges of values; give images as the network gets them"
        )


def _load(
    graph: Graph, precision: Precision, metadata: Mapping[str, str]
) -> tuple[str, np.ndarray]:
    """The name of the images, and they, fp32 [N, C, H, W]."""
    from strzoo.data.calibration import load_arrays
    from strzoo.data.preprocessing import IMAGENET
    from strzoo.onnx.metadata import read_metadata

    channels, height, width = graph.shapes[graph.input]
    images = precision.images
    if isinstance(images, np.ndarray):
        images = np.ascontiguousarray(images, np.float32)
    if images is None and channels not in (1, 3):
        raise UsageError(
            f"the bundled images have 1 or 3 channels, {graph.source} takes {channels}: give "
            "images to calibrate with"
        )
    steps = read_metadata(dict(metadata), graph.source).preprocessing
    name, chosen = load_arrays(images, (channels, height, width), steps or IMAGENET)
    if len(chosen) > MOST:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MOST).astype(np.int64)]
    return name, np.ascontiguousarray(chosen, np.float32)
