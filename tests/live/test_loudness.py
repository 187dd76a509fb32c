"""As loud as it is asked for, and no peak too high."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pyloudnorm", reason="loudness (the eval extra)")

from rtjazz_hf.audio import measure_loudness
from rtjazz_hf.live.loudness import CEILING, set_loudness, true_peak


def drums(seed, level):
    """Hits with a high crest, as drums alone have."""
    rng = np.random.default_rng(seed)
    audio = np.zeros((2, 5 * 48_000))
    for at in range(2_000, audio.shape[1] - 8_000, 12_000):
        audio[:, at : at + 8_000] += rng.normal(0, 1, (2, 8_000)) * np.exp(
            -np.arange(8_000) / rng.uniform(300, 2_000)
        )
    return (level * audio).astype(np.float32)


@pytest.mark.parametrize("lufs", [-24.0, -16.0, -14.0])
@pytest.mark.parametrize("level", [0.005, 0.05, 0.6])
def test_as_loud_as_asked_and_under_the_ceiling(lufs, level):
    for seed in range(3):
        made = set_loudness(drums(seed, level), lufs)
        assert measure_loudness(made) == pytest.approx(lufs, abs=1.5)  # exact, but where most of it is peaks
        assert true_peak(made) <= CEILING + 0.01


def test_what_needs_no_limit_is_only_scaled():
    audio = drums(0, 0.05)
    made = set_loudness(audio, -30.0)
    ratio = made[audio != 0] / audio[audio != 0]
    assert ratio.std() / ratio.mean() < 1e-5


def test_peaks_between_samples_count():
    time = np.arange(48_000)
    tone = 0.99 * np.sin(2 * np.pi * time / 4 + np.pi / 4) * np.hanning(48_000)  # its samples lie 3 dB lower
    tone = np.tile(tone.astype(np.float32), (2, 1))
    assert np.abs(tone).max() < 0.71 and true_peak(tone) == pytest.approx(-0.09, abs=0.05)


def test_silence_and_what_is_refused():
    silence = np.zeros((2, 48_000), dtype=np.float32)
    assert not set_loudness(silence, -16.0).any()
    for wrong in (0.0, -60.0, float("nan")):
        with pytest.raises(ValueError, match="choose from -40 to -8"):
            set_loudness(silence, wrong)
    with pytest.raises(ValueError, match=r"0\.4 s"):
        set_loudness(silence[:, :100], -16.0)


class TestLive:
    @pytest.mark.parametrize("lufs", [-24.0, -16.0])
    def test_blocks_come_to_the_loudness(self, lufs):
        pytest.importorskip("scipy")
        from rtjazz_hf.live.rider import LoudnessRider

        for level in (0.05, 0.3):
            rider = LoudnessRider(lufs)
            audio = np.concatenate([drums(seed, level) for seed in range(6)], axis=1)
            made = np.concatenate([rider.process(block) for block in np.split(audio, 50, axis=1)], axis=1)
            assert measure_loudness(audio) == pytest.approx(rider.loudness, abs=0.7)
            assert measure_loudness(made[:, 48_000 * 3 :]) == pytest.approx(lufs, abs=3.0)
            assert np.abs(made).max() <= 10 ** (CEILING / 20) + 1e-6 and true_peak(made) < CEILING + 0.5

    def test_it_moves_slowly_and_rests_in_silence(self):
        from rtjazz_hf.live.rider import LoudnessRider

        rider = LoudnessRider(-20.0)
        silence = np.zeros((2, 23_040), dtype=np.float32)
        assert not rider.process(silence).any() and rider.gain is None
        rng = np.random.default_rng(0)
        for _ in range(10):
            rider.process(rng.normal(0, 0.1, (2, 23_040)).astype(np.float32))
        first = rider.gain
        for _ in range(4):
            rider.process(silence)
        assert rider.gain == pytest.approx(first, abs=0.5)  # a pause is no soft music
        gains = []
        for _ in range(10):
            rider.process(rng.normal(0, 0.01, (2, 23_040)).astype(np.float32))
            gains.append(rider.gain)
        assert np.diff(gains).max() <= 0.48 + 1e-6
