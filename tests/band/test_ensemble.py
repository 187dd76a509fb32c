"""The band at play: the same whatever is asked for when, and quick to follow."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtjazz_hf.band import Band, Score, ScoreNote, write_lead_sheet
from rtjazz_hf.band.melody import RANGES
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.music.score_features import NOTE_ROLES, SCORE_DIM, SCORE_SLICES

QUARTET = ("tenor_sax", "piano", "bass", "drums")
CHART = "Dm7 | G7 | Cmaj7 | A7"


def chart(text=CHART, **options):
    return LeadSheet.from_chart(text, **{"tempo": 120, "instruments": QUARTET, **options})


def later(band):
    """The band as another process has it."""
    return Band.from_state_dict(json.loads(json.dumps(band.state_dict())))


def of(score, role, start=0.0, end=np.inf):
    return [note for note in score.notes if note.role == role and start <= note.start < end]


def together(scores):
    return sorted((note for score in scores for note in score.notes), key=lambda note: (note.start, note.midi))


class TestWriting:
    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.floats(0.01, 9), min_size=1, max_size=30), st.integers(0, 2**63))
    def test_the_same_however_the_demands_are_split(self, steps, seed):
        sheet = write_lead_sheet("medium swing quintet", tempo=140, seed=seed % 7)
        whole = Band(sheet, seed).write(sum(steps))
        band, parts, at = Band(sheet, seed), [], 0.0
        for index in range(len(steps)):
            at = sum(steps[: index + 1])
            parts.append(band.write(at))
            band.features(round(sheet.time_of(at) * 75), 12)  # looks ahead, and hands nothing out
            if index % 3 == 0:
                band = later(band)
        assert together(parts) == list(whole.notes)
        assert sorted(c.start for part in parts for c in part.controls) == [c.start for c in whole.controls]

    @pytest.mark.parametrize("prompt", ["bossa nova flute", "jazz waltz trio", "ballad", "fast bebop", "organ blues"])
    def test_everybody_plays_and_nobody_else(self, prompt):
        sheet = write_lead_sheet(prompt, seed=4, duration=40)
        score = Band(sheet, 1).write(sheet.num_beats)
        assert set(score.players) == set(sheet.instruments) and score.told == NOTE_ROLES
        assert score.notes[0].start < sheet.beats_per_bar and score.end_beat <= sheet.num_beats + 0.1
        for note in score.notes:
            section = next(s for s in reversed(sheet.sections) if s.start_beat <= note.start + 0.1)
            assert note.player in section.instruments or note.start - section.start_beat < 0.1
        for note in of(score, "lead"):
            low, high = RANGES[note.player]
            assert low <= note.midi <= high

    def test_seeds_differ_and_players_do_not_depend_on_each_other(self):
        sheet = chart()
        one, other = Band(sheet, 1).write(64), Band(sheet, 2).write(64)
        assert one.notes != other.notes
        without = Band(sheet.without("piano"), 1).write(64)
        assert "piano" not in without.players
        for role in ("bass", "drums", "lead"):
            assert of(without, role) == of(one, role)

    def test_heads_come_back_and_solos_are_new(self):
        told_apart = 0
        for seed in range(12):
            sheet = write_lead_sheet("medium swing tenor sax quartet", tempo=140, seed=seed)
            score = Band(sheet, seed).write(2 * sheet.num_beats)

            def lead(section, turn=0, sheet=sheet, score=score):
                start = section.start_beat + turn * sheet.num_beats
                beats = min(section.beats, sheet.sections[0].beats)
                return {(round(2 * (n.start - start)), n.midi % 12) for n in of(score, "lead", start, start + beats)}

            head, solo = sheet.sections[0], next(s for s in sheet.sections if s.role == "solo")
            again, new = lead(head, 1), lead(solo, 1)
            told_apart += len(lead(head) & again) > 0.75 * len(again) and len(lead(solo) & new) < 0.4 * len(new)
        assert told_apart >= 11

    def test_a_chart_that_goes_round_is_a_head_and_solos(self):
        score = Band(chart(), 3).write(16 * 4 * 5)
        units = [{(round(2 * n.start) % 128, n.midi) for n in of(score, "lead", k * 64, k * 64 + 64)} for k in range(5)]
        assert len(units[0] & units[4]) > 0.75 * len(units[4])
        for one, other in ((0, 1), (1, 2), (2, 3)):
            assert len(units[one] & units[other]) < 0.4 * len(units[other])

    def test_the_bass_has_the_root_where_the_chord_changes(self):
        score = Band(chart("Dm7 | G7 | Cmaj7 | A7"), 3).write(160)
        roots = [2, 7, 0, 9]
        firsts = [of(score, "bass", 4 * bar - 0.2, 4 * bar + 0.5)[0].midi % 12 for bar in range(40)]
        assert sum(first == roots[bar % 4] for bar, first in enumerate(firsts)) >= 38

    @pytest.mark.parametrize("beats_per_bar", range(2, 13))
    def test_any_metre(self, beats_per_bar):
        spans = chart("Dm7 | G7 | Cmaj7 | %").spans
        bands = {"swing": QUARTET, "bossa": ("guitar", "bass", "brushes"), "ballad": ("organ", "drums")}
        for genre, band in bands.items():
            sheet = chart(genre=genre, instruments=band)
            sections = (dataclasses.replace(sheet.sections[0], beats=4.0 * beats_per_bar),)
            sheet = dataclasses.replace(
                sheet, spans=tuple(dataclasses.replace(span, beats=float(beats_per_bar)) for span in spans),
                sections=sections, beats_per_bar=beats_per_bar,
            )  # fmt: skip
            score = Band(sheet, 1).write(12 * beats_per_bar)
            assert set(score.players) == set(band)
            for bar in range(12):  # nobody loses the thread
                assert [n for n in score.notes if bar * beats_per_bar - 0.1 <= n.start < (bar + 1) * beats_per_bar]


class TestFollowing:
    def test_chords_are_answered_from_the_next_beat(self):
        band = Band(chart(), 1)
        before = [*band.write(9.3).notes]
        plain = later(band).write(40)
        other = dataclasses.replace(chart("Eb7 | Ab7 | Eb7 | Ab7"), beat_offset=1.3 - 9.3)  # from its top, in the bar
        band.follow(other, 9.3 / 2)
        kept, after = band.write(2.0 - 0.1), band.write(60)
        assert [n.midi for n in kept.notes] == [n.midi for n in plain.notes if n.start < 10 - 0.1]
        assert all(n.start + n.beats <= 2.05 or n.role == "drums" for n in kept.notes)
        pitched = [n for n in after.notes if n.role in ("bass", "comp") and n.start < 3.9]
        tones = {(3 + step) % 12 for step in (0, 1, 2, 4, 7, 9, 10)}
        assert pitched and sum(n.midi % 12 in tones for n in pitched) >= 0.7 * len(pitched)  # a line approaches too
        assert min(n.start for n in after.notes if n.role == "bass") < 2.2
        last = [n for n in before if n.role == "bass"][-1].midi
        assert abs(of(after, "bass")[0].midi - last) <= 7

    def test_voicings_lead_over(self):
        moved = []
        for seed in range(6):
            band = Band(chart(instruments=("piano", "bass", "drums", "flute")), seed)
            old = [n.midi for n in of(band.write(16), "comp")[-3:]]
            band.follow(dataclasses.replace(chart("Fm7 | Bb7"), beat_offset=0.0), 8.0)
            moved.append(abs(np.mean([n.midi for n in of(band.write(24), "comp")[:3]]) - np.mean(old)))
        assert np.mean(moved) < 5

    def test_tempo_takes_the_notes_along(self):
        sheet = chart(swing=0.5)
        band, plain = Band(sheet, 1), Band(sheet, 1)
        assert band.write(10).notes == plain.write(10).notes
        faster = dataclasses.replace(sheet, tempo=140, beat_offset=10 - 5.0 * 140 / 60)
        band.follow(faster, 5.0)
        one, other = band.write(20), plain.write(20)
        assert [n.midi for n in one.notes] == pytest.approx([n.midi for n in other.notes])
        assert max(abs(a.start - b.start) for a, b in zip(one.notes, other.notes)) < 0.03

    def test_a_clock_that_pulls_loses_and_repeats_nothing(self):
        sheet = chart(swing=0.5)
        plain = Band(sheet, 1).write(30)
        band, parts, rng = Band(sheet, 1), [], np.random.default_rng(0)
        offset, seconds = 0.0, 0.0
        while sheet.beat_at(seconds) + offset < 29:
            offset += float(rng.uniform(-0.02, 0.02))
            now = dataclasses.replace(sheet, beat_offset=offset)
            band.follow(now, seconds)
            seconds += 0.48
            parts.append(band.write(now.beat_at(seconds)))
        got = [n.midi for part in parts for n in part.only(["bass", "lead"]).notes]
        assert got == [n.midi for n in plain.only(["bass", "lead"]).notes][: len(got)] and len(got) > 20

    def test_a_band_and_a_mood_and_a_seed(self):
        band = Band(chart(), 1)
        band.write(5)
        for now, options in (
            (chart(instruments=("guitar", "bass", "brushes")), {}),
            (chart(mood="intense"), {}),
            (chart(), {"seed": 9}),
            (chart(), {"seed": 9, "parts": "free"}),
        ):
            band.follow(now, 2.5, **options)
            band = later(band)
            notes = [n for n in band.write(12).notes if n.start > 6.1]
            assert {n.player for n in notes} <= set(now.instruments) and bool(notes) != (band.parts == "free")
            band = Band(chart(), 1)
            band.write(5)

    def test_starts_anywhere(self):
        sheet = dataclasses.replace(chart(), beat_offset=6.5)
        score = Band(sheet, 1).write(10)
        assert 6.5 <= score.notes[0].start < 7.3
        assert of(Band(chart(), 1, seconds=60.0).write(124), "bass")


class TestFeatures:
    def test_tell_what_is_handed_out(self):
        sheet = chart()
        band, whole = Band(sheet, 1), Band(sheet, 1)
        score = whole.write(40)
        rows = []
        for start in range(0, 720, 36):
            rows.append(band.features(start, 36))
            band.write((start + 36) / 37.5)
        rows = np.concatenate(rows)
        assert rows.shape == (720, SCORE_DIM)
        struck = rows[:, SCORE_SLICES["bass_struck"]].max(axis=1)
        for note in of(score, "bass", 1, 18):
            assert struck[int(note.start * 37.5 + 0.5)] > 0.5

    def test_free_tells_nothing(self):
        rows = Band(chart(), 1, parts="free").features(0, 36)
        assert not rows[:, SCORE_SLICES["told"]].any() and rows[:, SCORE_SLICES["beats_per_bar"]].any()


class TestMelody:
    MELODY = Score(tuple(ScoreNote(float(b), 1.0, 60 + b, 80, "flute", "lead") for b in range(8)), told=("lead",))

    def lead(self, band, start, end):
        return [(n.start, n.midi) for n in of(band.write(end), "lead", start, end)]

    def test_once_a_pass_and_where_heads_come_back(self):
        sheet = chart(" | ".join([CHART] * 4))  # one pass of 64 beats, a form of 16
        written = [(float(b), 60 + b) for b in range(8)]
        assert self.lead(Band(sheet, 1, melody=self.MELODY), 0, 8) == written
        for pass_ in (1, 4):
            found = self.lead(Band(sheet, 1, melody=self.MELODY), 64 * pass_, 64 * pass_ + 8)
            assert found == [(beat + 64 * pass_, midi) for beat, midi in written]
        notes = of(Band(sheet, 1, melody=self.MELODY).write(64), "lead")
        assert {n.player for n in notes} == {"tenor_sax"}  # who leads the band
        assert any(n.start > 8.1 for n in notes)  # the band goes on
        assert self.lead(Band(sheet, 1, melody=self.MELODY), 16, 23.5) == [(b + 16, m) for b, m in written]

    def test_longer_than_the_form(self):
        band = Band(chart("Dm7"), 1, melody=self.MELODY)
        assert self.lead(band, 0, 16) == [(float(b), 60 + b % 8) for b in range(16)]

    def test_alone_where_the_rest_is_free(self):
        band = Band(chart(), 1, melody=self.MELODY, parts="free")
        assert band.told == ("lead",) and {n.role for n in band.write(16).notes} == {"lead"}

    def test_a_bass_line(self):
        line = Score((ScoreNote(0, 16, 40, 90, "bass", "bass"),))
        score = Band(chart(), 1, melody=line).write(16)
        assert [n.midi for n in of(score, "bass")] == [40] and of(score, "lead") and of(score, "comp")

    def test_joins_in_its_place(self):
        band = Band(chart(" | ".join([CHART] * 4)), 1)
        band.write(2.5)
        band.follow(band.sheet, 1.25, melody=self.MELODY)
        assert self.lead(later(band), 3, 8) == [(float(b), 60 + b) for b in range(3, 8)]
        band = Band(chart(), 1)
        band.write(9.5)  # over in this chorus: from its top at the next bar line
        band.follow(band.sheet, 4.75, melody=self.MELODY)
        assert [m for b, m in self.lead(band, 12, 20)] == list(range(60, 68))

    def test_a_pickup(self):
        notes = (ScoreNote(-1.0, 1.0, 59, 80, "flute", "lead"), *self.MELODY.notes)
        band = Band(chart(" | ".join([CHART] * 4)), 1, melody=Score(notes, told=("lead",)))
        assert (63.0, 59) in self.lead(band, 60, 64)

    def test_empty(self):
        with pytest.raises(ValueError, match="has no notes"):
            Band(chart(), 1, melody=Score())


class TestState:
    @pytest.mark.parametrize(
        "change", [{"seed": -1}, {"at": 0.0, "handed": 2.0**39}, {"pending": [[1, 2]]}, {"parts": "loud"},
                   {"pace": None}, {"at": None}, {"sheet": {}}, {"handed": float("nan")}, {"memory": {"bass": ["x"]}}],
    )  # fmt: skip
    def test_what_no_band_has_is_refused(self, change):
        band = Band(chart(), 1)
        band.write(3)
        with pytest.raises(ValueError, match="not the state of a band"):
            Band.from_state_dict({**band.state_dict(), **change})
