"""Files in int8, for the engines that run them: static QDQ, calibrated on real images."""

from __future__ import annotations

from pathlib import Path

import onnx

from strzoo.data.calibration import load_samples, random_samples
from strzoo.data.preprocessing import IMAGENET
from strzoo.onnx.files import read_onnx
from strzoo.onnx.metadata import read_metadata
from strzoo.onnx.precision import convert_precision


def write_int8(source: Path, destination: Path, size: tuple[int, ...]) -> Path:
    """Write the network of an fp32 ONNX file in int8.

    The bundled images calibrate it, or random ones where images have neither 1 nor 3 channels.

    Args:
        size: channels, height, width of the images.

    Returns:
        `destination`.

    Raises:
        StrzooError: onnxruntime cannot convert the network.
    """
    model = read_onnx(source)
    channels, height, width = size
    if channels in (1, 3):
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        steps = read_metadata(metadata, source.name).preprocessing
        samples = load_samples(None, (channels, height, width), steps or IMAGENET)
    else:
        samples = random_samples((channels, height, width), 8)
    onnx.save(convert_precision(model, "int8", samples.images), str(destination))
    return destination
