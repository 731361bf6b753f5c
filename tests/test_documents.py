"""README and docs: commands and examples run as printed, on stand-ins, and links lead somewhere.

A stand-in is a small network for a published one, a folder of a few photographs for a data set, and
the plan, or one epoch, for a training.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import strzoo
from strzoo.rnn import FastGRNN, SequenceClassifier
from strzoo.rnn.files import save_rnn
from tests.conftest import CliResult
from tests.helpers.engine.networks import load_model
from tests.helpers.photographs import small_network, write_class_folders
from tests.helpers.published import str_state, write_published

Cli = Callable[..., CliResult]
ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
# docs/own-network.md has a test of its own, in the order of the page.
DOCUMENTS = [README, *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs/own-network.md"})]
EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", flags=re.DOTALL)
# Commands that read weights do it from a small network instead of a published one.
READ_WEIGHTS = ("predict", "evaluate", "convert", "export", "compile", "benchmark", "matrices",
                "prune")  # fmt: skip
# What follows a command, so that it takes seconds.
SHORTER = {
    "train": ("--dry-run",),
    "benchmark": ("--runs", "1", "--no-memory", "--engines", "onnxruntime", "--batch", "1"),
    "download": ("--format", "str"),
    "compare": ("--no-predictions",),
}
# Made elsewhere, from data of the reader's own; their tests are named.
ELSEWHERE = {
    "strzoo rnn evaluate runs/har2 --dataset har2 --data /data/har --int8": "tests/rnn",
    "strzoo train har2_9_8 data=/data/har output=runs/har2": "tests/rnn",
    "strzoo download 'mobilenetv1_*' --format all": "tests/cli/test_download.py",
    "strzoo paper 1 --runs runs": "tests/cli/test_paper.py",
    "strzoo import ~/Downloads/whatever.pth": "tests/cli/test_download.py",
    "strzoo compile model.pth --threads 1 -o model.strz": "tests/examples",
}
# In examples: what takes long, and the reader's own values.
IN_EXAMPLES = {
    "epochs=30": "epochs=1, warmup_epochs=0",
    'load_recipe("digits_str")': 'load_recipe("short.yaml")',
    'compile("resnet50_str_90.23")': 'compile("small.onnx")',
    "torch.rand(2, 3, 224, 224)": "torch.rand(2, 3, 32, 32)",
    "np.zeros((1, 3, 224, 224)": "np.zeros((1, 3, 32, 32)",
    'strzoo.create_model("resnet20", num_classes=10).eval()\ncompiled': (
        "torch.nn.Sequential(torch.nn.Conv2d(3, 10, 3), torch.nn.AdaptiveAvgPool2d(1), "
        "torch.nn.Flatten()).eval()\ncompiled"
    ),
    "model(images)": "model(strzoo.load_digits().images.new_zeros(1, 3, 32, 32))",
}


def _commands(document: Path) -> list[str]:
    """The lines of its bash blocks, and what stands in backquotes in README's table."""
    text = document.read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"^\| .* \| `(strzoo [a-z].*?)` \| ", text, flags=re.MULTILINE)
    return [" ".join(shlex.split(line, comments=True)) and line.split("  #")[0].strip()
            for line in lines]  # fmt: skip


