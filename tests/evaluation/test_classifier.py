"""A classifier that is taught to tell two kinds of clips apart: it does where they differ, and nowhere else."""

import numpy as np
import pytest

from rtjazz_hf.evaluation.measures.classifier import CROP_SECONDS, log_mel_crops, told_apart


def charts(count, tilt=0.0, seed=0):
    """Pieces of `count` charts: noise of a colour of its own for each, and of a slope that all have."""
    rng = np.random.default_rng(seed)
    slope = tilt * np.linspace(-1, 1, 96)[:, None]
    return [
        (rng.normal(size=(3, 96, 16)) + rng.normal(size=(96, 1)) + slope).astype(np.float32)
        for _ in range(count)
    ]


def test_tells_what_differs_and_nothing_else():
    first = charts(8)
    assert told_apart(first, charts(8, tilt=2.0, seed=1), steps=40) > 0.9
    assert told_apart(first, first, steps=40) == 0.5
    assert told_apart(first, first, steps=40) == told_apart(first, first, steps=60)


def test_level_is_not_told():
    rng = np.random.default_rng(2)
    clip = rng.normal(size=(2, round(2.5 * CROP_SECONDS * 48_000))).astype(np.float32) * 0.1
    crops = log_mel_crops(clip)
    assert crops.shape[:2] == (2, 96) and np.allclose(crops.mean((1, 2)), 0, atol=1e-4)
    assert np.allclose(crops, log_mel_crops(0.25 * clip), atol=1e-3)


def test_what_cannot_be_judged():
    with pytest.raises(ValueError, match="5 s at a time"):
        log_mel_crops(np.zeros((2, 48_000), np.float32))
    with pytest.raises(ValueError, match="as many of both"):
        told_apart(charts(2), charts(3))
