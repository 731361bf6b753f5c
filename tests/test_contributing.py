"""CONTRIBUTING.md: its example runs, and the files it names are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import strzoo
from strzoo.models import registry

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_example_of_an_architecture_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    try:
        names: dict[str, Any] = {}
        exec(compile(code, "CONTRIBUTING.md", "exec"), names)
        # By hand: 3x3x3 weights of 8 filters with a bias each, and 8 weights of 10 classes.
        assert strzoo.report(names["network"]).params == 8 * 27 + 8 + 80
    finally:
        registry._registered.pop("tiny", None)


def test_every_folder_of_the_package_is_on_the_map_and_every_file_named_exists() -> None:
    table = TEXT[TEXT.index("| folder |") : TEXT.index("`tests/` mirrors")]
    folders = {p.parent.name for p in (ROOT / "strzoo").glob("*/__init__.py")}
    missing = [name for name in folders if f"`{name}/`" not in table]
    assert not missing
    paths = re.findall(r"`((?:strzoo|tests)/[\w/]+\.py)`", TEXT)
    paths += [f"strzoo/{path}" for path in re.findall(r"`(engine/[\w/]+\.py)`", TEXT)]
    assert len(paths) > 8
    for path in paths:
        assert (ROOT / path).is_file(), path
    for line in (ROOT / "setup.cfg").read_text().splitlines():
        if line.startswith("    ") and line.strip() in folders:
            assert f"`{line.strip()}/`" in table
