"""Any network on the sparse engine, beside dense onnxruntime: `python benchmarks/networks.py`.

    python benchmarks/networks.py [--networks resnet18,nudenet] [--size 64] [--runs 15]

Networks of timm with random weights, of which 90 % are zero in every convolution and fully
connected layer but the first and grouped ones; and the ONNX files inside the PyPI packages nudenet
and rapidocr-onnxruntime, as they are and with 90 % of their weights cut by magnitude. A row says
how far the outputs are from onnxruntime's (the largest difference, relative to the largest output,
at most 1e-4), the time for one image on both, who runs what, and how long compiling took. The image
is a bundled photograph with a line of text: where there is none, the text detector's outputs are
so small that onnxruntime with and without its optimisations differs by more than that. Where all
outputs of onnxruntime's Sigmoid are 0, what goes into it is compared.

onnxruntime has its default settings and as many threads. The two take turns; medians count. The
exit code is 1 if an output is too far off.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import SPINNING, medians, take_turns, timed
from onnx import numpy_helper
from PIL import Image, ImageDraw, ImageFont

import strzoo

TIMM = (
    "resnet18", "resnet50", "mobilenetv2_100", "efficientnet_lite0", "efficientnet_b0",
    "mobilenetv3_small_100", "regnetx_002", "regnety_002", "convnext_atto", "densenet121",
    "vgg11_bn", "inception_v3", "repvgg_a0", "ghostnet_100", "mnasnet_100", "hrnet_w18_small",
    "dla34", "res2net50_26w_4s", "resnext50_32x4d", "seresnet50", "mobilenetv4_conv_small",
    "fastvit_t8", "edgenext_small", "xception41", "darknet53", "cspdarknet53", "nfnet_l0",
    "vit_tiny_patch16_224",
)  # fmt: skip
PACKAGES = {"nudenet": "nudenet", "rapidocr-onnxruntime": "rapidocr_onnxruntime"}
SIZES = {"nudenet": (320, 320), "det": (320, 320), "rec": (48, 320), "cls": (48, 192)}
ABOUT = """Networks of timm with random weights, of which 90 % are zero in every convolution and
fully connected layer but the first and grouped ones; and the ONNX files inside the PyPI packages
nudenet and rapidocr-onnxruntime, as they are and cut by magnitude. One image, beside dense
onnxruntime with as many threads, in turns, medians; 0.1 s between them, for its threads spin on for
60 ms after a run. The difference is the largest from onnxruntime's outputs, relative to the largest
output (of what goes into the last Sigmoid, if onnxruntime makes 0 of all of it). Bars: 1e-4, and at
90 % a median gain of 2.5 and none less than 1; 0.97 where onnxruntime runs the whole network on
both sides, which is noise."""
ZEROS, ALLOWED = 0.9, 1e-4
SAME = 0.97  # the least ratio of the times of one computation that noise explains


@dataclass(frozen=True)
class Case:
    """A network: its name, how to make its ONNX file, the size of the images where that is open,
    and whether its weights are cut."""

    name: str
    make: Callable[[], bytes]
    size: tuple[int, int] | None = None
    sparse: bool = True


@dataclass(frozen=True)
class Row:
    """One network; times in milliseconds."""

    name: str
    error: float
    engine: float
    peer: float
    who: str
    compiled: float


def export(name: str, size: int | None) -> bytes:
    """A network of timm, cut, as an ONNX file with an open batch."""
    import timm

    torch.manual_seed(0)
    given: dict[str, Any] = {"img_size": size} if size and name.startswith("vit") else {}
    network: Any = timm.create_model(name, pretrained=False, **given).eval()
    freeze_standardization(network)
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    for layer in layers[1:]:
        if getattr(layer, "groups", 1) == 1:
            cut(layer.weight.data.numpy())
    side = size or int(network.default_cfg["input_size"][-1])
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.randn(1, 3, side, side),), buffer, dynamo=False, opset_version=17,
            input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
        )  # fmt: skip
    return bytes(buffer.getvalue())


def freeze_standardization(network: torch.nn.Module) -> None:
    """Make plain convolutions of those that standardize their weights: zeros remain zeros."""
    for name, module in list(network.named_modules()):
        if "ScaledStdConv" not in type(module).__name__:
            continue
        old: Any = module
        flat = old.weight.reshape(1, old.out_channels, -1)
        gain = (old.gain * old.scale).view(-1)
        weight = torch.nn.functional.batch_norm(
            flat, None, None, weight=gain, training=True, momentum=0.0, eps=old.eps
        )
        made = torch.nn.Conv2d(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding,
            old.dilation, old.groups, old.bias is not None,
        )  # fmt: skip
        made.weight.data = weight.reshape_as(old.weight).detach()
        if old.bias is not None and made.bias is not None:
            made.bias.data = old.bias.data
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, made)


def cut(weights: np.ndarray) -> None:
    """Set the smallest weights to zero, in place."""
    sizes = np.abs(weights)
    weights[sizes <= np.quantile(sizes, ZEROS)] = 0


def read_file(path: Path, *, sparse: bool) -> bytes:
    """An ONNX file, cut if `sparse`."""
    model = onnx.load(str(path))
    consumers = {n.input[1]: n for n in model.graph.node if n.op_type in ("Conv", "MatMul", "Gemm")
                 and len(n.input) > 1}  # fmt: skip
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensors |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    for name, tensor in tensors.items() if sparse else ():
        node = consumers.get(name)
        grouped = node is not None and any(a.name == "group" and a.i > 1 for a in node.attribute)
        if node is not None and not grouped and np.prod(tensor.dims) > 1000:
            weights = numpy_helper.to_array(tensor).copy()
            cut(weights)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return bytes(model.SerializeToString())


def end_before_sigmoid(content: bytes) -> bytes:
    """The network without the Sigmoid at its end: onnxruntime's is exactly 0 below -18 or so."""
    model = onnx.load_from_string(content)
    for output in model.graph.output:
        (last,) = (node for node in model.graph.node if output.name in node.output)
        if last.op_type != "Sigmoid":
            raise SystemExit(f"output {output.name!r} is 0 everywhere; nothing can be compared")
        output.name = last.input[0]
        model.graph.node.remove(last)
    return bytes(model.SerializeToString())


