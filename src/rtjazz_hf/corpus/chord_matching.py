"""Chords of a recording: templates matched with chroma, in the likeliest order that jazz has for them.

A hidden Markov model whose states are chords (Sheh and Ellis, ISMIR 2003). How chords follow each other is counted in
the band leader's own charts (`music.random_lead_sheet`), in all keys alike: a seventh chord that falls a fifth is told
from its relatives, which share most of its notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..band import random_lead_sheet
from ..music.chords import Chord

QUALITIES = ("maj7", "m7", "7", "m7b5", "dim7")
_CHORDS = tuple(Chord.parse("C" + quality).transpose(step) for quality in QUALITIES for step in range(12))
_SHARPNESS = {1: 15.0, 2: 20.0}  # how far the fit of so many beats counts
_SURPRISE = 0.1  # how much of the time any chord may come
_CHARTS = 400  # that are counted


def unit_columns(chroma: np.ndarray) -> np.ndarray:
    """`(12, columns)` with columns of length 1."""
    return chroma / (np.linalg.norm(chroma, axis=0) + 1e-9)


def chord_fit(chroma: np.ndarray, chords: Sequence[Chord]) -> np.ndarray:
    """Cosine of every chord's template and every column of chroma `(12, columns)`: `(chords, columns)`."""
    templates = np.zeros((len(chords), 12))
    for row, chord in zip(templates, chords):
        if chord.root is not None:
            row[list(chord.pitch_classes)] = 1.0
            row[chord.root] += 0.3
    templates /= np.linalg.norm(templates, axis=1, keepdims=True) + 1e-9
    return templates @ unit_columns(chroma)


@lru_cache(maxsize=2)
def chord_moves(beats: int) -> np.ndarray:
    """How likely each chord comes so many beats after each: `(60, 60)`, `QUALITIES` by twelve roots, rows sum to 1."""
    rng, size = np.random.default_rng(0), len(QUALITIES)
    counts = np.zeros((size, size, 12))  # quality, next quality, semitones up
    for _ in range(_CHARTS):
        sheet = random_lead_sheet(rng)
        chords = []
        for span in sheet.spans:
            chords += [_nearest(span.chord)] * max(1, round(span.beats / beats))
        for before, after in pairwise(chords):
            if before is not None and after is not None:
                counts[before // 12, after // 12, (after - before) % 12] += 1
    moves = (1 - _SURPRISE) * counts / np.maximum(counts.sum((1, 2), keepdims=True), 1) + _SURPRISE / (
        12 * size
    )
    roots = np.arange(12)
    table = (
        moves[:, :, (roots[None] - roots[:, None]) % 12].transpose(0, 2, 1, 3).reshape(12 * size, 12 * size)
    )
    return table / table.sum(1, keepdims=True)


@lru_cache(maxsize=1024)
def _nearest(chord: Chord) -> int | None:
    """Which of the chords that are told apart stands for `chord`, by what its third, fifth and seventh do."""
    if chord.root is None:
        return None
    has = {(tone - chord.root) % 12 for tone in chord.pitch_classes}
    if 3 in has and 4 not in has:
        quality = "m7" if 7 in has or 6 not in has else "m7b5" if 10 in has else "dim7"
    else:  # suspended and augmented chords and those without a third are dominants where they have their seventh
        quality = "7" if 10 in has or (8 in has and 7 not in has and 11 not in has) else "maj7"
    return 12 * QUALITIES.index(quality) + chord.root


def match_chords(chroma: np.ndarray, beats: int) -> list[Chord]:
    """The likeliest chords, of `QUALITIES` on twelve roots: `chroma` `(12, columns)`, C first, columns of 1 or 2 beats.
    Needs librosa."""
    import librosa

    if beats not in _SHARPNESS:
        raise ValueError(f"columns of {beats} beats: give one of {', '.join(map(str, _SHARPNESS))}.")
    match = np.exp(_SHARPNESS[beats] * chord_fit(chroma, _CHORDS))
    path = librosa.sequence.viterbi_discriminative(match / match.sum(0), chord_moves(beats))
    return [_CHORDS[index] for index in path]


__all__ = ["QUALITIES", "chord_fit", "chord_moves", "match_chords", "unit_columns"]
