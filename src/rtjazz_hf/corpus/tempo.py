"""The tempo of a recording, swung or straight, where off-beats do not lead to two thirds, a half or twice of it."""

from __future__ import annotations

import numpy as np

SLOWEST, FASTEST = 55.0, 270.0  # beats per minute
CENTRE = 140.0  # of the prior, beats per minute
# Autocorrelation at so many beats, and what it says for a tempo, where quavers swing and where they are straight: the
# cymbal of swing recurs at thirds of a beat and quavers at halves, and each is two thirds of another tempo. The last of
# a row is its bias. Fitted on composed music by training/fit_tempo.py, as is the prior.
LAGS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1, 4 / 3, 3 / 2, 2, 3, 4, 6, 8)
PRIOR = 3.4  # falling off per octave squared
TEMPLATES = np.array([
    [-7.3, -0.9, -6.4, -0.5, -5.6, 10.9, -2.8, -3.8, 4.7, 3.2, 7.1, -1.5, 3.7, 1.4],  # swung
    [-1.8, -6.6, 2.7, -5.6, -3.6, 2.6, -5.3, 8.6, 2.2, 4.9, 2.2, -1.5, 10.2, -1.4],  # straight
])  # fmt: skip


def tempo_comb(
    onsets: np.ndarray, frame_rate: float, tempi: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Tempi `(tempi,)` in beats per minute, and the autocorrelation of onset strength `(frames,)` at `frame_rate` Hz at
    the `LAGS` of each, `(tempi, lags)`, 1 at lag 0. Without `tempi`: from `SLOWEST` to `FASTEST`, a hundredth apart.

    Raises:
        ValueError: less than two beats of the slowest tempo.
    """
    onsets = np.asarray(onsets, dtype=np.float64)
    if len(onsets) < 2 * 60 / SLOWEST * frame_rate:
        raise ValueError(f"{len(onsets) / frame_rate:.1f} s are too short for a tempo: give 3 s or more")
    onsets = onsets - onsets.mean()
    size = len(onsets)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(onsets, 2 * size)) ** 2)[:size] / (size - np.arange(size))
    correlation /= max(correlation[0], 1e-12)
    correlation[size * 3 // 4 :] = 0.0  # too few frames to judge by
    if tempi is None:
        tempi = np.exp(np.arange(np.log(SLOWEST), np.log(FASTEST), 0.01))
    lags = np.outer(60 / tempi * frame_rate, LAGS)
    return tempi, np.interp(lags, np.arange(size), correlation, right=0.0)


def estimate_pulse(onsets: np.ndarray, frame_rate: float, tempo: float | None = None) -> tuple[float, bool]:
    """Beats per minute of onset strength `(frames,)` at `frame_rate` Hz, and whether its quavers are straight.

    A comb over the autocorrelation (Scheirer, 1998) with a log-normal prior and two templates. A `tempo` that is known
    is taken; others are looked for from `SLOWEST` to `FASTEST`, and those beyond are found at twice or half of them.

    Raises:
        ValueError: less than two beats of the slowest tempo.
    """
    tempi, comb = tempo_comb(onsets, frame_rate, None if tempo is None else np.array([tempo], dtype=float))
    scores = comb @ TEMPLATES[:, :-1].T + TEMPLATES[:, -1]  # (tempi, 2): swung, straight
    prior = PRIOR * np.square(np.log2(tempi / CENTRE))
    best = int(np.argmax(np.logaddexp(scores[:, 0], scores[:, 1]) - prior))
    return float(tempi[best]), bool(scores[best, 1] > scores[best, 0])


__all__ = [
    "CENTRE", "FASTEST", "LAGS", "PRIOR", "SLOWEST", "TEMPLATES", "estimate_pulse", "tempo_comb",
]  # fmt: skip
