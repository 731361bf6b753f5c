"""What users rely on stays: names and parameters, commands and options, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.surface import describe_surface

STORED = Path(__file__).parent / "helpers" / "public_surface.json"


def test_nothing_public_has_gone() -> None:
    before, now = json.loads(STORED.read_text()), describe_surface()
    assert now["exit_codes"].items() >= before["exit_codes"].items()
    for kind in ("names", "commands"):
        for name, parameters in before[kind].items():
            assert name in now[kind], f"{name} is gone"
            lost = set(parameters) - set(now[kind][name])
            assert not lost, f"{name} has lost {sorted(lost)}"
