"""Measures on audio alone, against sounds whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from rtjazz_hf.evaluation.measures import metrics

RATE = metrics.SAMPLE_RATE


def melody(seconds: float = 6.0, seed: int = 0) -> np.ndarray:
    """Two channels of short harmonic notes on random semitones, over a little noise."""
    rng = np.random.default_rng(seed)
    out = 0.002 * rng.standard_normal((2, round(seconds * RATE)))
    note = RATE // 4
    t = np.arange(note) / RATE
    for start in range(0, out.shape[1] - note + 1, note // 2):
        hz = 440 * 2 ** (rng.integers(-8, 20) / 12)
        tone = sum(np.sin(2 * np.pi * hz * h * t + rng.uniform(0, 6)) / h for h in (1, 2, 3)) * np.exp(-6 * t)
        out[:, start : start + note] += 0.1 * rng.uniform(0.3, 1.0, size=(2, 1)) * tone
    return out.astype(np.float32)


def noise_like(audio: np.ndarray, seed: int = 1) -> np.ndarray:
    """Noise with the power of `audio` in every frame and in coarse bands (an octave or so), and no pitch."""
    from scipy.signal import istft, stft

    rng = np.random.default_rng(seed)
    _, _, ours = stft(audio, nperseg=1024)
    _, _, noise = stft(rng.standard_normal(audio.shape), nperseg=1024)
    edges = np.unique(np.geomspace(1, 513, 12).astype(int))
    for low, high in zip([0, *edges[:-1]], edges):
        wanted = np.sqrt((np.abs(ours[:, low:high]) ** 2).mean(1, keepdims=True))
        noise[:, low:high] *= wanted / np.sqrt(
            (np.abs(noise[:, low:high]) ** 2).mean(1, keepdims=True) + 1e-12
        )
    return istft(noise, nperseg=1024)[1][:, : audio.shape[1]].astype(np.float32)


class TestPitchCorrelation:
    def test_a_clip_and_its_louder_copy_are_the_same_music(self):
        clip = melody()
        assert metrics.pitch_correlation(clip, clip) == pytest.approx(1.0)
        assert metrics.pitch_correlation(clip, 0.5 * clip) == pytest.approx(1.0)

    def test_the_right_envelope_earns_next_to_nothing(self):
        clip = melody()
        assert abs(metrics.pitch_correlation(clip, noise_like(clip))) < 0.2

    def test_other_notes_earn_nothing(self):
        assert abs(metrics.pitch_correlation(melody(seed=0), melody(seed=5))) < 0.2

    @pytest.mark.parametrize("loudness, least, most", [(0.003, 0.85, 1.0), (0.1, 0.1, 0.8)])
    def test_falls_with_added_noise(self, loudness, least, most):
        clip = melody()
        noisy = clip + loudness * np.random.default_rng(3).standard_normal(clip.shape)
        assert least < metrics.pitch_correlation(clip, noisy) < most

    def test_silence_has_no_pitch(self):
        clip = melody(1.0)
        assert np.isnan(metrics.pitch_correlation(clip, np.zeros_like(clip)))


class TestDistances:
    @pytest.mark.parametrize("gain", [0.1, 1.0, 3.0])
    def test_si_sdr_ignores_gain_and_measures_noise(self, gain):
        clip = melody()
        noise = np.random.default_rng(0).standard_normal(clip.shape)
        noise *= np.sqrt((clip**2).mean() / (noise**2).mean() / 100)
        assert metrics.si_sdr(clip, gain * (clip + noise)) == pytest.approx(20.0, abs=0.2)

    def test_si_sdr_of_a_silent_reference_is_refused(self):
        with pytest.raises(ValueError, match="silent"):
            metrics.si_sdr(np.zeros((2, 1000)), np.ones((2, 1000)))

    def test_mel_distance_is_the_gain_in_decibel(self):
        clip = melody() + 0.01 * np.random.default_rng(2).standard_normal((2, 6 * RATE)).astype(np.float32)
        assert metrics.mel_distance(clip, clip) == 0.0
        assert metrics.mel_distance(clip, 0.5 * clip) == pytest.approx(6.02, abs=0.05)

    def test_every_mel_band_hears_something(self):
        filters = metrics.mel_filters()
        assert filters.shape == (128, 1025)
        np.testing.assert_allclose(filters.sum(1), 1.0, rtol=1e-5)

    def test_common_start_of_unequal_lengths(self):
        clip = melody(2.0)
        assert metrics.mel_distance(clip, clip[:, :RATE]) == 0.0

    def test_unequal_channels_are_refused(self):
        with pytest.raises(ValueError, match="2 channels and estimate 1"):
            metrics.mel_distance(np.ones((2, 5000)), np.ones((1, 5000)))

    @pytest.mark.parametrize("shape", [(2, 0), (2, 3, 4), (0,)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="shape"):
            metrics.rms_dbfs(np.zeros(shape))


class TestBands:
    @pytest.mark.parametrize("index", range(9))
    def test_a_sine_is_in_its_band(self, index):
        t = np.arange(RATE) / RATE
        sine = np.sin(2 * np.pi * metrics.OCTAVE_CENTRES[index] * t)
        bands = metrics.band_energies(np.stack([sine, sine]))
        assert bands.argmax() == index
        assert bands[index] == pytest.approx(0.0, abs=0.3)

    @pytest.mark.parametrize("gain_db", [-12.0, 0.0, 5.0])
    def test_difference_is_the_gain(self, gain_db):
        clip = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32) * 0.1
        np.testing.assert_allclose(
            metrics.band_difference(clip, clip * 10 ** (gain_db / 20)), gain_db, atol=1e-3
        )


class TestSanity:
    def test_music_is_sane(self):
        clip = melody()
        clip *= 0.1 / clip.std()
        checks = metrics.sanity(clip)
        assert checks["ok"] and checks["finite"] and checks["clipped_samples"] == 0
        assert checks["rms_dbfs"] == pytest.approx(-20.0, abs=0.1)

    @pytest.mark.parametrize("fault", ["nan", "clip", "loud", "soft", "gap"])
    def test_every_fault_is_found(self, fault):
        clip = melody()
        clip *= 0.1 / clip.std()
        if fault == "nan":
            clip[0, 100] = np.nan
        elif fault == "clip":
            clip[0, 100:110] = 1.0
        elif fault == "loud":
            clip *= 4
            clip = np.clip(clip, -0.99, 0.99)
            clip[:, ::2] = np.sign(clip[:, ::2]) * 0.9
        elif fault == "soft":
            clip *= 0.1
        else:
            clip[:, RATE : 2 * RATE] = 0
        assert not metrics.sanity(clip)["ok"]

    @pytest.mark.parametrize("seconds", [0.1, 0.5, 1.25])
    def test_longest_silence_inside(self, seconds):
        clip = 0.1 * np.random.default_rng(0).standard_normal((2, 4 * RATE))
        clip[:, RATE : RATE + round(seconds * RATE)] = 0
        assert metrics.longest_silence(clip) == pytest.approx(seconds, abs=0.011)

    def test_silence_at_the_edges_counts_only_where_asked(self):
        clip = np.zeros((2, 3 * RATE))
        clip[:, RATE : 2 * RATE] = 0.1
        assert metrics.longest_silence(clip) == 0.0
        assert metrics.longest_silence(clip, edges=True) == pytest.approx(1.0)

    def test_nothing_but_silence(self):
        assert metrics.longest_silence(np.zeros((2, 2 * RATE))) == 2.0
        assert metrics.rms_dbfs(np.zeros((2, 100))) == -200.0
