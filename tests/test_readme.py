"""The README's examples run, and print what it says they print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import strzoo
from tests.helpers.published import str_state, write_published

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the model that the README loads."""
    folder = tmp_path_factory.mktemp("cache")
    state = str_state("resnet50", strzoo.load_budget("resnet50_str_90.23"))
    write_published(folder / "resnet50_str_90.23-str.pth", state, "resnet50")
    return folder


@pytest.mark.parametrize(("code", "printed"), BLOCKS)
def test_an_example_runs_and_prints_what_the_readme_shows(
    code: str, printed: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRZOO_HOME", str(cache))
    monkeypatch.setenv("STRZOO_OFFLINE", "1")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    if printed:
        assert out.getvalue() == printed


def test_the_first_screen_has_the_two_commands_and_an_example_with_output() -> None:
    first = "\n".join(README.splitlines()[:32])
    assert "make demo" in first
    assert "make test" in first
    assert "```text" in first


def test_the_table_is_the_registry() -> None:
    for name in strzoo.list_models():
        published = strzoo.get_card(name).published
        row = (
            f"| `{name}` | {published.params} | {published.sparsity:.2f} "
            f"| {published.top1:.2f} | {published.flops} |"
        )
        assert row in README
