from __future__ import annotations

import math

import pytest

from strzoo.errors import UsageError
from strzoo.training.schedules import LearningRate, gmp_rate


@pytest.mark.parametrize("kind", ["constant", "cosine", "multistep", "exponential"])
def test_every_schedule_warms_up_in_a_line_and_reaches_the_base_rate(kind: str) -> None:
    schedule = LearningRate(kind, base=0.256, epochs=100, warmup_epochs=5)
    assert schedule.at(0) == pytest.approx(0.256 * 0.5 / 5.5)
    assert schedule.at(2.25) == pytest.approx(0.256 / 2)  # half way from -0.5 to 5
    assert schedule.at(5) == pytest.approx(0.256)


def test_the_rates_after_the_warm_up_are_those_of_the_formulas() -> None:
    assert LearningRate("constant", 0.1, 10, 0).at(9.9) == 0.1
    cosine = LearningRate("cosine", 0.2, 105, 5)
    # A third of the way: (1 + cos 60 degrees) / 2 = 3/4.
    assert cosine.at(5 + 100 / 3) == pytest.approx(0.15)
    assert cosine.at(55) == pytest.approx(0.1)
    assert cosine.at(105) == pytest.approx(0, abs=1e-17)
    assert cosine.at(106) == pytest.approx(0, abs=1e-17)
    steps = LearningRate("multistep", 1.0, 90, 0, milestones=(30, 60), gamma=0.1)
    assert [steps.at(e) for e in (29.9, 30, 60)] == pytest.approx([1, 0.1, 0.01])
    decay = LearningRate("exponential", 1.0, 100, 5, gamma=0.97, every=2.4)
    assert [decay.at(5 + e) for e in (2.3, 2.4, 7.2, 9.5)] == pytest.approx(
        [1, 0.97, 0.97**3, 0.97**3]
    )


def test_the_prune_rate_of_gmp_rises_by_the_cubic_and_stays() -> None:
    found = [gmp_rate(0.8, epoch, 20, 80) for epoch in (0, 20, 35, 50, 80, 99)]
    expected = [0, 0, 0.8 * (1 - 27 / 64), 0.8 * 7 / 8, 0.8, 0.8]
    assert found == pytest.approx(expected)
    assert gmp_rate(0.8, 3, 3, 3) == 0.8


def test_per_epoch_the_rates_are_those_of_the_published_code() -> None:
    cosine = LearningRate("cosine", 0.256, 100, 5, per_epoch=True)
    assert [cosine.at(e) for e in (0, 0.9, 3.2, 4.99, 5, 5.99)] == pytest.approx(
        [0.256 * 1 / 5, 0.256 * 1 / 5, 0.256 * 4 / 5, 0.256, 0.256, 0.256]
    )
    assert cosine.at(52.7) == pytest.approx(0.128 * (1 + math.cos(math.pi * 47 / 95)))
    falling = LearningRate("exponential", 1, 100, 5, gamma=0.97, per_epoch=True, continuous=True)
    assert falling.at(4.5) == 1
    assert falling.at(12.5) == pytest.approx(0.97 ** (12 / 2.4))
    found = [gmp_rate(0.9, e, 20, 79, per_epoch=True) for e in (19.9, 20.5, 21.5, 79.5, 99)]
    last = 0.9 * (1 - (1 / 60) ** 3)
    assert found == pytest.approx([0, 0, 0.9 * (1 - (59 / 60) ** 3), last, last])


def test_schedules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="'linear' is not one of cosine, constant"):
        LearningRate("linear")
    with pytest.raises(UsageError, match="base is nan"):
        LearningRate(base=math.nan)
    with pytest.raises(UsageError, match="warmup_epochs is 6; it must lie in 0 to 5"):
        LearningRate(epochs=5, warmup_epochs=6)
    with pytest.raises(UsageError, match="must rise"):
        LearningRate("multistep", milestones=(60, 30))
    with pytest.raises(UsageError, match=r"1\.2 is outside"):
        gmp_rate(1.2, 0, 0, 1)
    with pytest.raises(UsageError, match="from epoch 9 to 3"):
        gmp_rate(0.9, 0, 9, 3)
