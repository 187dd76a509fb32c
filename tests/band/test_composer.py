import dataclasses
import itertools

import numpy as np
import pytest

from rtjazz_hf.band import random_lead_sheet
from rtjazz_hf.band.composer import MAX_LEAD_IN_S, compose
from rtjazz_hf.band.harmony import chord_scale, guide_tones, place_voicing, voicing_tones
from rtjazz_hf.band.melody import RANGES, WIND
from rtjazz_hf.music import GENRES, Chord, LeadSheet
from rtjazz_hf.music.vocabulary import CHORD_INSTRUMENTS, KITS

CHORDS = ("Cmaj7", "Dm7", "G7", "Bm7b5", "C#dim7", "F6", "Am6", "G7alt", "E7b9", "Bb7#11",
          "Dm(maj7)", "C7sus4", "A13", "Fm", "G", "Caug", "C/E", "D7b9#9")  # fmt: skip


def sheet_of(genre, seed=0):
    return random_lead_sheet(np.random.default_rng(seed), genre)


@pytest.fixture(scope="module", params=GENRES)
def take(request):
    return compose(sheet_of(request.param, 3), np.random.default_rng(4))


class TestHarmony:
    @pytest.mark.parametrize("symbol", CHORDS)
    def test_scale_holds_the_chord(self, symbol):
        chord = Chord.parse(symbol)
        assert set(chord.pitch_classes) <= set(chord_scale(chord))

    @pytest.mark.parametrize("symbol", CHORDS)
    @pytest.mark.parametrize("kind", ["shell", "rootless", "rooted", "full"])
    def test_voicing_tells_the_chord_and_stays_in_reach(self, symbol, kind):
        chord = Chord.parse(symbol)
        tones = voicing_tones(chord, kind)
        assert set(guide_tones(chord)) <= set(tones)
        keys = place_voicing(tones, 50, 76)
        assert {key % 12 for key in keys} == set(tones) and list(keys) == sorted(keys)
        assert keys[0] >= 50 and keys[-1] <= 76

    def test_voices_move_little(self):
        previous = place_voicing(voicing_tones(Chord.parse("Dm7"), "full"), 50, 76)
        following = place_voicing(voicing_tones(Chord.parse("G7"), "full"), 50, 76, previous)
        assert np.mean([min(abs(key - old) for old in previous) for key in following]) <= 2.5

    def test_no_chord_has_no_scale(self):
        assert chord_scale(Chord.no_chord()) == ()


