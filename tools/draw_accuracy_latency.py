"""Draw README's picture: published accuracy against the latency in benchmarks/results/engine.json.

python tools/draw_accuracy_latency.py
"""

from __future__ import annotations

import json
from pathlib import Path

from strzoo.zoo.registry import load_registry

ROOT = Path(__file__).resolve().parent.parent
DESTINATION = ROOT / "docs" / "images" / "accuracy-latency.svg"


# How to draw each engine of the table: of those that skip zeros a line, of the others one point.
SPARSE = {"strzoo": ("fp32", "o-", "#0072B2"), "strzoo int16": ("int16", "^-", "#009E73")}
DENSE = {
    "onnxruntime": ("onnxruntime, fp32", "s", "#D55E00"),
    "openvino-int8": ("OpenVINO, int8", "D", "#CC79A7"),
}


def read_points() -> list[tuple[str, float, dict[str, float]]]:
    """Id, top-1 % and ms of each engine, of ResNet50 at batch 1."""
    table = json.loads((ROOT / "benchmarks/results/engine.json").read_text())["tables"][0]
    names = [column["name"] for column in table["columns"]]
    points: list[tuple[str, float, dict[str, float]]] = []
    for cells in table["rows"]:
        row = dict(zip(names, cells, strict=True))
        architecture, sparsity = row["model"].split()
        if (architecture, row["threads"], row["batch"]) == ("resnet50", 2, 1):
            card = load_registry().get(f"resnet50_str_{sparsity}")
            points.append((card.id, card.published.top1, row))
    return points


def draw(destination: Path = DESTINATION) -> None:
    """Write the SVG; the same bytes for the same figures."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    matplotlib.rcParams["svg.hashsalt"] = "strzoo"
    points = read_points()
    figure = Figure(figsize=(7.2, 3.4), layout="constrained", facecolor="white")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    heights = [top for _, top, _ in points]
    for engine, (name, style, colour) in SPARSE.items():
        label = f"STR networks on strzoo's sparse engine, {name}"
        axes.plot([ms[engine] for *_, ms in points], heights, style, color=colour, label=label)
    top1 = load_registry().get("resnet50_dense").published.top1
    for engine, (name, style, colour) in DENSE.items():
        spent = sorted(ms[engine] for *_, ms in points)[len(points) // 2]
        axes.plot([spent], [top1], style, color=colour, label=f"dense network on {name}")
    for id, top, ms in points:
        text = f"{id.rpartition('_')[2]} % zeros, {ms['onnxruntime'] / ms['strzoo']:.1f}x"
        axes.annotate(text, (ms["strzoo"], top), (8, -10), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    shown = [ms[engine] for *_, ms in points for engine in (*SPARSE, *DENSE)]
    low, high = 0.8 * min(shown), 2.2 * max(shown)
    axes.set_xlim(low, high)
    axes.set_ylim(59, 80)
    axes.set_xticks([tick for tick in (1, 2, 3, 5, 10, 20, 40) if low < tick < high])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("ms per image, batch 1, 2 cores (log)")
    axes.set_ylabel("ImageNet top-1 %, as published")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(destination, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    draw()
