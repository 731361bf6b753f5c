"""HTML pages in a real browser: they sort, filter, draw, log nothing, and are accessible."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import strzoo
from strzoo.evaluation.compare_page import write_comparison_page
from strzoo.pages import page as pages
from strzoo.pages.page import CHART_LIBRARY, Chart, DataTable, Page, render_page
from strzoo.training.results import EpochRecord, LayerState
from strzoo.training.run_page import run_page
from tests.conftest import CliResult

Cli = Callable[..., CliResult]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
AXE = Path(__file__).resolve().parent.parent / "vendor" / "axe.min.js"
LIGHT, DARK = 1, 0
# Runs when the page has loaded, and leaves what it saw in the document.
PROBE = """
<script>
addEventListener("load", async () => {
  const seen = {opened: performance.now()};
  seen.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const table = [...document.querySelectorAll("table")].at(-1);
  const first = () => table.tBodies[0].rows[0].cells[0].textContent;
  const button = table.tHead.rows[0].cells[SORTED].querySelector("button");
  seen.before = first();
  button.focus(); button.click();
  seen.ascending = [first(), button.parentElement.getAttribute("aria-sort")];
  button.click();
  seen.descending = [first(), button.parentElement.getAttribute("aria-sort")];
  const field = [...document.querySelectorAll("input[type=search]")].at(-1);
  field.value = "FILTER"; field.dispatchEvent(new Event("input"));
  seen.filtered = field.parentElement.querySelector("output").textContent;
  seen.charts = [...document.querySelectorAll("canvas")].map((one) => {
    const pixels = one.getContext("2d").getImageData(0, 0, one.width, one.height).data;
    return pixels.some((value) => value !== 0);
  });
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  seen.violations = null;
  if (self.axe) {
    const found = await axe.run();
    seen.violations = found.violations.map((one) => one.id + ": " + one.nodes[0].html);
  }
  const pre = document.createElement("pre");
  pre.id = "seen"; pre.textContent = JSON.stringify(seen);
  document.body.append(pre);
});
</script>
"""


def browse(
    path: Path,
    *,
    sorted_by: int,
    filter_by: str,
    scheme: int = LIGHT,
    width: int = 1200,
    timed: bool = False,
) -> dict[str, Any]:
    """What the probe saw, and `console`: all that the page logged.

    Either the clock is real (`timed`), or axe-core has all the time that it wants.
    """
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    if not CHART_LIBRARY.is_file():
        pytest.skip("Chart.js is not there (make charts)")
    axe = f"<script>{AXE.read_text()}</script>" if AXE.is_file() and not timed else ""
    probe = PROBE.replace("SORTED", str(sorted_by)).replace("FILTER", filter_by)
    probed = path.with_suffix(".probed.html")
    probed.write_text(path.read_text().replace("</body>", f"{axe}{probe}</body>"))
    clock = [] if timed else ["--virtual-time-budget=20000"]
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--window-size={width},900", f"--blink-settings=preferredColorScheme={scheme}",
         f"--user-data-dir={path.parent / 'profile'}", *clock, "--dump-dom",
         probed.as_uri()],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    seen["console"] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return seen


def test_the_report_of_resnet50_works_in_a_browser(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert cli("report", "resnet50_str_90.23", "--html", path).code == 0
    text = path.read_text()
    assert path.stat().st_size < 1_000_000
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", text.partition("<script>")[0])
    layers = strzoo.report("resnet50_str_90.23").layers
    opened = browse(path, sorted_by=6, filter_by="fc", timed=True)["opened"]
    assert opened < 1000  # milliseconds; about 100 here
    seen = browse(path, sorted_by=6, filter_by="layer4 downsample")
    assert seen["console"] == []
    assert seen["charts"] == [True, True]
    order = sorted(layers, key=lambda layer: layer.sparsity or 0)
    assert seen["before"] == layers[0].name
    assert seen["ascending"] == [order[0].name, "ascending"]
    assert seen["descending"] == [order[-1].name, "descending"]
    assert seen["filtered"] == "1 of 54 rows"
    assert seen["dark"] is False
    assert seen["violations"] in ([], None)


def test_a_comparison_works_on_a_dark_phone(tmp_path: Path) -> None:
    made = strzoo.compare(["resnet50_str_90.23", "resnet50_str_95.15"], predictions=False)
    path = write_comparison_page(made, tmp_path / "compare.html")
    seen = browse(path, sorted_by=1, filter_by="fc", scheme=DARK, width=500)
    assert seen["dark"] is True
    assert seen["wide"] <= 0  # the page does not scroll sideways; its tables do
    assert seen["filtered"] == "1 of 54 rows"
    assert (seen["console"], seen["violations"]) in (([], []), ([], None))
    assert "".join(map(str, seen["charts"])) == "TrueTrue"


def test_a_page_holds_the_numbers_of_its_report_and_escapes_names(cli: Cli, tmp_path: Path) -> None:
    document = cli("report", "resnet50_str_81.27", "--json").json
    cli("report", "resnet50_str_81.27", "--html", tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    for layer in document["layers"]:
        assert f"{layer['nonzeros']:,}" in text
        assert f"{layer['sparse_macs']:,}" in text
    assert "known misprint" in text
    name = "</script><b>&"
    made = render_page(
        Page(name, [(name, name)], [Chart(name, "bar", [name], [(name, [1.0])], "x", "y", name)],
             [DataTable(name, (name, "n"), [(name, 1), (name, float("nan"))])], [name])
    )  # fmt: skip
    assert name not in made
    assert made.count(html.escape(name)) >= 6


def test_a_chart_without_a_number_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pages, "CHART_LIBRARY", tmp_path / "library.js")
    (tmp_path / "library.js").write_text("code")
    charts = [Chart(name, "bar", ["a"], [("s", [value])], "x", "y", "z")
              for name, value in (("drawn chart", 1.0), ("blank chart", None))]  # fmt: skip
    made = render_page(Page("a", [], charts, []))
    assert made.count("<canvas") == 1
    assert "drawn chart" in made
    assert "blank chart" not in made


def test_without_the_chart_library_a_page_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pages, "CHART_LIBRARY", tmp_path / "none.js")
    made = render_page(Page("a", [], [Chart("t", "bar", [], [], "x", "y", "z")], []))
    assert "No charts" in made
    assert "<canvas" not in made


def test_a_run_shows_its_epochs_layers_and_configuration() -> None:
    layers = {f"layer{i}": LayerState(100 * i + 1, 50.0 + i, -1.5 / (i + 1)) for i in range(20)}
    history = [
        EpochRecord(
            epoch=e, step=e, train_loss=1 / e, train_top1=50.0 + e, train_top5=90.0,
            loss=float("nan"), top1=60.0 + e, top5=95.0, learning_rate=0.1, sparsity=80.0 + e,
            target_sparsity=90.0, seconds=1.0, images_per_second=10.0, candidate=True,
            layers=layers,
        )
        for e in (1, 2)
    ]  # fmt: skip
    made = run_page("digits_str", history, history[-1], {"epochs": 2})
    assert [chart.title for chart in made.charts] == [
        "Top-1 over the epochs",
        "Sparsity over the epochs",
        "Sparsity of each layer in epoch 2",
        "Sparsity of 5 layers over the epochs",
        "Threshold of 5 layers over the epochs",
    ]
    assert made.charts[1].series == [("all layers", [81.0, 82.0]), ("target", [90.0, 90.0])]
    assert [row[0] for row in made.tables[1].rows] == list(layers)
    assert made.tables[3].header == ("epoch", "layer0", "layer4", "layer8", "layer12", "layer16")
    assert made.tables[3].rows[1][:3] == (2, -1.5, -0.3)
    assert made.tables[4].rows == [("epochs", "2")]
    assert made.tables[0].rows[0][2] is None  # a loss that is not a number is no number
