"""The key that a progression is in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .chart import ChordSpan
from .chords import Chord
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
    pairs = list(zip(heard, heard[1:] + heard[:1]))

    def score(key: str) -> float:
        root, minor = tonic(key), is_minor(key)
        scale = (0, 2, 3, 5, 7, 8, 10, 11) if minor else (0, 2, 4, 5, 7, 9, 11)

        def is_tonic(chord: Chord) -> bool:
            third = 3 in chord.intervals and 4 not in chord.intervals
            return chord.root == root and third == minor

        fit = sum(weight[(root + step) % 12] for step in scale) * 7 / len(scale)
        fit += 0.15 * is_tonic(heard[0].chord) + 0.1 * is_tonic(heard[-1].chord)
        fit += 0.3 / total * sum(span.beats for span in heard if is_tonic(span.chord))
        fit += (
            0.3
            / total
            * sum(
                one.beats
                for one, two in pairs
                if is_tonic(two.chord)
                and one.chord.root == (root + 7) % 12
                and {4, 10} <= set(one.chord.intervals)
            )
        )
        return fit

    return max(KEYS, key=score)
