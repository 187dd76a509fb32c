"""Synthetic performances that obey a lead sheet exactly."""

from __future__ import annotations

import numpy as np

from rtjazz_hf.music import LeadSheet

RATE = 48_000


def play_chords(sheet: LeadSheet, seconds: float) -> np.ndarray:
    """Held additive chords with a bass note: `(2, samples)`."""
    out = np.zeros(round(seconds * RATE))
    for t0, t1, chord in sheet.chord_segments(0.0, seconds):
        start, stop = round(t0 * RATE), min(round(t1 * RATE), out.size)
        t = np.arange(stop - start) / RATE
        keys = [36 + chord.bass] + [60 + pitch_class for pitch_class in chord.pitch_classes]
        for key in keys:
            hz = 440 * 2 ** ((key - 69) / 12)
            out[start:stop] += sum(np.sin(2 * np.pi * hz * h * t) / h**2 for h in (1, 2, 3)) * np.exp(-t)
    return np.stack([out, out]).astype(np.float32) * 0.05


def play_clicks(times: np.ndarray, seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = 1e-4 * rng.standard_normal(round(seconds * RATE))
    click = rng.standard_normal(1200) * np.exp(-np.arange(1200) / 200)
    for time in times:
        start = round(time * RATE)
        if 0 <= start < out.size - click.size:
            out[start : start + click.size] += 0.3 * click
    return np.stack([out, out]).astype(np.float32)
