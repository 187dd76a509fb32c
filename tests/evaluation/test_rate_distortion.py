"""The bound, against processes whose rate-distortion function is known."""

from __future__ import annotations

import numpy as np
import pytest

from rtjazz_hf.evaluation.measures.rate_distortion import (
    HOPS,
    _complex_lapped,
    _variances,
    reverse_water_filling,
)

RATE = 48_000


def white(seconds: float = 4.0, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((2, round(seconds * RATE)))


@pytest.mark.parametrize("snr", [6.02, 12.04, 30.1])
def test_white_noise_costs_a_bit_a_sample_for_six_decibels(snr):
    curve = reverse_water_filling(white())
    # The measured spectrum flutters around the flat one, which makes the bound a little too low.
    assert curve.rate_at(snr) == pytest.approx(2 * RATE * snr / 6.02, rel=0.1)


def test_what_is_the_same_on_both_sides_costs_half_and_so_does_one_side_alone():
    noise = white()[0]
    for left, right in ((noise, noise), (noise, 0 * noise), (0.8 * noise, -0.6 * noise)):
        curve = reverse_water_filling(np.stack([left, right]))
        assert curve.rate_at(24.08) == pytest.approx(RATE * 4, rel=0.1)


def test_a_coloured_process_costs_what_its_innovation_does():
    from scipy.signal import lfilter

    innovation = white()
    coloured = lfilter([1], [1, -0.9], innovation, axis=1)
    distortion = innovation.var() / 1000  # below the whole spectrum: R = log2(innovation / D) / 2
    curve = reverse_water_filling(coloured)
    snr = 10 * np.log10(coloured.var() / distortion)
    assert curve.rate_at(snr) == pytest.approx(2 * RATE * np.log2(1000) / 2, rel=0.05)


def test_half_a_clip_of_silence_halves_the_rate():
    clip = white()
    clip[:, clip.shape[1] // 2 :] = 0
    assert reverse_water_filling(clip).rate_at(24.08) == pytest.approx(RATE * 4, rel=0.1)


def test_the_curve_rises_and_starts_at_nothing():
    curve = reverse_water_filling(white(1.0))
    assert curve.rates[0] == curve.snrs[0] == 0
    assert (np.diff(curve.rates) > 0).all() and (np.diff(curve.snrs) > 0).all()
    assert curve.snr_at(curve.rate_at(20.0)) == pytest.approx(20.0)
    assert np.isnan(curve.rate_at(1000.0)) and np.isnan(curve.snr_at(1e9))


@pytest.mark.parametrize("hop", HOPS)
def test_the_transform_keeps_energy(hop):
    clip = white(40 * 4096 / RATE)
    clip[:, :4096] = clip[:, -4096:] = 0  # nothing hangs over the edges
    assert _variances(clip, hop, HOPS[0]).sum() == pytest.approx((clip**2).sum(), rel=0.02)
    assert (np.abs(_complex_lapped(clip, hop)) ** 2).sum() / 2 == pytest.approx((clip**2).sum(), rel=0.02)


@pytest.mark.parametrize("audio", [np.zeros((2, 48000)), np.ones((1, 48000)), np.ones((2, 100))])
def test_bad_input_is_refused(audio):
    with pytest.raises(ValueError, match=r"silent|allowed is"):
        reverse_water_filling(audio)
