"""What every picture needs: checks, colours, files. matplotlib is the optional extra strzoo[plot].

Pictures are opaque and white, so that a dark page does not hide their text. Lines differ in colour,
marker and dashes, bars in colour and hatching, which tells them apart in colour-blind vision and in
grey prints. The colours are those of Okabe and Ito (Color Universal Design, 2008), without the
yellow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strzoo.errors import StrzooError, UsageError, install_advice
from strzoo.files import atomic_path, check_destination

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00")
_MARKERS = "os^Dvpx"
_DASHES = ("-", "--", ":", "-.")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")


def check_plot(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raise unless matplotlib is installed and a picture can be written to `path`; to be called
    before the work whose result is drawn.

    Raises:
        UsageError: another suffix than .png, .svg or .pdf.
        StrzooError: matplotlib is missing, or the destination is refused.
    """
    if Path(path).suffix not in SUFFIXES:
        raise UsageError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise StrzooError(f"plots need matplotlib: {install_advice('plot')}") from None
    check_destination(path, force=force)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches wide and high, that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of line `index`, for `plot`."""
    round_, place = divmod(index, len(COLOURS))  # other markers and dashes with the same colours
    return {
        "color": COLOURS[place],
        "marker": _MARKERS[(place + round_) % len(_MARKERS)],
        "linestyle": _DASHES[(place + round_) % len(_DASHES)],
        "markersize": 4,
        "linewidth": 1.4,
    }


def bar_style(index: int) -> dict[str, Any]:
    """Colour and hatching of bars `index`, for `bar` and `barh`."""
    hatch = _HATCHES[index % len(_HATCHES)]
    return {"color": COLOURS[index % len(COLOURS)], "hatch": hatch, "edgecolor": "white"}


def draw_layers(
    axes: Axes, layers: Sequence[str], lines: Sequence[tuple[str, Sequence[float | None]]], y: str
) -> None:
    """A line for each (name, value of each layer) over the layers; None leaves a gap."""
    for index, (name, values) in enumerate(lines):
        known = [float("nan") if value is None else value for value in values]
        axes.plot(range(len(layers)), known, label=name, **line_style(index))
    axes.set_xticks(range(len(layers)), list(layers), rotation=90, fontsize=7)
    axes.margins(x=0.01)
    axes.set_ylabel(y)
    axes.grid(axis="y", alpha=0.3)
    if len(lines) > 1:
        legend_above(axes)


def legend_above(axes: Axes, columns: int = 3) -> None:
    """A legend that covers nothing."""
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False)


def log_axis(axis: XAxis) -> None:
    """Logarithmic, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.axes.set_xscale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def layers_width(layers: Sequence[str]) -> float:
    """Inches for a panel of `draw_layers`."""
    return max(6.0, 0.17 * len(layers) + 2)


def save_figure(
    figure: Figure, path: str | os.PathLike[str], *, force: bool = False, dpi: int = 150
) -> Path:
    """Write a figure, whole or not at all, in the format that `path` ends in.

    Raises:
        StrzooError: the destination is refused, or cannot be written.
    """
    path = Path(path)
    with atomic_path(path, force=force) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=dpi)
    return path