def read_photograph(height: int, width: int) -> np.ndarray:
    """A bundled photograph with text, fp32 [1, 3, height, width] from -2 to 2."""
    folder = Path(strzoo.__file__).parent / "data/photographs"
    with Image.open(min(folder.glob("*.*g"))) as image:
        small = image.convert("RGB").resize((width, height))
    draw = ImageDraw.Draw(small)
    draw.rectangle((0, height // 3, width, 2 * height // 3), fill="white")
    font = ImageFont.load_default(size=height / 5)
    draw.text((width // 10, height // 2), "TEXT 42", fill="black", font=font, anchor="lm")
    pixels = np.asarray(small, np.float32)
    return np.ascontiguousarray((pixels / 64 - 2).transpose(2, 0, 1)[None])


def list_cases(size: int | None) -> Iterator[Case | str]:
    """All networks; a text for a package that is not installed."""
    for name in TIMM:
        least = {"inception_v3": 96, "xception41": 96, "vgg11_bn": 224}.get(name, 0)
        own = max(size, least) if size else None
        yield Case(name, lambda name=name, own=own: export(name, own))  # type: ignore[misc]
    for package, module in PACKAGES.items():
        spec = find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            yield f"{package} is not installed (pip install --no-deps {package}); left out"
            continue
        for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.onnx")):
            kind = next((kind for kind in SIZES if kind in f"{module} {path.stem}"), "det")
            for sparse in (False, True):
                yield Case(
                    f"{package} {path.stem}{', 90 % zeros' * sparse}",
                    lambda path=path, sparse=sparse: read_file(path, sparse=sparse),  # type: ignore[misc]
                    SIZES[kind],
                    sparse,
                )


def measure(case: Case, runs: int, threads: int, islands: str) -> Row:
    """Compile, compare and time a network."""
    content = case.make()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads
    session = onnxruntime.InferenceSession(content, options)
    (given,) = session.get_inputs()
    open_sides = not all(isinstance(side, int) for side in given.shape[2:])
    size = case.size if open_sides else None
    began = time.perf_counter()
    model = strzoo.compile(content, threads, size=size, cache=False, islands=islands)
    compiled = time.perf_counter() - began
    x = read_photograph(*model.input_shape[1:])

    def run_peer() -> list[np.ndarray]:
        return list(session.run(None, {given.name: x}))

    expected, found = run_peer(), model(x)
    if not any(one.any() for one in expected):
        content = end_before_sigmoid(content)
        expected = onnxruntime.InferenceSession(content, options).run(None, {given.name: x})
        found = strzoo.compile(content, threads, size=size, cache=False, islands=islands)(x)
    arrays = list(found.values()) if isinstance(found, dict) else [found]
    error = max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(arrays, expected, strict=True)
    )
    ways = {"engine": lambda: timed_again(lambda: model(x)), "peer": lambda: timed_again(run_peer)}
    seconds = medians(take_turns(ways, runs, pause=SPINNING))
    engine, peer = (1e3 * value for value in seconds.values())
    return Row(case.name, error, engine, peer, describe(model), compiled)


def timed_again(run: Callable[[], object]) -> float:
    """Seconds of a call after one that is not counted: after a pause, threads have to wake."""
    run()
    return timed(run)


def describe(model: strzoo.SparseModel) -> str:
    """Who runs what."""
    outside = [part for part in model.report.parts if part.engine == "onnxruntime"]
    if not outside:
        return "engine"
    nodes = sum(part.nodes for part in model.report.parts)
    if len(outside) == len(model.report.parts):
        return "onnxruntime"
    return f"engine, {sum(part.nodes for part in outside)} of {nodes} nodes in onnxruntime"


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--networks", help="only those whose names begin with one of these")
    parser.add_argument("--size", type=int, help="side of the images of timm's networks")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--islands", default="auto", help="auto, or missing")
    options = parser.parse_args()
    record = Record(
        parser, options, "networks", "Networks of all kinds on the sparse engine", ABOUT,
        packages=["torch", "timm", "onnxruntime", "llvmlite", "strzoo", *PACKAGES],
    )  # fmt: skip
    table = record.table([
        Column("network"), Column("difference", "", ".1e"), Column("engine", "ms", ".2f"),
        Column("onnxruntime", "ms", ".2f"), Column("gain", "", ".2f"), Column("runs in"),
        Column("compiled", "s", ".0f"),
    ])  # fmt: skip
    torch.set_num_threads(1)
    wanted = tuple(options.networks.split(",")) if options.networks else ("",)
    gains = []
    for case in list_cases(options.size):
        if isinstance(case, str):
            print(case, file=sys.stderr)
        elif case.name.startswith(wanted):
            try:
                row = measure(case, options.runs, options.threads, options.islands)
            except Exception as error:
                traceback.print_exc()
                record.miss(f"{case.name} failed with {type(error).__name__}")
                continue
            gain = row.peer / row.engine
            table.add(row.name, row.error, row.engine, row.peer, gain, row.who, row.compiled)
            if case.sparse:
                gains.append(gain)
                least = SAME if row.who == "onnxruntime" else 1.0
                table.judge(f"{row.name}: the gain", gain, least=least)
            table.judge(f"{row.name}: the difference", row.error, most=ALLOWED)
    if gains:
        median, least = statistics.median(gains), min(gains)
        record.say(f"Gain at 90 %: median {median:.2f}, least {least:.2f}.")
        table.judge("the median gain at 90 %", median, least=2.5)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
