"""A worker that is put aside in its part stays away; one that is only last does not."""

from __future__ import annotations

import pytest

from strzoo.engine.runtime.attendance import LONG, SHORT, Attendance

CALL = 0.004  # seconds of a call of two threads; one thread takes 0.007
ALONE = 0.007


def test_a_worker_that_is_put_aside_stays_away_for_a_while() -> None:
    team = Attendance(2)
    assert team.present(0.0) == [True, True]
    team.note(0.0, 0.010, [0.0, 0.006])
    assert team.present(0.010) == [True, False]
    assert team.present(0.009 + SHORT) == [True, False]
    assert team.present(0.011 + SHORT) == [True, True]


def test_it_stays_away_twice_as_long_each_time_up_to_a_limit() -> None:
    team, now, gaps = Attendance(1), 0.0, []
    for _ in range(8):
        team.note(now, now + 0.010, [0.006])
        start = now = now + 0.010
        while not team.present(now)[0]:
            team.note(now, now + ALONE, [0.0])
            now += ALONE
        gaps.append(now - start)
    expected = [min(SHORT * 2**turn, LONG) for turn in range(8)]
    assert gaps == pytest.approx(expected, abs=ALONE)


def test_the_end_of_a_part_is_no_reason_to_stay_away() -> None:
    team = Attendance(1)
    for turn in range(100):
        team.note(turn * CALL, (turn + 1) * CALL, [0.1 * CALL])  # a tenth of the call
        assert team.present((turn + 1) * CALL) == [True]


def test_a_call_that_is_faster_than_with_fewer_threads_is_none_either() -> None:
    team = Attendance(1)
    team.note(0.0, CALL, [0.5 * CALL])  # the first time nothing else is known
    now = CALL
    while not team.present(now)[0]:
        team.note(now, now + ALONE, [0.0])
        now += ALONE
    for _ in range(100):
        team.note(now, now + CALL, [0.5 * CALL])
        now += CALL
        assert team.present(now) == [True]


def test_after_a_time_without_trouble_it_stays_away_as_shortly_as_at_first() -> None:
    team = Attendance(1)
    for start in (0.0, 1.0):  # twice, the second time for longer
        team.note(start, start + 0.010, [0.006])
    assert team.present(1.009 + 2 * SHORT) == [False]
    team.note(2.0, 2.0 + CALL, [0.0])
    team.note(3.0, 3.010, [0.006])
    assert team.present(3.011 + SHORT) == [True]


def test_a_call_after_a_pause_is_no_reason_to_stay_away() -> None:
    team = Attendance(1)
    team.note(0.0, CALL, [0.0])
    late = 1.1 * LONG
    team.note(late, late + 0.010, [0.006])
    assert team.present(late + 0.010) == [True]
    team.note(late + 0.010, late + 0.020, [0.006])  # the one that follows is
    assert team.present(late + 0.020) == [False]


def test_workers_stay_away_where_calls_without_them_are_faster() -> None:
    """The caller waits in vain for a core, not for a worker."""
    team = Attendance(2)
    team.note(0.0, 0.010, [0.006, 0.0])
    team.note(0.010, 0.010 + ALONE, [0.0, 0.0])  # now it is known what one thread takes less
    now = 0.010 + 2 * SHORT
    assert team.present(now) == [True, True]
    team.note(now, now + 3 * ALONE, [0.0, 0.0])
    assert team.present(now + 3 * ALONE) == [True, True]  # once says little
    team.note(now + 3 * ALONE, now + 6 * ALONE, [0.0, 0.0])
    assert team.present(now + 6 * ALONE) == [False, False]


def test_nobody_knows_that_yet_but_one_thread_would_not_take_so_long() -> None:
    team = Attendance(1)
    team.note(0.0, CALL, [0.0])
    for start in (CALL, 4 * CALL):  # one thread takes at most twice as long as two
        assert team.present(start) == [True]
        team.note(start, start + 3 * CALL, [0.0])
    assert team.present(7 * CALL) == [False]
