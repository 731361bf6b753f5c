"""What every picture needs before it is drawn. matplotlib is the optional extra strzoo[plot]."""

from __future__ import annotations

import os
from pathlib import Path

from strzoo.errors import StrzooError, UsageError, install_advice

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: str | os.PathLike[str]) -> None:
    """Raise unless matplotlib is installed and `path` names a kind of picture.

    Raises:
        UsageError: another suffix than .png, .svg or .pdf.
        StrzooError: matplotlib is missing.
    """
    if Path(path).suffix not in SUFFIXES:
        raise UsageError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise StrzooError(f"plots need matplotlib: {install_advice('plot')}") from None
