"""Features of notes per frame: what is asked is there, nothing else is, and any two calls agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtjazz_hf.music import LEAD_SHEET_DIM, LeadSheet, without_chords
from rtjazz_hf.music.score_features import (
    NOTE_ROLES,
    SCORE_DIM,
    SCORE_SLICES,
    columns_of,
    key_column,
    metre_features,
    score_features,
    without_chords_and_notes,
    without_notes,
)

RATE = 75
LEAD, SECOND, BASS, COMP, DRUMS = range(5)


def some_notes(count: int = 60, seconds: float = 4.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    notes = np.stack(
        [rng.uniform(0, seconds, count), rng.uniform(0.05, 1, count), rng.integers(30, 90, count),
         rng.integers(20, 120, count), rng.integers(0, 5, count), rng.integers(0, 16, count)], axis=1,
    )  # fmt: skip
    notes[notes[:, 4] == DRUMS, 2] = 51
    held = [rng.uniform(0, seconds, 12), rng.integers(0, 3, 12), rng.integers(0, 3, 12), rng.random(12)]
    return notes, np.stack(held, 1)


def test_layout_has_no_gap():
    ends = [0]
    for part in SCORE_SLICES.values():
        assert part.start == ends[-1]
        ends.append(part.stop)
    assert ends[-1] == SCORE_DIM


@pytest.mark.parametrize("block", [6, 36, 100])
def test_split_is_whole(block):
    notes, controls = some_notes()
    whole = score_features(notes, controls, 0, 300, RATE)
    pieces = [score_features(notes, controls, at, min(block, 300 - at), RATE) for at in range(0, 300, block)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_a_note_sounds_from_its_onset_to_its_end_and_is_struck_once():
    note = np.array([[0.5, 0.4, 60, 100, LEAD, 8]])
    features = score_features(note, np.zeros((0, 4)), 0, 150, RATE)
    sounding = features[:, SCORE_SLICES["lead_sounding"]]
    on = np.flatnonzero(sounding[:, key_column(60)])
    assert on[0] == int(0.5 * RATE) and abs(on[-1] - 0.9 * RATE) < 2
    assert np.count_nonzero(sounding) == len(on)
    struck = features[:, SCORE_SLICES["lead_struck"]][:, key_column(60)]
    assert struck.argmax() == on[0] and (np.diff(struck[on[0] : on[0] + 18]) < 0).all()
    ahead = features[:, SCORE_SLICES["ahead"]][:, key_column(60)]
    assert (np.diff(ahead[1 : on[0]]) > 0).all() and not ahead[on[0] :].any()
    assert features[on[0], SCORE_SLICES["lead_player"].start + 8] == 1
    for role in ("second", "bass", "comp", "drums"):
        assert not any(features[:, columns].any() for columns in columns_of(role))


@pytest.mark.parametrize("semitones", [-3, 2])
def test_a_bend_passes_through_the_keys_between(semitones):
    note = np.array([[0.0, 2.0, 60, 100, LEAD, 8], [0.0, 2.0, 60, 100, COMP, 0]])
    bends = np.linspace(0, semitones, 100)
    controls = np.stack([(np.arange(100) + 0.0) / RATE, *np.zeros((2, 100)), bends], axis=1)
    features = score_features(note, controls, 0, 120, RATE)
    sounding = features[:, SCORE_SLICES["lead_sounding"]]
    assert (np.count_nonzero(sounding, axis=1) == 1).all()  # one key at a time
    left = features[:, SCORE_SLICES["lead_bend"].start]
    asked = key_column(60) + np.append(bends, np.full(20, semitones))
    assert np.allclose(sounding.argmax(1) + left, asked, atol=1e-5) and np.abs(left).max() <= 0.5 + 1e-6
    assert set(sounding.argmax(1) - key_column(60)) == set(range(min(semitones, 0), max(semitones, 0) + 1))
    struck = features[:, SCORE_SLICES["lead_struck"]]
    assert set(np.nonzero(struck)[1]) == {key_column(60)}  # it was struck where it stands
    others = features[:, SCORE_SLICES["comp_sounding"]]
    assert set(np.nonzero(others)[1]) == {key_column(60)}  # and nobody else is moved


def test_a_bend_beyond_the_piano_leaves_it():
    note = np.array([[0.0, 1.0, 22, 100, BASS, 8]])
    features = score_features(note, np.array([[0.5, BASS, 0, -4.0]]), 0, 75, RATE)
    sounding = features[:, SCORE_SLICES["bass_sounding"]].any(axis=1)
    assert sounding[:37].all() and not sounding[39:].any()


def test_the_place_inside_the_frame_and_the_loudness_are_told():
    def struck(start: float, velocity: int) -> np.ndarray:
        note = np.array([[start, 0.4, 60, velocity, LEAD, 0]])
        return score_features(note, np.zeros((0, 4)), 0, 60, RATE)[:, SCORE_SLICES["lead_struck"]]

    assert struck(0.4001, 80).max() < struck(0.412, 80).max()  # begun earlier in the frame, fallen further
    assert struck(0.4001, 40).max() < struck(0.4001, 80).max()


def test_told_and_silent_is_not_untold():
    nothing = np.zeros((0, 6)), np.zeros((0, 4))
    silent = score_features(*nothing, 0, 10, RATE)
    assert (silent[:, SCORE_SLICES["told"]] == 1).all()
    assert not score_features(*nothing, 0, 10, RATE, told=()).any()
    notes, controls = some_notes()
    only = score_features(notes, controls, 0, 300, RATE, told=("bass",))
    assert only[:, SCORE_SLICES["told"]].sum(0).tolist() == [0, 0, 300, 0, 0]
    assert not any(only[:, columns].any() for columns in columns_of("lead"))


def test_keys_beyond_a_piano_sound_in_their_nearest_octave():
    assert key_column(20) == key_column(32) and key_column(109) == key_column(97)
    note = np.array([[0.0, 0.4, 5, 80, BASS, 5], [0.0, 0.4, 127, 80, LEAD, 5]])
    assert score_features(note, np.zeros((0, 4)), 0, 10, RATE).any()


def test_without_notes_keeps_the_metre_and_the_others():
    notes, controls = some_notes()
    features = score_features(notes, controls, 0, 300, RATE)
    metre_features(features, np.arange(300) / 30, 5, (3, 2))
    none = without_notes(torch.from_numpy(features))
    assert none[:, SCORE_SLICES["beats_per_bar"]].any() and none[:, SCORE_SLICES["beat_in_bar"]].any()
    assert not any(none[:, columns].any() for role in NOTE_ROLES for columns in columns_of(role))
    assert not none[:, SCORE_SLICES["told"]].any() and not none[:, SCORE_SLICES["ahead"]].any()
    some = without_notes(features, ["bass"])
    assert all(np.array_equal(some[:, c], features[:, c]) for c in columns_of("lead"))
    assert np.array_equal(without_notes(features, []), features)


METRES = [(2, (2,)), (3, (3,)), (4, (4,)), (5, (3, 2)), (7, (4, 3)), (12, (3, 3, 3, 3))]


@pytest.mark.parametrize("beats, groups", METRES)
def test_metres_have_their_place(beats, groups):
    out = np.zeros((beats * 10, SCORE_DIM), dtype=np.float32)
    metre_features(out, np.arange(beats * 10) / 10, beats, groups)
    assert out[:, SCORE_SLICES["beat_in_bar"]].argmax(1).tolist() == [b for b in range(beats) for _ in range(10)]
    assert (out[:, SCORE_SLICES["beats_per_bar"]].argmax(1) == beats - 1).all()
    pulses = out[::10, SCORE_SLICES["group_pulse"].start]
    assert np.flatnonzero(pulses == 1).tolist() == np.cumsum([0, *groups])[:-1].tolist()


def test_guidance_pushes_away_from_rows_without_chords_and_notes():
    sheet = LeadSheet.from_chart("Dm7 | G7 | Cmaj7 | %").features(0, 300)
    notes, controls = some_notes()
    both = np.concatenate([sheet, score_features(notes, controls, 0, 300, RATE)], axis=1)
    kept = without_chords_and_notes(both)
    assert np.array_equal(kept[:, :LEAD_SHEET_DIM], without_chords(sheet))
    assert np.array_equal(kept[:, LEAD_SHEET_DIM:], without_notes(both[:, LEAD_SHEET_DIM:]))
    assert np.array_equal(without_chords_and_notes(sheet), without_chords(sheet))
