"""A compiled `.strz` file or an ONNX file as one function from images to answers; without torch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import strzoo
from strzoo.data.imagenet_classes import COUNT, list_classes
from strzoo.data.images import BrokenImageError, decode, open_image, prepare
from strzoo.data.preprocessing import IMAGENET, fit_preprocessing
from strzoo.onnx.metadata import ModelMetadata, read_metadata
from strzoo.zoo.registry import Preprocessing


@dataclass(frozen=True)
class Model:
    """A network that is ready to run.

    Args:
        name: of its file.
        engine: what runs it.
        run: takes float32 [N, 3, H, W] (uint8 [N, H, W, 3] if it normalises itself), gives
            scores [N, classes].
        preprocessing: that its images need.
        metadata: what the file says about itself.
        most: images that one call takes; None for any number.
    """

    name: str
    engine: str
    run: Callable[[np.ndarray], np.ndarray]
    preprocessing: Preprocessing
    metadata: ModelMetadata
    most: int | None = None

    def read_image(self, content: bytes, most_pixels: int) -> np.ndarray:
        """One input of the network, from an encoded image.

        Raises:
            BrokenImageError: it cannot be decoded, or has more pixels than allowed.
        """
        pixels = 0
        with contextlib.suppress(Exception), open_image(content) as header:
            pixels = math.prod(header.size)  # known before anything is decoded
        if pixels > most_pixels:
            raise BrokenImageError(f"it has {pixels:,} pixels; at most {most_pixels:,} are taken")
        image = prepare(decode(content), self.preprocessing)
        if self.metadata.built_in:
            return image
        mean, std = (np.array(v, np.float32) for v in _constants(self.preprocessing))
        return np.ascontiguousarray(((image - mean) / std).transpose(2, 0, 1))

    def read_scores(self, scores: np.ndarray, top: int) -> list[dict[str, Any]]:
        """The most likely classes of one image, best first."""
        values = scores.reshape(-1).astype(np.float64)
        if not self.metadata.probabilities:
            values = np.exp(values - values.max())
            values /= values.sum()
        order = np.argsort(-values, kind="stable")[:top].tolist()
        names = self.metadata.class_names
        if not names and len(values) == COUNT:
            names = tuple(found.name for found in list_classes())
        return [
            {
                "index": index,
                "name": names[index] if names else f"class {index}",
                "probability": float(values[index]),
            }
            for index in order
        ]


def open_model(path: str, threads: int) -> Model:
    """The model of a `.strz` file on strzoo's engine, or of an ONNX file on onnxruntime.

    Args:
        path: of the file.
        threads: that one call uses.
    """
    if Path(path).suffix == ".onnx":
        return _open_onnx(path, threads)
    compiled = strzoo.compile(path, threads=threads)
    metadata = read_metadata(compiled.metadata, path)
    steps = fit_preprocessing(metadata.preprocessing or IMAGENET, compiled.input_shape[-1])
    return Model(Path(path).name, "strzoo", compiled, steps, metadata)


def _open_onnx(path: str, threads: int) -> Model:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    value = session.get_inputs()[0]
    metadata = read_metadata(session.get_modelmeta().custom_metadata_map, path)
    side = value.shape[1 if metadata.built_in else 2]
    steps = fit_preprocessing(
        metadata.preprocessing or IMAGENET, side if isinstance(side, int) else None
    )

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {value.name: images})[0])

    most = value.shape[0] if isinstance(value.shape[0], int) else None
    if most not in (None, 1):
        raise strzoo.StrzooError(f"{path} takes {most} images at once; export it with open batches")
    return Model(Path(path).name, "onnxruntime", run, steps, metadata, most)


def _constants(steps: Preprocessing) -> tuple[list[float], list[float]]:
    """Mean and deviation of pixels from 0 to 255."""
    return [255 * v for v in steps.mean], [255 * v for v in steps.std]
