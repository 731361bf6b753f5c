"""Pictures of models: what is drawn is what is reported, and is told apart without colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from strzoo.errors import StrzooError, UsageError
from strzoo.pictures import COLOURS, bar_style, check_plot, line_style
from tests.conftest import CliResult

Cli = Callable[..., CliResult]


def _grey(colour: str) -> float:
    """Luma of #rrggbb from 0 to 1 (ITU-R BT.601)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_lines_and_bars_differ_without_colour_and_stand_out_on_white() -> None:
    lines = [(s["marker"], s["linestyle"]) for s in map(line_style, range(7))]
    assert len(set(lines)) == 7
    assert len({tuple(line_style(i).items()) for i in range(14)}) == 14
    assert len({bar_style(i)["hatch"] for i in range(7)}) == 7
    assert all(_grey(colour) < 0.75 for colour in COLOURS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("report", "mobilenetv1_str_89.01"),
        ("budgets", "compare", "resnet50_str_90.23", "resnet50_erk_90"),
    ],
)
def test_plot_draws_and_is_refused_before_the_work(
    cli: Cli, tmp_path: Path, words: tuple[str, ...]
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.svg"
    done = cli(*words, "--plot", path)
    assert (done.code, f"wrote {path}" in done.err) == (0, True)
    text = path.read_text()
    assert text.startswith("<?xml")
    assert "fill: #ffffff" in text  # opaque, for dark pages
    assert "exists; pass --force" in cli(*words, "--plot", path).error
    assert cli(*words, "--plot", path, "--force").code == 0
    assert "must end in one of .png" in cli(*words, "--plot", tmp_path / "a.gif").error


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError):
        check_plot(tmp_path / "a")
    with pytest.raises(StrzooError):
        check_plot(tmp_path / "none" / "a.png" / "b.png")
