"""A player's habits as counts, and solos that lean to them."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from rtjazz_hf.band import Band, PhraseMemory, Score, ScoreNote, write_lead_sheet
from rtjazz_hf.band.bars import notated_in, swung_in
from rtjazz_hf.band.harmony import chord_scale
from rtjazz_hf.band.melody import RANGES
from rtjazz_hf.band.performance import Harmony
from rtjazz_hf.band.phrases import LENGTHS, PLACES, WIDEST
from rtjazz_hf.music import LeadSheet

CHART = "Dm7 | G7 | Cmaj7 | A7"
PLAYERS = {"leaps": ((-9, -7, 5, 7, 9, -5), (1.5, 2.0, 3.0)), "steps": ((-2, -1, 1, 2), (0.5,))}


def chart(**options):
    band = ("tenor_sax", "piano", "bass", "drums")
    return LeadSheet.from_chart(CHART, **{"tempo": 140, "swing": 0.6, "instruments": band, **options})


def played(name, seed=0, notes=200, swing=0.6):
    """A take of one of the players, a little out of time, and its sheet."""
    intervals, lengths = PLAYERS[name]
    rng, sheet, at, key, line = np.random.default_rng(seed), chart(swing=swing), 0.0, 64, []
    for _ in range(notes):
        step = int(rng.choice(intervals))
        key += step if 50 < key + step < 76 else -step
        length = float(rng.choice(lengths))
        start = max(0.0, swung_in(sheet, at) + rng.normal(0, 0.02))
        line.append(ScoreNote(start, 0.9 * length, key, 80, "tenor_sax", "lead"))
        at += length
    return Score(tuple(line), told=("lead",)), sheet


@pytest.fixture(scope="module")
def memories():
    return {name: PhraseMemory.of_scores([played(name)]) for name in PLAYERS}


def solos(sheet, seed, phrases, stop=256):
    """What the band's solo choruses do; of a chart of four bars the first sixteen are a head."""
    notes = [n for n in Band(sheet, seed, phrases=phrases).write(stop).notes if n.role == "lead" and n.start > 64]
    return PhraseMemory.of_lines([(sheet, [(notated_in(sheet, n.start), n.midi) for n in notes])])


def common(counts, of, how_many=4):
    return {of[index] for index in np.argsort(counts)[::-1][:how_many] if counts[index]}


class TestMemory:
    def test_what_is_counted(self):
        sheet = chart()
        line = [(0.0, 60), (0.5, 62), (1.0, 62), (1.0, 65), (3.0, 40), (9.0, 60)]
        memory = PhraseMemory.of_lines([(sheet, line)])
        steps = {index - WIDEST: n for index, n in enumerate(memory.intervals) if n}
        assert steps == {2: 1, 0: 1, -WIDEST: 1}  # what is struck together is one, after a breath a phrase begins anew
        assert {LENGTHS[i]: n for i, n in enumerate(memory.lengths) if n} == {0.5: 2, 2.0: 1}
        assert {PLACES[i]: n for i, n in enumerate(memory.places) if n} == {0.0: 4, 0.5: 1}
        assert memory.beats == (2, 2, 0, 1, 0, 0, 0, 0)

    @pytest.mark.parametrize("swing", [0.0, 0.3, 1.0])
    def test_of_scores_hears_through_swing_and_timing(self, swing):
        memory = PhraseMemory.of_scores([played("steps", swing=swing)])
        assert common(memory.intervals, range(-WIDEST, WIDEST + 1)) == set(PLAYERS["steps"][0])
        assert common(memory.lengths, LENGTHS) == {0.5} and common(memory.places, PLACES) == {0.0, 0.5}

    def test_too_few_notes_tell_nothing(self):
        assert PhraseMemory.of_scores([]) is None and PhraseMemory.of_scores([played("steps", notes=20)]) is None
        assert PhraseMemory.of_scores([played("steps")], role="bass") is None

    @pytest.mark.parametrize("metres", [{}, {"beats_per_bar": 3}])
    @pytest.mark.parametrize("swing", [0.0, 0.4, 1.0])
    def test_swing_is_undone(self, swing, metres):
        sheet = chart(swing=swing, **metres)
        for beat in np.linspace(0, 9, 37):
            assert notated_in(sheet, swung_in(sheet, beat)) == pytest.approx(beat)

    def test_it_is_small_and_comes_back(self, memories):
        text = json.dumps(memories["leaps"].to_dict())
        assert len(text) < 4096 and PhraseMemory.from_dict(json.loads(text)) == memories["leaps"]
        assert memories["leaps"] != memories["steps"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "other"}, "no phrase memory"),
            ({"version": 2}, "version 2; version 1 is read"),
            ({"places": [1, 2]}, "places: give 6 counts, not 2"),
            ({"places": "abcdef"}, "places: give 6 counts, not 'abcdef'"),
            ({"beats": [1] * 7 + [-1]}, "beats holds -1: a count is a finite number, 0 or more"),
            ({"beats": [1] * 7 + [float("nan")]}, "beats holds nan"),
            ({"beats": [1] * 7 + [float("inf")]}, "beats holds inf"),
            ({"beats": [1] * 7 + [True]}, "beats holds True"),
            ({"beats": [1] * 7 + ["3"]}, "beats holds '3'"),
        ],
    )
    def test_what_is_no_memory_is_refused(self, memories, change, message):
        with pytest.raises(ValueError, match=message):
            PhraseMemory.from_dict({**memories["leaps"].to_dict(), **change})
        with pytest.raises(ValueError, match="lengths is missing"):
            PhraseMemory.from_dict({n: v for n, v in memories["leaps"].to_dict().items() if n != "lengths"})
        for other in ([], None, "x"):
            with pytest.raises(ValueError, match="no phrase memory"):
                PhraseMemory.from_dict(other)

    def test_mixed_by_weight_and_not_by_length(self, memories):
        few = PhraseMemory.of_scores([played("steps", notes=50)])
        many = PhraseMemory.of_scores([played("leaps", notes=800)])
        even, mostly = (PhraseMemory.mixed([few, many], weights) for weights in ([1, 1], [3, 1]))
        assert even.distance(few) == pytest.approx(even.distance(many), abs=0.1)
        assert mostly.distance(few) < even.distance(few)
        assert PhraseMemory.mixed([few, many], [1, 0]) is few and PhraseMemory.mixed([], []) is None
        assert PhraseMemory.from_dict(even.to_dict()) == even


