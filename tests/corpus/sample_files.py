"""Samples of instruments that nobody recorded."""

import numpy as np
import soundfile


def write_tone(path, key, rate, seconds=0.9, rise_s=0.002, seed=0):
    """A tone of six partials and a little noise that dies away."""
    time = np.arange(round(seconds * rate)) / rate
    hertz = 440 * 2 ** ((key - 69) / 12)
    partials = [n for n in range(1, 7) if n * hertz < 0.45 * rate]
    tone = sum(np.sin(2 * np.pi * n * hertz * time) / n for n in partials)
    tone = tone + 0.002 * np.random.default_rng([seed, round(10 * key)]).standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * tone * np.minimum(time / rise_s, 1) * np.exp(-2 * time), rate)
