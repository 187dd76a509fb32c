import dataclasses
import itertools

import numpy as np
import pytest

from rtjazz_hf.band.composer import compose
from rtjazz_hf.band.drums import SWIRL
from rtjazz_hf.band.expression import HABITS, SEMITONE, expressive, phrases_of
from rtjazz_hf.band.performance import EXPRESSION, PITCH_BEND, VIBRATO, Note
from rtjazz_hf.band.score import Score
from rtjazz_hf.corpus.lanes import lanes_of, pitch_of
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.music.score_features import BENT_ROLES

BAND = ("guitar", "bass", "brushes", "alto_sax", "trombone")
CHART = "Dm7 | G7 | Cmaj7 | A7 | Dm7 | G7 | Em7 | A7 | Fmaj7 | Bb7 | Cmaj7 | A7 | Dm7 | G7 | Cmaj7 | %"


@pytest.fixture(scope="module")
def plain():
    sheet = LeadSheet.from_chart(CHART, tempo=128, instruments=BAND)
    return compose(sheet, np.random.default_rng(2))


@pytest.fixture(scope="module")
def takes(plain):
    return [expressive(plain, seed) for seed in range(6)]


def line_of(take, player):
    return [note for note in take.notes[player] if note.role in BENT_ROLES]


class TestNotes:
    def test_the_same_seed_the_same_playing_and_one_who_is_silent_changes_nobody(self, plain, takes):
        assert expressive(plain, 3) == takes[3] != takes[2]
        fewer = expressive(plain.without("bass"), 3)
        assert fewer.notes == takes[3].without("bass").notes and fewer.controls == takes[3].without("bass").controls
        assert set(takes[0].touches) == {*BAND} and set(takes[0].without("bass").touches) == {*BAND} - {"bass"}

    def test_what_was_composed_is_played(self, plain, takes):
        for take in takes:
            for player in ("alto_sax", "trombone", "guitar"):
                before, after = plain.notes[player], take.notes[player]
                assert [(n.start_s, n.midi, n.role) for n in before] == [(n.start_s, n.midi, n.role) for n in after]
            pairs = {(round(note.start_s, 6), note.midi) for note in take.notes["bass"]}
            assert {(round(note.start_s, 6), note.midi) for note in plain.notes["bass"]} <= pairs
            assert all(8 <= n.velocity <= 124 and n.duration_s > 0.01 for notes in take.notes.values() for n in notes)
            assert all(n.start_s + n.duration_s <= take.duration_s + 1e-6 for n in line_of(take, "alto_sax"))

    def test_dead_notes_of_the_bass_are_short_soft_and_in_time(self, plain, takes):
        dead = [n for take in takes for n in take.notes["bass"] if n not in plain.notes["bass"] and n.velocity < 38]
        dead = [n for n in dead if n.duration_s <= 0.07 + 1e-9]
        assert dead
        for take in takes:
            for one, two in itertools.pairwise(line_of(take, "bass")):
                assert one.start_s + one.duration_s <= two.start_s + 0.03

    def test_ghost_notes_and_dynamics_inside_a_line(self, plain, takes):
        before = np.array([note.velocity for note in line_of(plain, "alto_sax")])
        after = np.array([[note.velocity for note in line_of(take, "alto_sax")] for take in takes])
        assert (after < 0.6 * before).any() and np.abs(after - before).mean() > 1.5

    def test_brushes_stir(self, plain, takes):
        def sweeps(take):
            return [note for note in take.notes["brushes"] if note.midi == SWIRL]

        assert any(len(sweeps(take)) != len(sweeps(plain)) for take in takes)
        for one, two in itertools.pairwise(sweeps(takes[0])):
            assert one.start_s + one.duration_s <= two.start_s + 1e-6
        assert [n for n in takes[0].notes["brushes"] if n.midi != SWIRL] == [
            n for n in plain.notes["brushes"] if n.midi != SWIRL
        ]


class TestMovement:
    def test_every_kind_of_it_is_heard(self, takes):
        cents = np.concatenate([pitch_of(take, player, 200) for take in takes for player in take.touches])
        assert cents.min() < -150 and cents.max() > 150  # falls and slides, doits and slides
        quivers = [take for take in takes for event in take.controls["alto_sax"] if event.controller == VIBRATO]
        assert quivers and all(2 < take.touches["alto_sax"].vibrato_hz < 8 for take in takes)

    def test_vibrato_comes_late(self, takes):
        for take in takes:
            starts = np.array([note.start_s for note in line_of(take, "alto_sax")])
            for event in take.controls["alto_sax"]:
                if event.controller == VIBRATO and event.value:
                    assert event.start_s - starts[np.searchsorted(starts, event.start_s, side="right") - 1] > 0.1

    def test_a_note_without_a_gesture_stands_on_its_key(self, takes):
        """Controls hold until the next one: what one note did is undone where another begins."""
        for take in takes:
            for player in ("alto_sax", "bass", "trombone"):
                score = [c for c in take.controls[player] if c.controller == PITCH_BEND and c.role in BENT_ROLES]
                for note in line_of(take, player):
                    before = [event for event in score if event.start_s <= note.start_s + 1e-9]
                    own = [e for e in score if note.start_s - 1e-9 <= e.start_s < note.start_s + note.duration_s]
                    if not own:
                        assert not before or before[-1].value == 0

    def test_bends_end_on_the_key_unless_the_note_leaves_it(self, takes):
        for take in takes:
            for lane in lanes_of(take, "alto_sax"):
                assert np.abs(lane.wheel).max() <= 12
                for note in lane.notes:
                    middle = int((note.start_s + min(0.21, 0.5 * note.duration_s)) * 48_000 / 256)
                    assert abs(lane.wheel[middle]) < 2.6

    def test_only_wind_players_swell(self, takes):
        for take in takes:
            kinds = {player: {event.controller for event in take.controls.get(player, ())} for player in BAND}
            assert EXPRESSION in kinds["alto_sax"] and not {EXPRESSION} & (kinds["bass"] | kinds["guitar"])

    def test_the_score_tells_it(self, takes):
        score = Score.from_dict(Score.of_take(takes[0]).to_dict())
        assert {control.kind for control in score.controls} == {"bend", "vibrato", "swell"}
        events = [event for events in takes[0].controls.values() for event in events]
        bends = [event.value / SEMITONE for event in events if event.controller == PITCH_BEND]
        told = [control.value for control in score.controls if control.kind == "bend"]
        assert sorted(told) == pytest.approx(sorted(bends), abs=1e-5)


def test_phrases_end_where_a_line_breathes():
    notes = [Note(start, 0.2, 60, 80) for start in (0.0, 0.25, 1.0, 1.2)]
    assert [len(phrase) for phrase in phrases_of(notes)] == [2, 2] and phrases_of([]) == []


def test_habits_are_shares():
    for habits in HABITS.values():
        shares = [value for value in dataclasses.astuple(habits) if isinstance(value, float)]
        assert all(0 <= share <= 1 for share in shares)
