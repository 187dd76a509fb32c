"""Pictures: written whole, from what users have."""

from __future__ import annotations

import numpy as np
import pytest

from rtjazz_hf.audio import PICTURE_RANGE_DB, picture_levels
from rtjazz_hf.evaluation.pictures import plot_round_trip


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (2, samples)).astype(np.float32)


def test_no_band_is_empty():
    """The lowest bands are narrower than a bin of the spectrum; white noise reaches every one."""
    levels = picture_levels(noise(48_000)).mean(axis=1)
    assert levels.min() > levels.max() - 10 > -PICTURE_RANGE_DB


def test_round_trip(tmp_path):
    pytest.importorskip("matplotlib")
    clip = noise(24_000)
    path = plot_round_trip(clip, 0.5 * clip[:, :-300], tmp_path / "a.png", "halved")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileExistsError):
        plot_round_trip(clip, clip, path, overwrite=False)
    with pytest.raises(ValueError, match="channels"):
        plot_round_trip(clip, clip[:1], tmp_path / "b.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
