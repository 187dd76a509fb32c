"""Cents errors of tones whose pitch is known, and the judges of a codec's copies."""

from __future__ import annotations

import numpy as np
import pytest

from rtjazz_hf.evaluation.measures.tuning import (
    MOVES,
    NOTES,
    SECONDS,
    asked_pitch_error,
    make_tone,
    partial_errors,
    tuning_errors,
)

TIME = np.arange(96_000) / 48_000


def test_a_perfect_copy_has_no_error():
    errors = tuning_errors(lambda audio: audio)
    assert set(errors) == {*MOVES, *(f"partials_{note}" for note in NOTES)}
    assert max(errors.values()) < 0.2


def test_a_tone_that_stands_off_is_measured():
    """A copy 20 cents sharp, whatever the original does."""
    original = make_tone(60, np.zeros_like(TIME))
    sharp = make_tone(60, np.full_like(TIME, 20.0))
    error, power = partial_errors(original, sharp.audio, range(1, 9))
    assert error.shape == power.shape and power.min() > 0
    assert np.allclose(np.median(error, 0), 20, atol=0.5)


def test_standing_still_costs_what_moves():
    """A copy that plays every note where the grid has it."""

    def copy(audio: np.ndarray) -> np.ndarray:
        still = [make_tone(note, np.zeros(int(SECONDS * 48_000))).audio for note in NOTES.values()]
        return np.concatenate(still * (len(MOVES) + 1), axis=1)

    errors = tuning_errors(copy)
    assert errors["quarter_tone"] > 40 and errors["vibrato"] > 15 and errors["partials_C3"] < 0.2


def test_a_pitch_that_was_asked_for():
    cents = MOVES["vibrato"](TIME)
    hertz = 440.0 * 2.0 ** ((60 - 69 + cents / 100) / 12)
    hertz[60_000:70_000] = np.nan
    assert asked_pitch_error(make_tone(60, cents).audio, hertz) < 0.5
    assert asked_pitch_error(make_tone(60, cents + 30).audio, hertz) == pytest.approx(30, abs=1)
    assert 10 < asked_pitch_error(make_tone(60, 0 * cents).audio, hertz) < 30
    assert np.isnan(asked_pitch_error(np.zeros((2, 96_000), np.float32), hertz))


def test_silence_is_no_tone_and_no_crash():
    errors = tuning_errors(np.zeros_like)
    assert all(np.isfinite(value) for value in errors.values())


class TestJudges:
    @pytest.fixture(scope="class")
    def judges(self):
        for package in ("zimtohrli", "visqol", "librosa"):
            pytest.importorskip(package)
        from rtjazz_hf.evaluation.measures import judges

        judges.check_installed()
        return judges

    @pytest.fixture(scope="class")
    def clip(self) -> np.ndarray:
        return make_tone(57, np.zeros_like(TIME)).audio

    @pytest.fixture(scope="class")
    def hiss(self, clip) -> np.ndarray:
        noise = np.random.default_rng(0).standard_normal(clip.shape)
        return (clip + 0.01 * noise).astype(np.float32)

    @pytest.mark.parametrize("judge", ["zimtohrli", "visqol"])
    def test_opinions_rank_a_copy_above_a_noisy_one(self, judges, clip, hiss, judge):
        measure = getattr(judges, judge)
        assert 1 <= measure(clip, hiss) < measure(clip, clip) <= 5

    def test_noise_fills_valleys(self, judges, clip, hiss):
        assert abs(judges.valley_loss(clip, clip)) < 1e-6
        assert judges.valley_loss(clip, hiss) > 3
        assert judges.peaks_over_valleys(clip)[0] > 20

    def test_silence_and_short_clips_have_no_opinion(self, judges, clip):
        from rtjazz_hf.evaluation.codec_measures import JUDGES, judge_round_trip

        for audio in (np.zeros_like(clip), clip[:, :10_000]):
            scores = judge_round_trip(audio, audio)
            assert set(scores) == set(JUDGES) and all(np.isnan(value) for value in scores.values())
