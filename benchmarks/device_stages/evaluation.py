"""Stage 2: how fast images are evaluated, from the file to the count, and where the time goes."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from evaluate import decode_alone, make_images, model_alone, timms

import strzoo
from device_stages.rows import Stage
from strzoo.data.layouts import find_samples
from strzoo.data.loading import decode_on_device, load_batches
from strzoo.evaluation.results import EvalResult
from tests.helpers.published import dense_state, write_published

ROUNDS = 3


def run(stage: Stage) -> None:
    options = argparse.Namespace(
        architecture="mobilenetv1" if stage.tiny else "resnet50",
        images=16 if stage.tiny else 2048,
        batch_size=8 if stage.tiny else 256,
        workers=stage.workers,
        device=stage.device,
        precision="auto",
        peer_channels_last=True,
    )
    started = time.monotonic()
    data = stage.folder / "val"
    distinct = options.images if stage.tiny else options.images // 2
    width, height, size = make_images(data, distinct, stage.workers)
    for path in sorted(data.glob("*/*.JPEG"))[: options.images - distinct]:
        path.with_name(f"again-{path.name}").hardlink_to(path)
    model = stage.folder / "model.pth"
    state = dense_state(options.architecture)
    write_published(model, state, options.architecture, optimizer=False)
    weights = strzoo.convert(model, stage.folder / "timm.pth", layout="timm").path
    stage.say(
        "images",
        f"{options.images} JPEGs, {width:.0f}x{height:.0f}, {size:.0f} kB on average; batch "
        f"{options.batch_size}, {options.workers} workers, {options.architecture}; made in "
        f"{time.monotonic() - started:.0f} s",
    )
    alone = measure_end_to_end(stage, options, model, weights, data)
    measure_device_decoding(stage, options, model, data, alone)
    measure_models(stage, options, model, data, ("fp32", "tf32", "bf16"))
    compare_answers(stage, options, model, data)
    measure_models(stage, options, model, data, ("bf16",), compile=True)  # takes longest


def evaluate(
    model: Path, data: Path, options: argparse.Namespace, precision: str = "auto",
    decoder: str = "pil",
) -> EvalResult:  # fmt: skip
    return strzoo.evaluate(
        model, data, batch_size=options.batch_size, workers=options.workers,
        device=options.device, precision=precision, decoder=decoder,
    )  # fmt: skip


def measure_end_to_end(
    stage: Stage, options: argparse.Namespace, model: Path, weights: Path, data: Path
) -> float:
    """Our loop against timm's, decoding and the network; returns the network's images/s."""
    measured: dict[str, Callable[[], float]] = {
        "timm": lambda: timms(weights, data, options)[0],
        "decode": lambda: decode_alone(data, options),
        "model": lambda: model_alone(model, data, options),
    }
    found: dict[str, list[float]] = {name: [] for name in ("ours", *measured)}
    evaluate(model, data, options)  # the first run finds cuDNN's algorithms
    result = None
    for _ in range(1 if stage.tiny else ROUNDS):
        if result is not None and stage.left < 0.5 * stage.seconds:
            break
        result = evaluate(model, data, options)
        found["ours"].append(result.images_per_second)
        for name, function in measured.items():
            found[name].append(function())
    assert result is not None
    middle = {name: statistics.median(values) for name, values in found.items()}
    precision = result.precision
    stage.say(f"end to end, strzoo, {precision}, PIL, images/s", middle["ours"])
    stage.say("end to end, timm, channels-last, images/s", middle["timm"])
    stage.say(f"decode alone, PIL, {options.workers} workers, images/s", middle["decode"])
    stage.say(f"model alone, {precision}, images/s", middle["model"])
    each = zip(*(found[name] for name in ("ours", "timm", "decode", "model")), strict=True)
    ratios = [(ours / timm, ours / min(decode, alone)) for ours, timm, decode, alone in each]
    stage.judge("strzoo / timm", statistics.median(r[0] for r in ratios), least=1.0)
    share = statistics.median(r[1] for r in ratios)
    stage.judge("strzoo / min(decode, model)", share, least=0.9)
    timing = result.timing
    stage.say(
        "seconds of the last run",
        f"total {timing.total:.2f}, first batch after {timing.first_batch:.2f}, waiting for "
        f"images {timing.waiting:.2f}, transfer {timing.transfer:.2f}, forward "
        f"{timing.forward:.2f}, decode {timing.decode:.2f} (over all workers)",
    )
    return middle["model"]


def measure_models(
    stage: Stage, options: argparse.Namespace, model: Path, data: Path,
    precisions: tuple[str, ...], *, compile: bool = False,
) -> None:  # fmt: skip
    """The network alone in some precisions."""
    images = 2 * options.batch_size if stage.tiny else 4096
    for precision in precisions:
        if precision == "tf32" and stage.device == "cpu":
            continue
        ours = argparse.Namespace(**{**vars(options), "images": images, "precision": precision})
        rate = model_alone(model, data, ours, compile=compile)
        stage.say(f"model alone, {precision}{', compiled' if compile else ''}, images/s", rate)


def measure_device_decoding(
    stage: Stage, options: argparse.Namespace, model: Path, data: Path, alone: float
) -> None:
    """nvJPEG on a GPU: alone, and in the loop."""
    samples = find_samples(data, 1000)
    preprocessing = strzoo.get_card(f"{options.architecture}_dense").preprocessing
    device = torch.device(options.device)

    def decode() -> float:
        started = time.perf_counter()
        for batch in load_batches(
            samples, range(len(samples)), preprocessing, batch_size=options.batch_size,
            workers=options.workers, device=device, decoder="device",
        ):  # fmt: skip
            pixels = decode_on_device(batch, preprocessing, device).pixels
        pixels.cpu()
        return len(samples) / (time.perf_counter() - started)

    if not stage.tiny:
        decode()
    stage.say("decode alone, on the device, images/s", decode())
    runs = [evaluate(model, data, options, decoder="device") for _ in range(1 if stage.tiny else 2)]
    rate = max(result.images_per_second for result in runs)
    stage.say("end to end, decoding on the device, images/s", rate)
    stage.judge("decoding on the device / model alone", rate / alone, least=0.8)
    check = runs[-1].decoder_check
    assert check is not None
    stage.say(
        "decoding on the device against PIL",
        f"top-1 {check.top1 - check.pil_top1:+.2f} points, {check.different_predictions} of "
        f"{check.images} predictions differ (random weights)",
    )


def compare_answers(stage: Stage, options: argparse.Namespace, model: Path, data: Path) -> None:
    """The device's answers in fp32 against the CPU's on some of the images."""
    few = stage.folder / "few"
    for path in sorted(data.glob("*/*.JPEG"))[: 4 if stage.tiny else 256]:
        target = few / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)
    here = evaluate(model, few, options, precision="fp32")
    there = strzoo.evaluate(
        model, few, device="cpu", precision="fp32", workers=options.workers,
        batch_size=options.batch_size,
    )  # fmt: skip
    different = int((here.predictions != there.predictions).sum())
    stage.say(
        "fp32 against the CPU",
        f"{here.correct_top1} and {there.correct_top1} right of {here.images}, {different} "
        f"answers differ (random weights), loss {here.loss:.6f} and {there.loss:.6f}",
    )