class TestLeaning:
    def test_solos_come_nearer_to_the_player_and_to_no_other(self, memories):
        for name, other in itertools.permutations(PLAYERS):
            own, far = (PhraseMemory.of_scores([played(each, seed=9)]) for each in (name, other))
            plain, leaning = solos(chart(), 3, None), solos(chart(), 3, memories[name])
            assert own.distance(leaning) < 0.6 * own.distance(plain)
            assert own.distance(leaning) < 0.6 * far.distance(leaning)

    @pytest.mark.parametrize("prompt", ["bossa nova flute", "jazz waltz trio", "ballad", "afro 6/8", "bop in 5/4"])
    @pytest.mark.parametrize("name", list(PLAYERS))
    def test_range_and_chords_stay(self, memories, prompt, name):
        sheet = write_lead_sheet(prompt, seed=4, duration=40)
        score, plain = (Band(sheet, 1, phrases=each).write(sheet.num_beats) for each in (memories[name], None))
        harmony = Harmony.of(sheet)
        lead = [note for note in score.notes if note.role == "lead"]
        assert score.players == plain.players and lead
        for note in lead:
            low, high = RANGES[note.player]
            assert low <= note.midi <= high
        long = [n for n in lead if n.beats > 0.9]
        inside = [n.midi % 12 in chord_scale(harmony.at(notated_in(sheet, n.start) + 0.1)) for n in long]
        assert np.mean(inside) > 0.9
        others = [[n for n in each.notes if n.role in ("bass", "drums")] for each in (score, plain)]
        assert others[0] == others[1]  # only solos lean

    def test_the_same_however_the_demands_are_split_and_resumed(self, memories):
        sheet = chart()
        whole = Band(sheet, 5, phrases=memories["steps"]).write(200)
        band, notes = Band(sheet, 5, phrases=memories["steps"]), []
        for until in (3.5, 30, 66, 91.25, 140, 200):
            notes += band.write(until).notes
            band = Band.from_state_dict(json.loads(json.dumps(band.state_dict())))
            assert band.phrases == memories["steps"]
        assert sorted(notes, key=lambda n: (n.start, n.midi)) == list(whole.notes)

    def test_states_of_before_load(self):
        band = Band(chart(), 5)
        state = band.state_dict()
        del state["phrases"]
        assert Band.from_state_dict(state).write(100) == band.write(100)
        with pytest.raises(ValueError, match="not the state of a band: it is no phrase memory"):
            Band.from_state_dict({**state, "phrases": {"format": "x"}})

    def test_it_follows_while_it_plays(self, memories):
        sheet = chart()
        band, plain = (Band(sheet, 5) for _ in range(2))
        assert band.write(80) == plain.write(80)
        seconds = float(sheet.time_of(80.0))
        band.follow(dataclasses.replace(sheet), seconds, phrases=memories["leaps"])
        plain.follow(dataclasses.replace(sheet), seconds)
        after = band.write(250)
        assert after != plain.write(250)
        lead = [n for n in after.notes if n.role == "lead"]
        told = PhraseMemory.of_lines([(sheet, [(notated_in(sheet, n.start), n.midi) for n in lead])])
        assert memories["leaps"].distance(told) < memories["steps"].distance(told)
        assert band.phrases == memories["leaps"]
        band.follow(sheet, float(sheet.time_of(250.0)))
        assert band.phrases is None
