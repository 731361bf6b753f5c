"""Measure evaluation against its bars: `python benchmarks/evaluate.py`.

Makes a set of JPEGs of ImageNet's sizes (500x375 and 110 kB on average) out of the photographs
that scikit-image and scikit-learn bundle, and measures in images per second, rounds interleaved:

- end to end: `strzoo.evaluate`, worker start included;
- timm: its own data set, transforms and loader (`timm.data.create_dataset`, `create_loader`) and
  the loop of its validate.py, written out here because that script is not in timm's wheel;
- decode alone: strzoo's loader without a network;
- model alone: the same network on images that are decoded already, a whole batch at once, and in
  the pieces that strzoo.evaluate cuts it into.

Both networks have the same weights. The start of the command is measured too.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import ROOT
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import medians, ratio, take_turns
from PIL import Image

import strzoo
from strzoo.data.imagenet_classes import list_classes
from strzoo.data.layouts import find_samples
from strzoo.data.loading import load_batches
from strzoo.evaluation.opener import open_runner
from strzoo.evaluation.runner import RunnerOptions
from strzoo.hub.resolve import resolve
from tests.helpers.photographs import photographs
from tests.helpers.published import dense_state, write_published

ABOUT = """Images per second over a set of JPEGs made from real photographs, medians of interleaved
rounds; ratios are medians of the rounds' ratios. The peer is timm's own data set, transforms and
loader with the loop of its validate.py, written out because that script is not in timm's wheel.
Same weights. The model alone runs whole batches, as timm's loop does, or pieces, as
`strzoo.evaluate` does. Decoding and the network share the cores of a CPU, so that against the
network in pieces 1 / (1 + model / decode) is the most there is."""
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet50": ("resnet50", {}),
    "mobilenetv1": ("mobilenetv1_100", {"act_layer": "relu"}),
}


def make_images(folder: Path, count: int, processes: int = 1) -> tuple[float, float, float]:
    """Class folders of JPEGs; returns their mean width, height and kilobytes."""
    work = [(folder, number) for number in range(count)]
    if processes == 1:
        made = [_make_image(*one) for one in work]
    else:
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes) as pool:
            made = pool.starmap(_make_image, work, chunksize=16)
    width, height, size = (statistics.mean(column) for column in zip(*made, strict=True))
    return width, height, size


def _make_image(folder: Path, number: int) -> tuple[int, int, float]:
    """Write one JPEG; returns its width, height and kilobytes."""
    random = np.random.default_rng(number)
    sources = [image for image in photographs() if min(image.size) >= 300]
    image = sources[number % len(sources)]
    width, height = int(random.normal(500, 40)), int(random.normal(375, 30))
    share = random.uniform(0.75, 0.98)
    scale = share * min(image.width / width, image.height / height)
    box_width, box_height = width * scale, height * scale
    left = random.uniform(0, image.width - box_width)
    top = random.uniform(0, image.height - box_height)
    piece = image.resize(
        (width, height),
        Image.Resampling.LANCZOS,
        box=(left, top, left + box_width, top + box_height),
    )
    content = b""
    for quality in (99, 97, 95, 92, 88, 84):  # the best that stays near the wanted size
        stream = io.BytesIO()
        piece.save(stream, "JPEG", quality=quality)
        content = stream.getvalue()
        if len(content) < 125_000:
            break
    path = folder / list_classes()[number * 7 % 1000].wnid / f"{number:05}.JPEG"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return width, height, len(content) / 1000


def ours(model: Path, data: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Images per second of strzoo.evaluate, and its top-1."""
    result = strzoo.evaluate(
        model,
        data,
        batch_size=options.batch_size,
        workers=options.workers,
        device=options.device,
        precision=options.precision,
    )
    return result.images_per_second, result.top1


