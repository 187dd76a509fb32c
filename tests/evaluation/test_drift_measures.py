"""Drift: what fades is found, what stays is not, and only the same bars are compared."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from played import RATE, play_chords

from rtjazz_hf.evaluation.measures.drift import drift, sum_up_drift
from rtjazz_hf.music import LeadSheet

CHART = "Dm7 | G7 | Cmaj7 | A7"  # 8 s at 120


@pytest.fixture(scope="module")
def sheet() -> LeadSheet:
    return LeadSheet.from_chart(CHART, tempo=120)


@pytest.fixture(scope="module")
def steady_clip(sheet) -> np.ndarray:
    return play_chords(sheet, 16.0)


def test_a_steady_clip_does_not_drift(sheet, steady_clip):
    result = drift(steady_clip, sheet, (0.0, 4.0), (8.0, 16.0))
    assert result["chord_early"] == result["chord_late"] == 1.0 and result["chord_change"] == 0.0
    assert result["chord_counts"] == [2, 2]  # of late's four chords the two that early has
    assert result["levels"].shape == (4, 9)
    assert result["longest_silence_s"] == 0.0


def test_a_fading_clip(sheet, steady_clip):
    faded = steady_clip.copy()
    faded[:, 8 * RATE :] *= 0.5
    same, result = (drift(clip, sheet, (0.0, 4.0), (8.0, 12.0)) for clip in (steady_clip, faded))
    np.testing.assert_allclose(np.subtract(result["band_db"], same["band_db"]), -6.02, atol=0.05)
    assert result["chord_change"] == 0.0


def test_only_bars_that_both_have_are_compared(sheet, steady_clip):
    """Wrong chords in bars of which the start tells nothing are no drift; in the others they are."""
    wrong = play_chords(sheet.rotated(1), 16.0)
    late_half, early_half = steady_clip.copy(), steady_clip.copy()
    late_half[:, 12 * RATE :] = wrong[:, 12 * RATE :]
    early_half[:, 8 * RATE : 12 * RATE] = wrong[:, 8 * RATE : 12 * RATE]
    result = drift(late_half, sheet, (0.0, 4.0), (8.0, 16.0))
    assert result["chord_change"] == 0.0 and result["chord_late_all"] == 0.5
    assert drift(early_half, sheet, (0.0, 4.0), (8.0, 16.0))["chord_change"] == -1.0


def test_more_starts_bring_more_bars(sheet, steady_clip):
    later = dataclasses.replace(sheet, beat_offset=8.0)
    result = drift(
        steady_clip, sheet, (0.0, 4.0), (8.0, 16.0), more_starts=[(play_chords(later, 4.0), later)]
    )
    assert result["chord_counts"] == [4, 4]
    assert result["chord_early"] == 1.0


def test_no_bar_in_common(sheet, steady_clip):
    result = drift(steady_clip, sheet, (0.0, 4.0), (4.0, 8.0))
    assert result["chord_counts"] == [0, 0] and np.isnan(result["chord_change"])
    assert result["chord_late_all"] == 1.0
    assert np.isnan(sum_up_drift([result])["chord_change"])


def test_sum(sheet, steady_clip):
    one = drift(steady_clip, sheet, (0.0, 4.0), (8.0, 16.0))
    worse = {**one, "chord_late": 0.5, "chord_counts": [2, 6], "longest_silence_s": 0.7}
    total = sum_up_drift([one, worse])
    assert total["clips"] == 2
    assert total["chord_early"] == 1.0 and total["chord_late"] == pytest.approx((2 + 3) / 8)
    assert total["chord_error"] > 0 and total["longest_silence_s"] == 0.7
    np.testing.assert_allclose(total["band_error"], 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("early", "late"), [((0, 4), (12, 20)), ((0, 8), (4, 16)), ((0, 8), (8, 12)), ((4, 4), (8, 16))]
)
def test_stretches_that_a_clip_does_not_have(sheet, steady_clip, early, late):
    with pytest.raises(ValueError, match=r"16\.0 s"):
        drift(steady_clip, sheet, early, late)
