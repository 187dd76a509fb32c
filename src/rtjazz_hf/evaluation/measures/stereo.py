"""The stereo image of a clip: how wide, how alike both sides, and where each octave stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .metrics import OCTAVE_CENTRES, as_audio, band_energies

_LIMIT_DB = 40.0  # a side that is silent altogether
_SILENCE = 1e-11  # power: just above where `band_energies` ends
_HEARD_DB = 60.0  # below the strongest band: what lies deeper has no place


def stereo_statistics(
    audio: np.ndarray, centres: Sequence[float] = OCTAVE_CENTRES
) -> dict[str, float | np.ndarray]:
    """Width, correlation and pan of stereo audio `(2, samples)` at 48 kHz.

    Returns:
        side_to_mid_db: energy of the side over that of the mid, dB, kept within -40 (mono) and 40.
        correlation: of left and right, -1 to 1 (0 where both are silent).
        pan_db: left over right, dB: above 0 is on the left; within -40 and 40.
        band_side_to_mid_db, band_correlation, band_pan_db: the same of each octave band, `(len(centres),)`, NaN in
        bands 60 dB below the strongest.

    Raises:
        ValueError: audio that is not stereo.
    """
    audio = as_audio(audio)
    if audio.shape[0] != 2:
        raise ValueError(f"audio has {audio.shape[0]} channel(s); a stereo image wants (2, samples).")
    left, right = audio
    levels = [band_energies(x[None], centres) for x in (left, right, (left + right) / 2, (left - right) / 2)]
    power = 10 ** (np.array(levels) / 10)  # (left, right, mid, side; bands)
    total = power[0] + power[1]
    unheard = total <= max(total.max() * 10 ** (-_HEARD_DB / 10), _SILENCE)
    bands = {name: np.where(unheard, np.nan, values) for name, values in _image(power).items()}
    whole = _image(
        np.array([np.mean(x.astype(np.float64) ** 2) for x in (left, right, left + right, left - right)])
        * np.array([1, 1, 0.25, 0.25])
    )
    return {
        **{name: float(value) for name, value in whole.items()},
        **{f"band_{name}": values for name, values in bands.items()},
    }


def _image(power: np.ndarray) -> dict[str, np.ndarray]:
    """Of powers of left, right, mid and side `(4, ...)`; the correlation is (mid - side) / sqrt(left right)."""
    left, right, mid, side = power

    def ratio_db(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.clip(10 * np.log10((a + 1e-20) / (b + 1e-20)), -_LIMIT_DB, _LIMIT_DB)

    return {
        "side_to_mid_db": ratio_db(side, mid),
        "correlation": np.clip((mid - side) / np.sqrt(left * right + 1e-30), -1.0, 1.0),
        "pan_db": ratio_db(left, right),
    }


def stereo_difference(estimate: dict, reference: dict) -> dict[str, float]:
    """How far two `stereo_statistics` lie apart: mean absolute differences over the bands that both have.

    Returns:
        side_to_mid_db, pan_db: dB. correlation: 0 to 2.
    """
    result = {}
    for name in ("side_to_mid_db", "correlation", "pan_db"):
        difference = np.abs(estimate[f"band_{name}"] - reference[f"band_{name}"])
        heard = difference[~np.isnan(difference)]
        result[name] = float(heard.mean()) if heard.size else float("nan")
    return result
