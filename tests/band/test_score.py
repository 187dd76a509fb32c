"""The score of a take, and its features."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rtjazz_hf.band.bars import groups_of
from rtjazz_hf.band.composer import compose
from rtjazz_hf.band.score import Score, ScoreControl, ScoreNote, features_of
from rtjazz_hf.corpus.prepare import draw_lead_sheet
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.music.chart import metre_of_beats
from rtjazz_hf.music.score_features import NOTE_ROLES, SCORE_SLICES, key_column, score_features


@pytest.fixture(scope="module")
def take():
    rng = np.random.default_rng([3, 1])
    return compose(draw_lead_sheet(rng), rng)


def test_a_take_is_told_whole(take):
    score = Score.of_take(take)
    assert len(score.notes) == sum(len(notes) for notes in take.notes.values())
    assert {note.role for note in score.notes} >= {"bass", "comp", "drums"}
    assert all(note.role == "drums" for note in score.notes if note.player in ("drums", "brushes"))
    assert all(note.role == "bass" for note in score.notes if note.player == "bass")
    leads = {section.lead for section in take.lead_sheet.sections}
    assert {note.player for note in score.notes if note.role == "lead"} <= leads


def test_rows_are_in_the_takes_seconds(take):
    notes, _ = Score.of_take(take).rows(take.lead_sheet)
    starts = sorted(note.start_s for written in take.notes.values() for note in written)
    assert np.allclose(np.sort(notes[:, 0]), starts, atol=1e-9)


def test_written_and_read(take):
    score = Score.of_take(take)
    again = Score.from_dict(json.loads(json.dumps(score.to_dict())))
    assert again.told == score.told and len(again.notes) == len(score.notes)
    assert all(abs(a.start - b.start) < 1e-4 and a.midi == b.midi for a, b in zip(again.notes, score.notes))
    assert Score.from_dict(again.to_dict()) == again


def test_asked_notes_are_in_the_features(take):
    score, sheet = Score.of_take(take), take.lead_sheet
    notes, controls = score.rows(sheet)
    features = features_of(sheet, notes, controls, score.told, 0, 1500)
    for start, _, midi, _, role, _ in notes:
        if NOTE_ROLES[int(role)] == "drums" or start > 19:
            continue
        column = SCORE_SLICES[f"{NOTE_ROLES[int(role)]}_struck"].start + key_column(int(midi))
        assert features[int(start * 75), column] > 0.3


def test_a_silent_player_has_no_notes_and_a_role_left_out_is_untold(take):
    score = Score.of_take(take)
    assert "bass" not in score.without_players(["bass"]).players
    assert "bass" in score.without_players(["bass"]).told
    assert score.only(["lead"]).told == ("lead",)
    assert {note.role for note in score.only(["lead", "bass"]).notes} <= {"lead", "bass"}


@pytest.mark.parametrize("wrong", [
    {"start": float("nan")}, {"beats": 0.0}, {"midi": 128}, {"velocity": 0}, {"player": "kazoo"}, {"role": "solo"},
])  # fmt: skip
def test_wrong_notes_are_refused(wrong):
    right = {"start": 0.0, "beats": 1.0, "midi": 60, "velocity": 80, "player": "piano", "role": "lead"}
    ScoreNote(**right)
    with pytest.raises(ValueError, match=next(str(value) for value in wrong.values()).replace(".", r"\.")):
        ScoreNote(**{**right, **wrong})


def test_wrong_controls_and_roles_are_refused():
    with pytest.raises(ValueError, match="wah"):
        ScoreControl(0.0, "wah", 1.0, "piano", "lead")
    with pytest.raises(ValueError, match="choir"):
        Score(told=("choir",))
    with pytest.raises(ValueError, match="not a score"):
        Score.from_dict({"notes": []})


def test_who_plays_next_does_not_inherit_a_bend():
    played = [(0.0, 60, "trumpet"), (1.0, 64, "piano"), (2.0, 62, "trumpet"), (3.0, 62, "trumpet")]
    notes = tuple(ScoreNote(start, 1.0, midi, 90, player, "lead") for start, midi, player in played)
    bends = [(0.5, -1.25), (1.5, -2.25), (3.0, 0.0)]
    controls = tuple(ScoreControl(start, "bend", value, "trumpet", "lead") for start, value in bends)
    score = Score(notes, controls, ("lead",))
    sheet = LeadSheet.from_chart("C6 | C6", tempo=60)
    features = score_features(*score.rows(sheet), 0, 300, 75.0)
    bend, keys = features[:, SCORE_SLICES["lead_bend"].start], features[:, SCORE_SLICES["lead_sounding"]].argmax(1)
    pitch = keys + bend - key_column(60)
    assert np.allclose(pitch[[20, 60, 80, 140]], [0, -1.25, 4, 4], atol=1e-5)  # the piano stands
    assert np.allclose(pitch[[160, 200, 240]], [2 - 2.25, 2 - 2.25, 2], atol=1e-5)  # the trumpet has gone on


@pytest.mark.parametrize("beats", range(1, 13))
def test_every_metre_is_counted_whole(beats):
    assert sum(groups_of(metre_of_beats(beats))) == beats
