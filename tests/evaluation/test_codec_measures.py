"""Every measure of a round trip, against changes whose effect is known."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import plucked_clip

from rtjazz_hf.evaluation import measure_round_trip
from rtjazz_hf.evaluation.measures import metrics
from rtjazz_hf.evaluation.measures.codec import BAND_NAMES, MEASURES


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return plucked_clip(3.0)[0].numpy()


def test_a_clip_against_itself_is_perfect(clip):
    scores = measure_round_trip(clip, clip)
    bands = [f"{kind}_{band}" for kind in ("band_error", "band_snr") for band in BAND_NAMES]
    assert set(scores) == set(MEASURES) | set(bands)
    for name, (_, _, _, more_is_better) in MEASURES.items():
        if name in ("si_sdr", "snr"):
            assert scores[name] > 100
        else:
            assert scores[name] == pytest.approx(1.0 if more_is_better else 0.0, abs=1e-6)
    assert all(scores[f"band_error_{band}"] == 0 for band in BAND_NAMES)


def test_added_noise_worsens_every_measure(clip):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(clip.shape).astype(np.float32)
    little, much = (measure_round_trip(clip, clip + level * noise) for level in (0.003, 0.1))
    for name, (_, _, _, more_is_better) in MEASURES.items():
        assert (little[name] > much[name]) == more_is_better, name


def test_gain_is_heard_by_snr_and_loudness_alone(clip):
    scores = measure_round_trip(clip, 0.5 * clip)
    assert scores["si_sdr"] > 100
    assert scores["snr"] == pytest.approx(6.02, abs=0.01)
    assert scores["loudness_error"] == pytest.approx(6.02, abs=0.05)
    assert scores["pitch_correlation"] == pytest.approx(1.0, abs=1e-4)
    assert scores["stereo_width_error"] == pytest.approx(0.0, abs=1e-4)
    assert scores["band_error_500"] == pytest.approx(-6.02, abs=0.01)
    assert scores["band_snr_500"] == pytest.approx(6.02, abs=0.01)


def test_lengths_may_differ_and_the_common_start_counts(clip):
    assert measure_round_trip(clip, np.pad(clip, ((0, 0), (0, 333))))["snr"] > 100


def test_measures_without_an_answer_are_nan_and_the_others_are_there(clip):
    scores = measure_round_trip(np.zeros_like(clip), clip)
    assert np.isnan(scores["snr"]) and np.isnan(scores["si_sdr"]) and np.isnan(scores["loudness_error"])
    assert np.isfinite(scores["mel_distance"])
    assert np.isnan(measure_round_trip(clip[:, :9600], clip[:, :9600])["loudness_error"])
    one = measure_round_trip(clip[:, :1], clip[:, :1])
    assert np.isfinite(one["mel_distance"])
    constant = measure_round_trip(np.full((2, 48000), 0.1), clip)
    assert np.isnan(constant["si_sdr"]) and np.isfinite(constant["snr"])


@pytest.mark.parametrize(
    "reference, estimate, said",
    [
        (np.zeros((1, 100)), np.zeros((1, 100)), "repeat a mono"),
        (np.ones((2, 100)), np.full((2, 100), np.inf), "estimate holds NaN"),
        (np.full((2, 100), np.nan), np.ones((2, 100)), "reference holds NaN"),
        (np.zeros((2, 0)), np.zeros((2, 0)), "at least one sample"),
    ],
)
def test_bad_input_is_named(reference, estimate, said):
    with pytest.raises(ValueError, match=said):
        measure_round_trip(reference, estimate)


class TestOnsetSharpness:
    def test_attacks_are_found_where_they_are(self, clip):
        _, onsets = metrics.onset_sharpness(clip)
        seconds = onsets * 128 / metrics.SAMPLE_RATE
        for pluck in (0.5, 1.0, 1.5, 2.0, 2.5):
            assert np.abs(seconds - pluck).min() < 0.015

    def test_a_smeared_attack_is_less_sharp(self, clip):
        smear = np.hanning(1024) / np.hanning(1024).sum()
        smeared = np.stack([np.convolve(side, smear, "same") for side in clip])
        sharp, onsets = metrics.onset_sharpness(clip)
        assert metrics.onset_sharpness(smeared, onsets)[0].mean() < 0.7 * sharp.mean()
        assert metrics.onset_sharpness_error(clip, smeared) > 1.0

    def test_silence_has_none(self):
        assert np.isnan(metrics.onset_sharpness_error(np.zeros((2, 48000)), np.zeros((2, 48000))))


class TestStereo:
    def test_a_mono_mix_of_a_wide_clip_is_heard(self, clip):
        wide = clip * [[1.0], [0.2]]
        mono = np.repeat(wide.mean(0, keepdims=True), 2, axis=0)
        assert metrics.stereo_width_error(wide, mono) > 10
        assert metrics.multi_mel_distance(wide, mono) > 2 * metrics.multi_mel_distance(wide, 0.9 * wide)

    def test_width_is_side_over_mid(self):
        noise = 0.1 * np.random.default_rng(0).standard_normal((2, 96000))
        mid, side = noise[0], 0.1 * noise[1]
        width = metrics.stereo_width(np.stack([mid + side, mid - side]))
        assert width == pytest.approx(np.full(9, -20.0), abs=2.0)
