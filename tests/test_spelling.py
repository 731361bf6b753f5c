"""Numbers as people read them."""

from __future__ import annotations

import pytest

from strzoo.spelling import spell_change


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "+0.00"), (-0.0, "+0.00"), (-0.004, "+0.00"), (-0.006, "-0.01"), (1.5, "+1.50")],
)
def test_a_change_has_a_sign_unless_it_is_none(value: float, text: str) -> None:
    assert spell_change(value) == text