class TestTake:
    def test_same_state_same_take(self):
        sheet = sheet_of("swing")
        one, two = (compose(sheet, np.random.default_rng(7)) for _ in range(2))
        assert one == two
        assert compose(sheet, np.random.default_rng(8)).notes != one.notes

    def test_time_zero_is_exact(self, take):
        sheet = take.lead_sheet
        lead_in = sheet.time_of(0.0)
        assert 0.0 <= lead_in <= MAX_LEAD_IN_S
        assert take.duration_s == pytest.approx(lead_in + sheet.duration)

    def test_notes_are_playable(self, take):
        for name, notes in take.notes.items():
            starts = [note.start_s for note in notes]
            assert starts == sorted(starts)
            for note in notes:
                assert 0 <= note.start_s < note.start_s + note.duration_s <= take.duration_s + 1e-6
                assert 1 <= note.velocity <= 127 and 21 <= note.midi <= 108, name

    def test_everybody_plays_where_named_and_nobody_elsewhere(self, take):
        sheet = take.lead_sheet
        assert set(take.notes) == set(sheet.instruments)
        for section in sheet.sections:
            start, end = sheet.time_of(section.start_beat), sheet.time_of(section.end_beat)
            for name, notes in take.notes.items():
                here = [note for note in notes if start - 0.05 <= note.start_s < end - 0.1]
                inside = [note for note in here if note.start_s > start + 0.1]
                assert bool(here) if name in section.instruments else not inside, (name, section)

    def test_bass_has_the_bass_note_on_every_change(self, take):
        """Struck there, or held over the bar line by a tumbao."""
        sheet, found, asked = take.lead_sheet, 0, 0
        starts = np.array([note.start_s for note in take.notes["bass"]])
        ends = starts + [note.duration_s for note in take.notes["bass"]]
        early = 1.1 * 60 / sheet.tempo if sheet.genre == "mambo" else 0.0
        for start, _, chord in sheet.chord_segments(0.0, take.duration_s):
            section = sheet.position(start + 0.01).section
            if chord.root is None or section is None or section.lead == "bass":
                continue
            held = (starts < start) & (start - starts < early) & (ends > start)
            near = np.flatnonzero((np.abs(starts - start) < 0.06) | held)
            asked += 1
            found += any(take.notes["bass"][index].midi % 12 == chord.bass for index in near)
        assert found == asked

    def test_comping_states_the_chord(self, take):
        """Of what chord players sound inside a chord, most is chord tones."""
        sheet = take.lead_sheet
        leads = {section.lead for section in sheet.sections}
        inside = total = 0.0
        for name in set(take.notes) & set(CHORD_INSTRUMENTS) - leads:
            for note in take.notes[name]:
                middle = note.start_s + note.duration_s / 2
                chord = sheet.position(middle).chord
                total += note.duration_s
                inside += note.duration_s * (note.midi % 12 in chord.pitch_classes)
        if total:
            assert inside / total > 0.75

    def test_winds_play_one_note_at_a_time_in_range(self, take):
        for name in set(take.notes) & set(WIND):
            low, high = RANGES[name]
            notes = take.notes[name]
            assert all(low - 1 <= note.midi <= high + 1 for note in notes)
            overlaps = [b.start_s - (a.start_s + a.duration_s) for a, b in itertools.pairwise(notes)]
            assert min(overlaps, default=0.0) > -0.06

    def test_dynamics_vary(self, take):
        for name in set(take.notes) & set(KITS):
            assert np.std([note.velocity for note in take.notes[name]]) > 4


class TestSwing:
    def offbeat(self, swing):
        """Where the ride's off-beats fall in the beat, by the median."""
        chart = " | ".join(["Dm7 | G7 | Cmaj7 | A7"] * 4)
        sheet = LeadSheet.from_chart(chart, tempo=120, swing=swing, instruments=("bass", "drums"))
        take = compose(sheet, np.random.default_rng(1))
        ride = [note.start_s for note in take.notes["drums"] if note.midi in (51, 59, 42)]
        parts = np.array([take.lead_sheet.beat_at(start) for start in ride]) % 1
        return np.median(parts[(parts > 0.35) & (parts < 0.8)])

    def test_off_beats_follow_the_sheet(self):
        assert self.offbeat(0.0) == pytest.approx(0.5, abs=0.05)
        assert self.offbeat(1.0) == pytest.approx(2 / 3, abs=0.05)


class TestEdges:
    @pytest.mark.parametrize("band", ["piano", "guitar bass", "bass", "drums", "tenor_sax bass",
                                      "synth_pad bass drums", "alto_sax trumpet trombone drums"])  # fmt: skip
    def test_any_band(self, band):
        band = band.split()
        sheet = LeadSheet.from_chart("Dm7 / G7 / | Cmaj7 | N.C. | Bm7b5 E7b9", instruments=band)
        take = compose(sheet, np.random.default_rng(0))
        assert set(take.notes) <= set(band)

    def test_uneven_chords_and_waltz_in_any_genre(self):
        for genre in GENRES:
            for chart in ("3/4 Cmaj7 | Am7 D7 | G6 | %", "Dm7 / / G7 | C6 Db7 C6 A7 | Dm7"):
                sheet = LeadSheet.from_chart(
                    chart, genre=genre, tempo=300, instruments=("piano", "bass", "brushes")
                )
                assert compose(sheet, np.random.default_rng(0)).notes["bass"]

    def test_beat_offset_of_the_input_is_replaced(self):
        sheet = dataclasses.replace(LeadSheet.from_chart("C6 | G7"), beat_offset=17.0)
        assert compose(sheet, np.random.default_rng(0)).lead_sheet.beat_offset <= 0.0
