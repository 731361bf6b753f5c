"""What every picture needs before it is drawn. matplotlib is the optional extra strzoo[plot]."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.errors import StrzooError, UsageError, install_advice
from strzoo.files import atomic_path, check_destination

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


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
