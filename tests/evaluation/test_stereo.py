"""The stereo image: sides, middle and noise are where they are."""

from __future__ import annotations

import numpy as np
import pytest

from rtjazz_hf.evaluation.measures.stereo import stereo_difference, stereo_statistics

NOISE = np.random.default_rng(0).standard_normal((2, 96_000)).astype(np.float32) * 0.1


def test_mono_is_narrow_and_in_the_middle():
    found = stereo_statistics(np.stack([NOISE[0], NOISE[0]]))
    assert found["side_to_mid_db"] == -40.0
    assert found["correlation"] == pytest.approx(1.0, abs=1e-5)
    assert found["pan_db"] == pytest.approx(0.0, abs=1e-5)
    np.testing.assert_allclose(found["band_side_to_mid_db"], -40.0)


def test_two_noises_are_wide():
    found = stereo_statistics(NOISE)
    assert abs(found["side_to_mid_db"]) < 0.2 and abs(found["correlation"]) < 0.02
    np.testing.assert_allclose(found["band_correlation"], 0.0, atol=0.2)


def test_opposite_sides():
    found = stereo_statistics(np.stack([NOISE[0], -NOISE[0]]))
    assert found["correlation"] == pytest.approx(-1.0, abs=1e-5) and found["side_to_mid_db"] == 40.0


def test_pan_by_band():
    """Low on the left, high on the right."""
    time = np.arange(96_000) / 48_000
    low, high = (np.sin(2 * np.pi * hz * time) for hz in (125.0, 4000.0))
    found = stereo_statistics(0.1 * np.stack([2 * low + high, low + 2 * high]).astype(np.float32))
    assert found["band_pan_db"][1] == pytest.approx(6.02, abs=0.1)
    assert found["band_pan_db"][6] == pytest.approx(-6.02, abs=0.1)
    assert found["pan_db"] == pytest.approx(0.0, abs=0.01)


def test_silence_and_mono():
    found = stereo_statistics(np.zeros((2, 9600)))
    assert found["correlation"] == 0.0 and np.isnan(found["band_pan_db"]).all()
    with pytest.raises(ValueError, match="stereo"):
        stereo_statistics(NOISE[:1])


def test_difference():
    wide, narrow = stereo_statistics(NOISE), stereo_statistics(np.stack([NOISE[0], NOISE[0]]))
    assert stereo_difference(wide, wide) == {"side_to_mid_db": 0.0, "correlation": 0.0, "pan_db": 0.0}
    assert stereo_difference(wide, narrow)["side_to_mid_db"] > 35
    assert np.isnan(stereo_difference(wide, stereo_statistics(np.zeros((2, 9600))))["pan_db"])
