"""export_onnx: one self-contained ONNX file, checked against torch before it gets its name."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from strzoo.arguments import checked
from strzoo.data.calibration import Images, Samples, load_samples, random_samples
from strzoo.data.preprocessing import fit_image_size
from strzoo.errors import StrzooError, UsageError, VerificationError
from strzoo.export.zeros import check_zeros, count_zeros
from strzoo.files import atomic_path, check_destination, write_error
from strzoo.hub.families import FamilySource
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import ImageSize, Source, check_image_size
from strzoo.onnx.graphs import DEFAULT_OPSET, Deployed, build_graph, run_once
from strzoo.onnx.metadata import ModelMetadata, set_entries
from strzoo.onnx.parity import (
    Agreement,
    check_file,
    compare,
    session_forward,
)
from strzoo.onnx.precision import check_precision, convert_precision
from strzoo.onnx.results import OnnxExport
from strzoo.onnx.sessions import SATURATING, open_session, read_versions
from strzoo.onnx.weights import find_block, weighted_nodes, zero_percent
from strzoo.settings import Settings

log = logging.getLogger(__name__)

# Largest relative difference from torch's fp32 outputs that passes. int8 is judged on real
# images alone: random noise lies outside the ranges it was calibrated for.
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-2, "int8": 0.5}
_BATCHES = (1, 3)
_HELD_OUT = 5  # int8: every fifth image checks, the others calibrate, when there are enough
_ENOUGH = 20
_CHECKED = 64  # images that fp16 and int8 are compared on
_SATURATED = 0.01  # of the largest output: what is less tells nothing about this processor


@checked
def export_onnx(
    model: Model,
    path: str | os.PathLike[str],
    *,
    input_size: tuple[int, ...] | int | None = None,
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    precision: str = "fp32",
    softmax: bool = False,
    preprocessing: bool = False,
    class_names: Sequence[str] | None = None,
    images: Images | None = None,
    tolerance: float | None = None,
    min_agreement: float = 0.0,
    reduce_range: bool = False,
    force: bool = False,
    settings: Settings | None = None,
    on_step: Callable[[str], object] = log.info,
) -> OnnxExport:
    """Write `model` as one self-contained ONNX file whose outputs agree with torch's.

    The input is `images`, float32 [batch, C, H, W] normalised, or uint8 [batch, H, W, 3] with
    built-in preprocessing; the output is `logits` (`probabilities` with `softmax`), float32
    [batch, classes]. BatchNorm is folded into the convolutions. The file is run through onnx's
    checker and shape inference, and by onnxruntime at batch 1 and 3 on real and on random images
    against the torch network, before it appears under its name; the measurements are stored
    beside it as `<path>.json`.

    Args:
        model: a model id, a checkpoint file, a `Checkpoint`, or any `nn.Module` (not changed;
            STR, DNW and GMP layers are converted to plain ones on a copy); or a FastGRNN network
            or its file, whose input is `sequences` [batch, steps, features] and which takes
            `precision` fp32 or int8, `opset` and `force` alone.
        path: ends in .onnx.
        input_size: channels, height, width of one image (or height and width, or a side); by
            default what the network was made for (3, 32, 32 for resnet20 and small stems, else 3,
            224, 224).
        batch: a fixed batch size; by default a dynamic axis named `batch`.
        opset: version of the operator set; read back from the written file.
        precision: "fp32", "fp16" or "int8" (static QDQ).
        softmax: end in probabilities instead of logits.
        preprocessing: scale and normalise inside the graph; resizing stays outside.
        class_names: stored as metadata; ImageNet's by default for published networks.
        images: what to check on and, for int8, to calibrate with: a folder of images,
            "photographs" or "digits" (bundled), an `ImageSet`, or a tensor of inputs.
        tolerance: largest relative difference (over the largest output) that passes; by default
            1e-5 for fp32, 5e-2 for fp16, 0.5 for int8.
        min_agreement: least top-1 agreement with fp32 on the real images, in percent.
        reduce_range: int8 with weights of 7 bits, for processors without VNNI, where
            onnxruntime's int8 saturates by default.
        force: overwrite existing files.
        settings: cache folder, registries, network switches; from the environment by default.
        on_step: told what happens next, in one line.

    Returns:
        What was written and measured; sizes in bytes, sparsity and agreement in percent.

    Raises:
        UsageError, UnknownNameError: an argument is not valid.
        StrzooError: the destination is refused, or the network cannot be exported.
        OfflineError, NetworkError, IntegrityError: the weights cannot be had.
        VerificationError: a check failed; no file is left behind.
    """
    started = time.perf_counter()
    path = Path(path)
    if path.suffix != ".onnx":
        raise UsageError(f"{path} must end in .onnx")
    report_path = path.with_name(path.name + ".json")
    for destination in (path, report_path):
        check_destination(destination, force=force)
    on_step("loading the network")
    source = resolve(model, settings=settings)
    if isinstance(source, FamilySource):
        source.refuse(
            input_size=input_size, batch=batch, softmax=softmax, preprocessing=preprocessing,
            class_names=class_names, images=images, tolerance=tolerance,
            min_agreement=min_agreement > 0, reduce_range=reduce_range,
        )  # fmt: skip
        exported = source.export(path, precision=precision, opset=opset, force=force)
        with atomic_path(report_path, force=force) as temporary_report:
            temporary_report.write_text(json.dumps(exported.to_dict(), indent=2) + "\n")
        return exported
    check_precision(precision)
    if reduce_range and precision != "int8":
        raise UsageError(f"a reduced range is for int8 weights, not for {precision}")
    if source.kind in ("onnx", "plan"):
        raise UsageError(
            f"{source.shown} is {source.described} already; give an id or a checkpoint"
        )
    network, usual = source.build_dense(), source.input_size
    size = check_image_size(input_size, usual[0]) or usual
    for note in source.notes:
        on_step(note)
    steps = source.preprocessing
    if preprocessing and size[0] != steps.channels:
        raise UsageError(f"built-in preprocessing is for {steps.channels} channels")
    reference = Deployed(
        network, softmax=softmax, preprocessing=steps if preprocessing else None
    ).eval()
    names = _check_names(class_names, source)
    real = load_samples(images, size, steps, as_bytes=preprocessing)
    classes = _count_classes(reference, real, names)
    calibration, real = _split(real, precision)

    on_step("building the ONNX graph")
    graph = build_graph(reference, size, opset=opset, batch=batch)
    if precision != "fp32":
        on_step(f"converting to {precision}")
        graph = convert_precision(graph, precision, calibration.images, reduce_range=reduce_range)
    layers = list(weighted_nodes(graph))
    counts = count_zeros(network)
    check_zeros(path, counts, [(node.weight.size, node.zeros) for node in layers])
    sparsity, weights = zero_percent(layers), sum(size for size, _ in counts)
    source_sparsity = 100.0 * sum(zeros for _, zeros in counts) / weights if weights else 0.0
    metadata = describe(source, size, names, precision=precision, sparsity=sparsity)
    metadata = replace(
        metadata, built_in=preprocessing, probabilities=softmax, block=find_block(layers)
    )
    entries = metadata.to_entries()
    set_entries(graph, entries)
    with _both(path, report_path, force) as (temporary, temporary_report):
        _save(graph, temporary, path)
        on_step("checking it against torch")
        written = check_file(temporary, opset, (batch, classes))
        checks = _check(reference, temporary, real, size, batch, precision, preprocessing)
        relevant = [c for c in checks if precision != "int8" or c.data == real.name]
        seen = [c for c in checks if c.data == real.name]
        value, output = written.graph.input[0], written.graph.output[0]
        result = OnnxExport(
            path=path,
            report_path=report_path,
            model=metadata.model,
            precision=precision,
            opset=opset,
            input_name=value.name,
            input_type="uint8" if preprocessing else "float32",
            input_shape=_shape(value),
            output_name=output.name,
            output_shape=_shape(output),
            bytes=temporary.stat().st_size,
            sparsity=sparsity,
            source_sparsity=source_sparsity,
            largest_difference=max(c.largest_difference for c in relevant),
            relative_difference=max(c.relative_difference for c in relevant),
            top1_agreement=sum(c.images * c.top1_agreement for c in seen)
            / sum(c.images for c in seen),
            tolerance=TOLERANCES[precision] if tolerance is None else tolerance,
            checks=tuple(checks),
            metadata=entries,
            versions=read_versions(),
            seconds=time.perf_counter() - started,
        )
        _judge(result, min_agreement)
        if precision == "int8" and not reduce_range:
            _warn_of_saturation(temporary, real, batch)
        temporary_report.write_text(json.dumps(result.to_dict(), indent=2) + "\n")
    return result


def describe(
    source: Source,
    size: ImageSize,
    class_names: tuple[str, ...],
    *,
    precision: str = "fp32",
    sparsity: float = 0.0,
) -> ModelMetadata:
    """What an export of `source` for images of `size` says about itself; sparsity in percent."""
    return ModelMetadata(
        model=source.card.id if source.card else source.architecture,
        architecture=source.architecture,
        precision=precision,
        sparsity=sparsity,
        preprocessing=fit_image_size(source.preprocessing, size),
        input_size=size[1:],
        class_names=class_names,
        card=source.card,
    )


def _check_names(given: Sequence[str] | None, source: Source) -> tuple[str, ...]:
    """The given class names, else those that are known."""
    if given is None:
        return source.class_names
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise UsageError("class names are a sequence of texts, one per class")
    return tuple(given)


def _count_classes(reference: Deployed, real: Samples, names: Sequence[str]) -> int:
    """Number of outputs, from one run of torch, which also shows that the input size is fine."""
    shape = run_once(reference, real.images[:1]).shape
    if names and len(names) != shape[1]:
        raise UsageError(f"{len(names)} class names were given for {shape[1]} classes")
    return shape[1]


def _split(real: Samples, precision: str) -> tuple[Samples, Samples]:
    """Images to calibrate with and images to check on: distinct ones if there are enough."""
    if precision != "int8" or len(real) < _ENOUGH:
        return real, Samples(real.name, real.images[:_CHECKED])
    held_out = torch.arange(len(real)) % _HELD_OUT == 0
    return (
        Samples(real.name, real.images[~held_out]),
        Samples(real.name, real.images[held_out][:_CHECKED]),
    )


@contextmanager
def _both(path: Path, report: Path, force: bool) -> Iterator[tuple[Path, Path]]:
    with atomic_path(report, force=force) as second, atomic_path(path, force=force) as first:
        yield first, second


def _save(graph: onnx.ModelProto, temporary: Path, path: Path) -> None:
    try:
        onnx.save(graph, str(temporary))
    except OSError as error:
        raise write_error(path, error) from error
    except ValueError as error:  # protobuf's limit
        raise StrzooError(
            f"{path}: the network is larger than the 2 GB that one ONNX file can hold"
        ) from error


def _check(
    reference: Deployed,
    path: Path,
    real: Samples,
    image_size: ImageSize,
    batch: int | None,
    precision: str,
    as_bytes: bool,
) -> list[Agreement]:
    """onnxruntime against torch: batch 1 and 3, or the fixed batch; real and random images."""
    forward = session_forward(open_session(path))
    checks = []
    for size in (batch,) if batch else _BATCHES:
        noise = random_samples(image_size, size, as_bytes=as_bytes)
        several = precision != "fp32" and size == (batch or _BATCHES[-1])
        wanted = max(size, len(real) if several else 0)
        for samples in (_repeated(real, size, wanted), noise):
            checks.append(compare(reference, forward, samples, size))
    return checks


def _repeated(real: Samples, size: int, wanted: int) -> Samples:
    """The first `wanted` images, repeated where there are fewer than `size`."""
    images = real.images.repeat(-(-size // len(real)), *[1] * (real.images.dim() - 1))
    return Samples(real.name, images[:wanted])


def _warn_of_saturation(path: Path, real: Samples, batch: int | None) -> None:
    """Say so where this processor gives other numbers by onnxruntime's default than it should."""
    size = batch or len(real)
    exact, default = (
        session_forward(open_session(path, entries=entries)) for entries in (None, SATURATING)
    )
    lost = compare(exact, default, _repeated(real, size, size), size).relative_difference
    if lost > _SATURATED:
        log.warning(
            "int8 sums saturate on this processor, which has no VNNI: by its default settings "
            "onnxruntime's outputs are off by %.0f %% of the largest one. Set its session entry "
            "session.x64quantprecision to 1 where the file runs on such processors, or export "
            "with --reduce-range (reduce_range=True)",
            100 * lost,
        )


def _judge(result: OnnxExport, min_agreement: float) -> None:
    """Raise a VerificationError unless the measurements are within what was asked."""
    if not result.relative_difference <= result.tolerance:
        raise VerificationError(
            f"{result.path}: {result.precision} differs from torch by "
            f"{result.relative_difference:.3g} of the largest output, more than the tolerance "
            f"{result.tolerance:.3g} (--tolerance, tolerance=); nothing was written"
        )
    if result.top1_agreement < min_agreement:
        raise VerificationError(
            f"{result.path}: {result.top1_agreement:.2f} % top-1 agreement with fp32, less than "
            f"the {min_agreement:.2f} % asked for; nothing was written"
        )


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param
        for d in value.type.tensor_type.shape.dim
    )
