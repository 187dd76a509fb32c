"""Admission: by the slow blocks, not by their mean, and by what was measured last."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the web API (the serve extra)")

from rtjazz_hf.server.admission import BlockTimes


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def filled(clock, alone, steps):
    times = BlockTimes(alone, clock)
    for sessions, seconds in steps:
        times.add(sessions, seconds)
    return times


def test_before_anybody_plays(clock):
    assert BlockTimes(0.2, clock).predict(0) == 0.0
    assert BlockTimes(0.2, clock).predict(3) == pytest.approx(0.6)


def test_slow_blocks_count(clock):
    steps = [(1, 0.1)] * 18 + [(1, 0.4)] * 2  # a mean of 0.13
    times = filled(clock, 0.1, steps)
    assert times.predict(1) == pytest.approx(0.4)
    assert times.predict(2) == pytest.approx(0.8)


def test_what_a_batch_saves_is_seen(clock):
    times = filled(clock, 0.1, [(1, 0.1)] * 10 + [(2, 0.12)] * 10)
    assert times.predict(2) == pytest.approx(0.12)
    assert times.predict(3) == pytest.approx(0.18)


def test_who_comes_a_second_later_is_judged_by_the_batch_that_plays(clock):
    few = [(1, 0.12)] * 2 + [(2, 0.14)] * 2 + [(3, 0.15), (3, 0.16)]
    assert filled(clock, 0.12, few).predict(4) == pytest.approx(0.16 * 4 / 3)  # and not 0.48
    assert filled(clock, 0.12, few[:-1]).predict(4) == pytest.approx(0.28)  # a single one may be any


def test_more_than_will_play_are_no_measure(clock):
    times = filled(clock, 0.1, [(4, 0.4)] * 10)
    assert times.predict(2) == pytest.approx(0.2)


def test_steps_after_somebody_came_count_only_where_nothing_else_is_known(clock):
    times = filled(clock, 0.1, [(1, 0.1)] * 4)
    for seconds in (0.5, 0.4):
        times.add(4, seconds, settled=False)
    assert times.predict(4) == pytest.approx(0.5) and not times.knows(4)
    for seconds in (0.2, 0.2):
        times.add(4, seconds)
    assert times.predict(4) == pytest.approx(0.2) and times.knows(4)


def test_what_a_few_take_does_not_tell_what_many_take(clock):
    times = filled(clock, 0.1, [(10, 0.1)] * 4)
    assert times.knows(10) and times.knows(11) and not times.knows(12)
    assert times.reaches(15) and not times.reaches(16)
    assert BlockTimes(0.1, clock).reaches(16)  # `alone` counts for each of them
    assert filled(clock, 0.1, [(1, 0.1)] * 4).reaches(8)


def test_one_slow_block_among_groups_that_grew_is_none_of_five_in_a_hundred(clock):
    times = filled(clock, 0.1, [(size, 0.02 * size) for size in (9, 10, 11, 12) for _ in range(10)])
    times.add(12, 0.9)
    assert times.predict(12) == pytest.approx(0.24)
    assert filled(clock, 0.1, [(12, 0.24)] * 10 + [(12, 0.9)]).predict(12) == pytest.approx(0.9)


def test_half_of_the_blocks_are_typical(clock):
    times = filled(clock, 0.1, [(2, 0.1)] * 10 + [(2, 0.3)] * 3)
    assert times.typical(2) == pytest.approx(0.1) and times.predict(2) == pytest.approx(0.3)
    assert times.typical(3) == pytest.approx(0.15)


def test_old_blocks_are_forgotten(clock):
    times = filled(clock, 0.1, [(1, 0.45)] * 10)
    assert times.alone == times.predict(1) == pytest.approx(0.45)
    clock.now = 60.0
    assert times.alone == times.predict(1) == pytest.approx(0.1)


def test_a_start_beside_busy_programs_is_put_right_by_what_is_played(clock):
    times = filled(clock, 5.3, [(1, 0.1)] * 4)
    assert times.predict(2) == pytest.approx(0.2)
    clock.now = 60.0  # the session has gone, and others come
    assert times.alone == pytest.approx(0.1) and times.predict(3) == pytest.approx(0.3)


def test_more_is_in_hand_where_blocks_take_long(clock):
    def in_hand(times, sessions):
        return times.more_in_hand(sessions, block_seconds=0.48, load=0.9)

    quick = filled(clock, 0.1, [(1, 0.1)] * 20 + [(4, 0.2)] * 20)
    assert in_hand(quick, 1) == in_hand(quick, 4) == 0.0
    slow = filled(clock, 0.05, [(4, 0.2)] * 20 + [(4, 0.35)] * 2)  # the mean is 0.21
    assert in_hand(slow, 4) >= 1.0
    clock.now = 60.0
    assert in_hand(slow, 4) == 0.0  # it was busy a minute ago
    assert in_hand(filled(clock, 0.1, [(1, 0.5)] * 20), 1) >= in_hand(slow, 4)