def timms(weights: Path, data: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Images per second of timm, and its top-1."""
    import timm
    from timm.data import create_dataset, create_loader
    from timm.utils import AverageMeter, accuracy

    name, arguments = TIMM[options.architecture]
    model = timm.create_model(name, **arguments)
    model.load_state_dict(torch.load(weights, weights_only=True))
    device = torch.device(options.device)
    model = model.to(device).eval()
    if options.peer_channels_last:
        model = model.to(memory_format=torch.channels_last)
    criterion = torch.nn.CrossEntropyLoss().to(device)
    index = {c.wnid: c.index for c in list_classes()}
    dataset = create_dataset("", root=str(data), class_map=index)
    loader = create_loader(
        dataset,
        input_size=(3, 224, 224),
        batch_size=options.batch_size,
        use_prefetcher=True,
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_workers=options.workers,
        crop_pct=0.875,
        pin_memory=device.type == "cuda",
        device=device,
    )
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    with torch.inference_mode():
        start = time.perf_counter()
        for images, target in loader:
            if options.peer_channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            output = model(images)
            loss = criterion(output, target)
            acc1, acc5 = accuracy(output.detach(), target, topk=(1, 5))
            losses.update(loss.item(), images.size(0))
            top1.update(acc1.item(), images.size(0))
            top5.update(acc5.item(), images.size(0))
        seconds = time.perf_counter() - start
    return len(dataset) / seconds, top1.avg


def decode_alone(data: Path, options: argparse.Namespace) -> float:
    """Images per second of the loader."""
    samples = find_samples(data, 1000)
    steps = strzoo.get_card(f"{options.architecture}_dense").preprocessing
    start = time.perf_counter()
    batches = load_batches(
        samples,
        range(len(samples)),
        steps,
        batch_size=options.batch_size,
        workers=options.workers,
        device=torch.device(options.device),
    )
    count = sum(len(batch) for batch in batches)
    return count / (time.perf_counter() - start)


def model_alone(
    model: Path,
    data: Path,
    options: argparse.Namespace,
    *,
    pieces: bool = False,
    compile: bool = False,
) -> float:
    """Images per second of the network, normalisation included, one batch over and over."""
    size = options.batch_size
    samples = find_samples(data, 1000)
    chosen = RunnerOptions(device=options.device, precision=options.precision, compile=compile)
    with open_runner(resolve(model), chosen) as runner:
        batch = next(
            load_batches(
                samples, range(size), runner.preprocessing, batch_size=size, workers=0,
                device=runner.device,
            )
        )  # fmt: skip
        cut = batch.pixels.to(runner.device).split(runner.most_at_once(size) if pieces else size)
        runner.forward(runner.prepare(cut[0])).cpu()
        rounds = max(1, options.images // size)
        start = time.perf_counter()
        for _ in range(rounds):
            for pixels in cut:
                output = runner.forward(runner.prepare(pixels))
        output.cpu()
        return rounds * size / (time.perf_counter() - start)


def start_up(model: Path, data: Path) -> float:
    """Wall seconds of the command `strzoo evaluate` on 8 images, from start to end."""
    small = data.parent / "few"
    for number, path in enumerate(sorted(data.glob("*/*.JPEG"))[:8]):
        target = small / path.parent.name / f"{number}.JPEG"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "strzoo", "evaluate", str(model), "--data", str(small), "-q"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    return time.perf_counter() - start


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--architecture", choices=list(TIMM), default="resnet50")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--peer-channels-last", action="store_true")
    options = parser.parse_args()
    record = Record(
        parser, options, "evaluate",
        f"Evaluation of {options.architecture}: end to end against timm, decode alone, model alone",
        ABOUT, packages=["torch", "timm", "pillow", "strzoo"], kinds=["architecture"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "val"
        width, height, size = make_images(data, options.images)
        model = folder / "model.pth"
        write_published(model, dense_state(options.architecture), options.architecture)
        weights = strzoo.convert(model, folder / "timm.pth", layout="timm").path
        started = start_up(model, data)
        ways = {
            "end to end, strzoo": lambda: ours(model, data, options)[0],
            "end to end, timm": lambda: timms(weights, data, options)[0],
            "decode alone": lambda: decode_alone(data, options),
            "model alone, whole batches": lambda: model_alone(model, data, options),
            "model alone, in pieces": lambda: model_alone(model, data, options, pieces=True),
        }
        found = take_turns(ways, options.rounds, warm=0)
    table = record.table([Column(""), Column("images/s", "", ".1f")])
    for way, rate in medians(found).items():
        table.add(way, rate)
    own, timm, decode, whole, pieces = found.values()
    bars = {
        "strzoo / timm": (ratio(own, timm), 1.0),
        "strzoo / min(decode, model in whole batches)":
            (ratio(own, list(map(min, decode, whole))), 0.9),
        "strzoo / min(decode, model in pieces)": (ratio(own, list(map(min, decode, pieces))), 0.9),
    }  # fmt: skip
    table = record.table([Column(""), Column("ratio", "", ".2f"), Column("bar", "", ".2f")])
    for what, (value, bar) in bars.items():
        table.add(what, value, bar)
        table.judge(what, value, least=bar)
    if options.device == "cpu":
        shared = statistics.median(1 / (1 + p / d) for p, d in zip(pieces, decode, strict=True))
        table.add("the most that sharing the cores allows for that", shared, None)
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    record.say(
        f"{options.images} JPEGs, {width:.0f}x{height:.0f} pixels, {size:.0f} kB on average; "
        f"{where}, precision {options.precision}, batch {options.batch_size}, {options.workers} "
        f"workers. From start to end of the command on 8 images: {started:.1f} s."
    )
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
