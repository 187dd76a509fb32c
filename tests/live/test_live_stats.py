"""Stop-watches of a session: a listener's clock that the test turns by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rtjazz_hf.evaluation.measures.metrics import join_jumps
from rtjazz_hf.live.latency import choose_block_frames
from rtjazz_hf.live.stats import LiveMeter

BLOCK = 0.5


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def play(meter, clock, asked, ready, updates=()):
    clock.now = ready
    return meter.handed_out(asked, BLOCK, updates)


class TestUnderRuns:
    def test_a_block_in_time_is_none_however_long_it_took(self, clock):
        meter = LiveMeter(clock=clock)
        play(meter, clock, 100.0, 100.1)
        play(meter, clock, 100.1, 100.2)  # one block in hand
        play(meter, clock, 100.2, 101.0)  # longer than it lasts, but the sound reaches to 101.1
        stats = meter.stats()
        assert (stats.blocks, stats.under_runs, stats.pauses) == (3, 0, 0)
        assert stats.real_time_factor == pytest.approx(1.0 / 1.5)
        assert meter.seconds_ahead == pytest.approx(0.6)

    def test_a_late_block_is_one(self, clock):
        meter = LiveMeter(clock=clock)
        play(meter, clock, 100.0, 100.1)
        play(meter, clock, 100.5, 100.9)  # the sound had run out at 100.6
        play(meter, clock, 101.3, 101.4)  # exactly at its end
        stats = meter.stats()
        assert (stats.under_runs, stats.pauses) == (1, 0)
        assert stats.under_run_seconds == pytest.approx(0.3)

    def test_a_listener_who_asks_when_nothing_is_left(self, clock):
        meter = LiveMeter(clock=clock)
        for n in range(4):
            play(meter, clock, 100.0 + n * 0.6, 100.1 + n * 0.6)
        assert meter.stats().under_runs == 3

    def test_a_pause_is_none(self, clock):
        meter = LiveMeter(clock=clock)
        play(meter, clock, 100.0, 100.1)
        play(meter, clock, 200.0, 200.1, updates=[150.0])
        stats = meter.stats()
        assert (stats.under_runs, stats.pauses, stats.updates) == (0, 1, 0)

    def test_a_listener_who_fills_a_buffer_first(self, clock):
        meter = LiveMeter(clock=clock)
        for n in range(4):
            play(meter, clock, 100.0 + n, 100.4 + n)  # late for one who plays at once
        assert meter.stats().under_runs == 3
        meter.playback_started()
        assert meter.seconds_ahead == pytest.approx(2.0)
        play(meter, clock, 103.5, 105.3)
        assert meter.stats().under_runs == 3


class TestLatencies:
    def test_of_a_control(self, clock):
        meter = LiveMeter(clock=clock)
        play(meter, clock, 100.0, 100.1)  # plays until 100.6
        play(meter, clock, 100.1, 100.2)  # until 101.1
        play(meter, clock, 100.9, 101.0, updates=[100.3, 100.8])
        stats = meter.stats()
        assert stats.updates == 2
        assert stats.control_to_output.last == pytest.approx(0.2)
        assert stats.control_to_output.max == pytest.approx(0.7)
        assert stats.control_to_ear.last == pytest.approx(0.3)
        assert stats.control_to_ear.mean == pytest.approx(0.55)
        assert stats.to_dict()["control_to_ear"]["max"] == pytest.approx(0.8)

    def test_of_the_first_block(self, clock):
        meter = LiveMeter(setup_seconds=0.05, clock=clock)
        assert math.isnan(meter.stats().time_to_first_audio) and math.isnan(meter.stats().p50)
        play(meter, clock, 107.0, 107.1, updates=[103.0])
        assert meter.stats().time_to_first_audio == pytest.approx(0.15)
        assert meter.stats().updates == 0

    def test_a_session_measures(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", block_frames=6)
        assert session.stats().blocks == 0 and session.seconds_ahead == 0
        for tempo in (100, 110, 120):
            next(session)
            session.update(tempo=tempo)
        next(session)
        stats = session.stats()
        assert stats.blocks == 4 and stats.audio_seconds == pytest.approx(4 * 0.08)
        assert 0 < stats.p50 <= stats.p95 <= stats.p99 and stats.real_time_factor > 0
        assert 0 < stats.control_to_output.mean <= stats.control_to_output.max
        assert stats.control_to_output.last <= stats.control_to_ear.last
        assert stats.time_to_first_audio > 0
        assert set(stats.to_dict()) >= {"p50", "p99", "under_runs", "control_to_ear", "time_to_first_audio"}


class TestBlockSize:
    def test_is_the_largest_that_answers_in_time(self):
        half = lambda frames: frames / 75 / 2  # noqa: E731
        assert choose_block_frames(0.25, half) == 12
        assert choose_block_frames(0.13, half) == 6
        assert choose_block_frames(5.0, half) == 48

    def test_keeps_up_first(self):
        def slow(frames):
            return 0.15 + 0.1 * frames / 75

        with pytest.warns(UserWarning, match="asks for more"):
            assert choose_block_frames(0.2, slow) == 24
        with pytest.warns(UserWarning, match="no block size keeps up"):
            assert choose_block_frames(0.2, lambda frames: 3.0) == 48

    def test_is_measured(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", target_latency=30.0, window_frames=72)
        assert session.block_frames == 48
        assert tiny_pipeline.block_frames_for(30.0, window_frames=72) == 48

    def test_warm_up_checks(self, tiny_pipeline):
        tiny_pipeline.warm_up(12)
        with pytest.raises(ValueError, match="block_frames 5"):
            tiny_pipeline.warm_up(5)


class TestJoinJumps:
    def test_finds_a_click(self):
        wave = 0.3 * np.sin(np.arange(48_000) * 0.05)[None].repeat(2, 0)
        assert join_jumps(wave, [12_000, 24_000])["ratio"] <= 1
        wave[1, 24_000:] += 0.2
        found = join_jumps(wave, [12_000, 24_000])
        assert found["ratio"] > 5 and found["largest_join"] > 0.1
        assert join_jumps(wave, [12_000])["ratio"] <= 1

    def test_edges(self):
        assert join_jumps(np.zeros((2, 100)), [50])["ratio"] == 0
        assert join_jumps(np.zeros((2, 100)), [])["largest_join"] == 0
        for wrong in ([0], [100]):
            with pytest.raises(ValueError, match="choose from 1 to 99"):
                join_jumps(np.zeros((2, 100)), wrong)
