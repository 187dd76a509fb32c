"""Whether a tune comes back: likeness of two passes over one form, by the chroma of what is above the bass."""

from __future__ import annotations

import itertools

import numpy as np

from .notes import semitone_levels

_LOWEST, _HIGHEST = 36, 72  # rows of `semitone_levels`: C4 to C7, where melodies are
_STEPS = 2  # of a beat


def theme_chroma(audio: np.ndarray, beat_times: np.ndarray) -> np.ndarray:
    """Chroma `(half beats, 12)` of `audio` `(2, samples)` above C4 between beats at `beat_times` (seconds), each step
    without its mean and of length 1 (silence: 0)."""
    levels = semitone_levels(audio)[_LOWEST:_HIGHEST]
    frame = audio.shape[-1] / 48_000 / levels.shape[1]
    edges = np.interp(np.arange((len(beat_times) - 1) * _STEPS + 1) / _STEPS, np.arange(len(beat_times)), beat_times)
    rows = []
    for start, stop in itertools.pairwise(edges):
        first = min(int(start / frame), levels.shape[1] - 1)
        rows.append(levels[:, first : max(first + 1, int(stop / frame))].mean(1).reshape(3, 12).sum(0))
    chroma = np.array(rows)
    chroma = chroma - chroma.mean(1, keepdims=True)
    return chroma / np.maximum(np.linalg.norm(chroma, axis=1, keepdims=True), 1e-9)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine of two chromas, step by step: 1 is the same, 0 is unrelated. Steps silent in both do not count."""
    steps = min(len(one), len(other))
    one, other = one[:steps], other[:steps]
    heard = ((one**2).sum(1) > 0.5) | ((other**2).sum(1) > 0.5)
    return float((one * other).sum(1)[heard].mean()) if heard.any() else 0.0


__all__ = ["likeness", "theme_chroma"]
