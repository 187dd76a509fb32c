"""Chords found in chroma: in all keys alike, and by what comes before where the notes leave it open."""

from __future__ import annotations

import numpy as np
import pytest

from rtjazz_hf.corpus.chord_matching import QUALITIES, _nearest, chord_fit, chord_moves, match_chords
from rtjazz_hf.music.chords import Chord


def row(chord: str) -> int:
    found = Chord.parse(chord)
    quality = next(name for name in QUALITIES if Chord.parse("C" + name).transpose(found.root) == found)
    return 12 * QUALITIES.index(quality) + found.root


def chroma_of(chords: list[str], noise: float = 0.0, seed: int = 0) -> np.ndarray:
    rng, columns = np.random.default_rng(seed), []
    for chord in chords:
        column = noise * rng.random(12)
        column[list(Chord.parse(chord).pitch_classes)] += 1.0
        columns.append(column)
    return np.array(columns).T


@pytest.mark.parametrize("beats", [1, 2])
def test_moves_are_likelihoods_in_all_keys_alike(beats):
    moves = chord_moves(beats)
    np.testing.assert_allclose(moves.sum(1), 1.0)
    assert moves.min() > 0
    assert moves[row("Dm7"), row("G7")] == pytest.approx(moves[row("Fm7"), row("Bb7")])
    assert moves[row("Dm7"), row("G7")] > 10 * moves[row("Dm7"), row("B7")]
    assert moves[row("Cmaj7")].argmax() == row("Cmaj7")


@pytest.mark.parametrize(
    ("chord", "quality"),
    [("C7alt", "7"), ("C7sus4", "7"), ("C13sus4", "7"), ("Caug", "7"), ("C9", "7"), ("C6", "maj7"), ("C", "maj7"),
     ("CmMaj7", "m7"), ("Cm6", "m7"), ("Cm7b5", "m7b5"), ("Cdim7", "dim7")],
)  # fmt: skip
def test_chords_stand_for_what_they_do(chord, quality):
    assert _nearest(Chord.parse(chord)) == 12 * QUALITIES.index(quality)


def test_columns_of_other_lengths_are_refused():
    pytest.importorskip("librosa")
    with pytest.raises(ValueError, match="3 beats: give one of 1, 2"):
        match_chords(np.ones((12, 4)), 3)


def test_fit_is_best_for_the_chord_itself():
    chords = [Chord.parse(name) for name in ("Cmaj7", "Am7", "Dm7", "G7", "Bm7b5")]
    fit = chord_fit(chroma_of([str(chord) for chord in chords]), chords)
    assert (fit.argmax(0) == np.arange(len(chords))).all() and fit.max() <= 1.0 + 1e-9


def test_a_chart_is_found_in_noise_in_any_key():
    pytest.importorskip("librosa")
    played = [name for name in ("Dm7", "G7", "Cmaj7", "A7") for _ in range(4)] * 3
    for step in (0, 5, 11):
        chroma = np.roll(chroma_of(played, noise=0.5), step, axis=0)
        asked = [Chord.parse(name).transpose(step) for name in played]
        assert np.mean([one == other for one, other in zip(match_chords(chroma, 1), asked)]) > 0.9


def test_what_comes_before_decides_where_notes_do_not():
    """F, A flat, D and B belong to G7 (with a flat ninth) as to four diminished chords: after Dm7 it is G7."""
    pytest.importorskip("librosa")
    chroma = chroma_of(["Dm7", "Dm7", "Dm7", "Dm7", "Bdim7", "Bdim7", "Cmaj7", "Cmaj7"])
    chroma[7, 4:6] = 0.6  # some G
    found = match_chords(chroma, 2)
    assert found[4] == found[5] == Chord.parse("G7")
