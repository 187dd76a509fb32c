"""The tempo of a recording, where a swung off-beat does not lead to two thirds of it or to its half."""

from __future__ import annotations

import numpy as np

SLOWEST, FASTEST = 55.0, 270.0  # beats per minute
_CENTRE, _WIDTH = 140.0, 1.0  # of the prior: beats per minute, octaves
# Autocorrelation at a lag of so many beats: beats and bars speak for a tempo, and the two thirds and the third at which
# a ride cymbal swings; four thirds is what a dotted count of the same pattern would have.
_TEMPLATE = {1: 1.0, 2: 1.0, 4: 0.5, 2 / 3: 0.4, 1 / 3: 0.4, 4 / 3: -0.3}
_EVEN = 0.6  # above this ratio of half a beat to a beat, halves are as strong as beats: they are the beats


def estimate_tempo(onsets: np.ndarray, frame_rate: float) -> float:
    """Beats per minute of onset strength `(frames,)` at `frame_rate` Hz.

    A comb over the autocorrelation (Scheirer, 1998) with a log-normal prior, whose template knows swung quavers; then
    twice the tempo where half a beat recurs as strongly as a beat, as the crotchets of a fast walking bass do and
    swung quavers do not.

    Raises:
        ValueError: less than two beats of the slowest tempo.
    """
    onsets = np.asarray(onsets, dtype=np.float64)
    if len(onsets) < 2 * 60 / SLOWEST * frame_rate:
        raise ValueError(f"{len(onsets) / frame_rate:.1f} s are too short for a tempo: give 3 s or more")
    onsets = onsets - onsets.mean()
    size = len(onsets)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(onsets, 2 * size)) ** 2)[:size] / (size - np.arange(size))
    correlation[size * 3 // 4 :] = 0.0  # too few frames to judge by

    def at(lags: np.ndarray) -> np.ndarray:
        return np.interp(lags, np.arange(size), correlation, right=0.0)

    tempi = np.exp(np.arange(np.log(SLOWEST), np.log(FASTEST), 0.01))
    beats = 60 / tempi * frame_rate
    score = sum(weight * at(beats * lag) for lag, weight in _TEMPLATE.items())
    score *= np.exp(-0.5 * np.square(np.log2(tempi / _CENTRE) / _WIDTH))
    best = int(np.argmax(score))
    tempo, beat = float(tempi[best]), beats[best]
    if 2 * tempo <= FASTEST and at(beat / 2) > _EVEN * at(beat):
        tempo *= 2
    return tempo


__all__ = ["FASTEST", "SLOWEST", "estimate_tempo"]
