"""What the tests of training have in common."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the plots of its report takes most of a short run; tests/cli sees them."""
    monkeypatch.setattr("strzoo.training.summary._draw", lambda *given: [])
