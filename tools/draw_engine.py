"""Draw the figures of docs/engine-inside.md.

python tools/draw_engine.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
# Told apart in print and in colour-blind vision: their lightness differs too.
SHADES = {"a": "#fde7b5", "b": "#b7e0f2", "c": "#8fc9a8", "d": "#e3a0a0"}
STAGES = (
    ("read", "frontend/", "graph"),
    ("simplify", "passes/", "fused layers"),
    ("quantize", "quantization/", "int16, int8"),
    ("lay out", "layout/", "buffers, tiles"),
    ("plan memory", "layout/", "one arena"),
    ("lower", "lowering/", "instructions"),
    ("generate", "codegen/", "machine code"),
    ("run", "runtime/", "SparseModel"),
)


def draw_lanes(figures: Any) -> Any:
    """A plane of 4 x 8 pixels in blocks of 2 x 2, a lane for each block, and its vectors."""
    figure, (plane, vectors) = figures.subplots(1, 2, figsize=(8, 2.5))
    for row in range(4):
        for column in range(8):
            lane, name = row // 2 * 4 + column // 2, "abcd"[row % 2 * 2 + column % 2]
            _draw_box(plane, column, 3 - row, name, lane)
    for row in (0, 2, 4):
        plane.plot((0, 8), (row, row), color="black", linewidth=2)
    for column in range(0, 10, 2):
        plane.plot((column, column), (0, 4), color="black", linewidth=2)
    for row, name in enumerate("abcd"):
        for lane in range(8):
            _draw_box(vectors, lane, 3 - row, name, lane)
        vectors.plot((0, 8, 8, 0, 0), (3 - row, 3 - row, 4 - row, 4 - row, 3 - row), "k", lw=2)
    for axes, title in ((plane, "pixels of a plane"), (vectors, "its vectors in memory")):
        axes.set_title(title, fontsize=10)
        axes.set_xlim(-0.1, 8.1)
        axes.set_ylim(-0.1, 4.1)
        axes.axis("off")
    return figure


def _draw_box(axes: Any, x: int, y: int, name: str, lane: int) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=SHADES[name], edgecolor="grey"))
    axes.text(x + 0.5, y + 0.5, f"{name}{lane}", ha="center", va="center", fontsize=9)


def draw_stages(figures: Any) -> Any:
    """The folders of the engine in order, with what each makes."""
    from matplotlib.patches import FancyBboxPatch

    figure, axes = figures.subplots(figsize=(8, 2.6))
    for number, (stage, folder, made) in enumerate(STAGES):
        x, y = 2.5 * (number % 4), 1.5 * (1 - number // 4)
        axes.add_patch(
            FancyBboxPatch((x, y), 1.7, 0.8, "round,pad=0.05", facecolor="#b7e0f2", edgecolor="k")
        )
        axes.text(x + 0.85, y + 0.56, stage, ha="center", va="center", fontsize=10, weight="bold")
        axes.text(x + 0.85, y + 0.2, folder, ha="center", va="center", fontsize=8)
        axes.text(x + 0.85, y - 0.23, made, ha="center", va="center", fontsize=8, style="italic")
        if number % 4 < 3:
            axes.annotate("", (x + 2.42, y + 0.4), (x + 1.78, y + 0.4),
                          arrowprops={"arrowstyle": "->"})  # fmt: skip
    # From the end of the upper row to the start of the lower.
    axes.plot((8.35, 8.35, 0.85), (1.1, 1.02, 1.02), color="k", lw=1)
    axes.annotate("", (0.85, 0.87), (0.85, 1.03), arrowprops={"arrowstyle": "->"})
    axes.set_xlim(-0.2, 9.6)
    axes.set_ylim(-0.4, 2.5)
    axes.axis("off")
    return figure


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "strzoo"
    import matplotlib.pyplot as figures

    for name, draw in (("engine-lanes", draw_lanes), ("engine-stages", draw_stages)):
        figure = draw(figures)
        figure.savefig(FOLDER / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        figures.close(figure)


if __name__ == "__main__":
    main()
