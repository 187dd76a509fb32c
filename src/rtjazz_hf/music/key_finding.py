"""The key that a progression is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from .chords import Chord
from .spans import ChordSpan
from .vocabulary import KEYS, is_minor, tonic


def estimate_key(spans: Iterable[ChordSpan]) -> str:
    """The key that fits a progression best.

    Counts how much of the harmony lies in the key's scale, with weight for tonic chords, for tonic chords at
    both ends, and for dominants that resolve to the tonic.
    """
    heard = [span for span in spans if not span.chord.is_no_chord]
    if not heard:
        return "C"
    total = sum(span.beats for span in heard)
    weight = np.zeros(12)
    for span in heard:
        weight[list(span.chord.pitch_classes)] += span.beats / total / len(span.chord.pitch_classes)
    # What is asked of a chord for each of 24 keys is asked of it once: charts have hundreds of chords, of few kinds.
    tonics: Counter = Counter()  # beats, by root and third
    dominants: Counter = (
        Counter()
    )  # beats of a dominant, by the root and third of the tonic that follows a fifth below
    for one, two in zip(heard, heard[1:] + heard[:1]):
        third = _third(one.chord)
        tonics[one.chord.root, third] += one.beats
        if (one.chord.root - 7) % 12 == two.chord.root and {4, 10} <= set(one.chord.intervals):
            dominants[two.chord.root, _third(two.chord)] += one.beats
    ends = [(chord.root, _third(chord)) for chord in (heard[0].chord, heard[-1].chord)]

    def score(key: str) -> float:
        root, minor = tonic(key), is_minor(key)
        scale = (0, 2, 3, 5, 7, 8, 10, 11) if minor else (0, 2, 4, 5, 7, 9, 11)
        fit = sum(weight[(root + step) % 12] for step in scale) * 7 / len(scale)
        fit += 0.15 * (ends[0] == (root, minor)) + 0.1 * (ends[1] == (root, minor))
        fit += 0.3 / total * tonics[root, minor]
        fit += 0.3 / total * dominants[root, minor]
        return fit

    return max(KEYS, key=score)


def _third(chord: Chord) -> bool:
    """Whether it is minor."""
    return 3 in chord.intervals and 4 not in chord.intervals