COMMANDS = list(dict.fromkeys(c for d in DOCUMENTS for c in _commands(d) if c))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name: files, data, runs; and a cache."""
    folder = tmp_path_factory.mktemp("reader")
    network = strzoo.sparsify_(small_network(), "gmp", prune_rate=0.6)
    made = strzoo.build_checkpoint(strzoo.to_dense_(network))
    strzoo.save_checkpoint(made, folder / "small-network.pth")
    strzoo.save_checkpoint(made, folder / "my.pth")
    onnx.save(load_model("small", 32), str(folder / "small.onnx"))
    names = [f"class{i}" for i in range(10)]
    for data in ("photos", "imagenet", "mine"):
        write_class_folders(folder / data, names, list(range(10)))
    photograph = next((folder / "photos").rglob("*.JPEG"))
    (folder / "photograph.jpg").write_bytes(photograph.read_bytes())
    (folder / "short.yaml").write_text("extends: digits_str\nepochs: 1\nwarmup_epochs: 0\n")
    (folder / "runs" / "har2").mkdir(parents=True)
    cell = FastGRNN(9, 8, rank_w=2, rank_u=2, batch_first=True)
    save_rnn(SequenceClassifier(cell, 2), folder / "har2.pth")
    (folder / "cache").mkdir()
    state = str_state("resnet50", strzoo.load_budget("resnet50_str_90.23"))
    write_published(folder / "cache" / "resnet50_str_90.23-str.pth", state, "resnet50")
    return folder


@pytest.fixture
def reader(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody who types, offline, in that folder."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("STRZOO_HOME", str(place / "cache"))
    monkeypatch.setenv("STRZOO_OFFLINE", "1")
    return place


def _with_stand_ins(command: str) -> list[str]:
    words = shlex.split(command)[1:]
    name = words[0]
    known = {"runs/har2": "har2.pth", "/data/imagenet": "imagenet"}
    words = [known.get(word, word).replace("/data/imagenet", "imagenet") for word in words]
    if name in READ_WEIGHTS:
        words = [re.sub(r"^resnet50_(str_90.23|dense)$", "small-network.pth", w) for w in words]
    if name in ("compile", "benchmark"):
        words = [w.replace("small-network.pth", "small.onnx") for w in words]
    if "data=imagenet" in words:
        words += ["num_classes=10", "validation_share=0", "batch_size=2"]
    words = [w for w in words if w != "--dry-run"]
    return [*words, *SHORTER.get(name if name != "rnn" else "", ())]


@pytest.mark.slow
def test_every_command_of_readme_and_docs_runs(cli: Cli, reader: Path) -> None:
    assert set(ELSEWHERE) <= set(COMMANDS)
    ran = 0
    makefile = (ROOT / "Makefile").read_text()
    for command in COMMANDS:
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in makefile
        elif command.startswith("strzoo ") and command not in ELSEWHERE:
            words = _with_stand_ins(command)
            done = cli(*words)
            if "exists; pass --force" in done.err:  # an earlier document made it
                done = cli(*words, "--force")
            assert done.code == 0, (command, words, done.err)
            assert "WARNING" not in done.err, (command, done.err)
            ran += 1
    assert ran >= 40


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_examples_run_and_print_what_is_shown(document: Path, reader: Path) -> None:
    for code, printed in EXAMPLE.findall(document.read_text()):
        for old, new in IN_EXAMPLES.items():
            code = code.replace(old, new)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(document), "exec"), {"__name__": "example"})
        if printed:
            assert out.getvalue() == printed


def test_links_lead_to_files_and_sections_that_exist() -> None:
    links = 0
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            if "://" in link:
                continue
            path, _, section = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), (document.name, link)
            if section:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
                assert section in slugs, (document.name, link)
            links += 1
    assert links > 25


def test_the_tables_of_the_reproduction_guide_are_the_papers() -> None:
    from tools.write_reproduction import PAGE, make_page

    assert PAGE.read_text() == make_page(), "run tools/write_reproduction.py"


def test_every_public_name_has_its_place_in_the_reference() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    named = re.findall(r"^::: strzoo\.(\w+)$", pages, flags=re.MULTILINE)
    assert sorted({*named, "StrzooError"} - {"errors", "rnn"}) == sorted(
        set(strzoo.__all__) - {"__version__"}
    )


def test_the_site_makes_links_of_the_repository_links_between_pages() -> None:
    pytest.importorskip("mkdocs")
    from tools.site_pages import link_pages

    pages = {"index.md", "engine.md", "benchmarks.md", "reference/python.md"}
    for source, given, wanted in (
        (
            "README.md",
            "[a](docs/engine.md#b) [c](https://d.e)",
            "[a](engine.md#b) [c](https://d.e)",
        ),
        ("docs/engine.md", "[a](../benchmarks/RESULTS.md)", "[a](benchmarks.md)"),
        ("docs/reference/python.md", "[a](../engine.md)", "[a](../engine.md)"),
        ("README.md", "[`strzoo/demo.py`](strzoo/demo.py)", "`strzoo/demo.py`"),
        ("README.md", "[the demo](strzoo/demo.py)", "the demo (`strzoo/demo.py`)"),
    ):
        assert link_pages(given, source, pages) == wanted
    with pytest.raises(FileNotFoundError, match="links to nothing"):
        link_pages("[a](nothing.md)", "README.md", pages)


def test_the_site_is_not_built_where_strict_mode_would_miss_warnings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exceptions = pytest.importorskip("mkdocs.exceptions")
    from tools.site_pages import on_config

    caplog.set_level("WARNING", "mkdocs")
    on_config({})
    caplog.set_level("ERROR", "mkdocs")
    with pytest.raises(exceptions.PluginError, match="without --quiet"):
        on_config({})


def test_readme_is_two_screens_with_the_two_commands_an_example_and_a_picture() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 130
    first = "\n".join(text.splitlines()[:45])
    for needed in ("make demo", "make test", "```text", "docs/images/accuracy-latency.svg"):
        assert needed in first


def test_the_table_of_the_zoo_is_the_registry() -> None:
    table = (ROOT / "docs" / "zoo.md").read_text()
    for name in strzoo.list_models():
        published = strzoo.get_card(name).published
        row = (
            f"| `{name}` | {published.params} | {published.sparsity:.2f} "
            f"| {published.top1:.2f} | {published.flops} |"
        )
        assert row in table


def test_the_picture_is_drawn_from_the_measured_table() -> None:
    from tools.draw_accuracy_latency import DESTINATION, read_points

    drawn = DESTINATION.read_text()
    points = read_points()
    assert len(points) == 4
    for id, _, ms in points:
        gain = ms["onnxruntime"] / ms["strzoo"]
        assert f"<!-- {id.rpartition('_')[2]} % zeros, {gain:.1f}x -->" in drawn
