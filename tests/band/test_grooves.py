"""What each groove plays: patterns in their place in every metre, as a player of the style would have them."""

import numpy as np
import pytest

from rtjazz_hf.band import write_lead_sheet
from rtjazz_hf.band.composer import compose
from rtjazz_hf.band.ensemble import Band
from rtjazz_hf.band.grooves import BELL, GROOVES, HIGH_TOM, KICK, LOW_TOM, SIDE_STICK, SNARE, feel_of
from rtjazz_hf.music import GROOVE_GENRES, LeadSheet
from rtjazz_hf.music.vocabulary import KITS

SON = {(0, 0.0), (0, 1.5), (0, 3.0), (1, 1.0), (1, 2.0)}  # bar of two, quarter notes
ALL = [(genre, groove) for genre, some in GROOVES.items() for _, groove in some]
NAMES = [f"{genre}-{number}" for number, (genre, _) in enumerate(ALL)]


def take_of(genre, chart="Dm7 | G7 | Cmaj7 | A7", tempo=200, band="tenor_sax piano bass drums", seed=0, turns=4):
    sheet = LeadSheet.from_chart(" | ".join([chart] * turns), genre=genre, tempo=tempo, instruments=band.split())
    take = compose(sheet, np.random.default_rng(seed))
    return take.lead_sheet, take


def places(take, player, drum=None, grid=2):
    """(beat, note) of a player's notes, to the nearest of `grid` parts of a beat."""
    found = []
    for note in take.notes[player]:
        if drum is None or note.midi == drum:
            found.append((round(take.lead_sheet.beat_at(note.start_s) * grid) / grid, note))
    return found


class TestPatterns:
    def test_every_groove_genre_has_one(self):
        assert set(GROOVES) == set(GROOVE_GENRES)

    @pytest.mark.parametrize("genre, groove", ALL, ids=NAMES)
    def test_rows_are_whole_cycles_of_known_marks(self, genre, groove):
        cycle = 12 if groove.in_three else 16
        lines = [line.row for lines in groove.drums for line in lines]
        rows = (*lines, *groove.bass, *groove.comp, *groove.motifs, *filter(None, (groove.riff,)))
        assert all(len(row) % cycle == 0 for row in rows)
        assert all(set(row) <= set("Xxo?~.") for row in lines)
        assert all(set(row) <= set("R35678r/.") for row in groove.bass)
        assert all(set(row) <= set("Xxoi8-.") for row in groove.comp)
        assert all(set(row) <= set("x-.") for row in (*groove.motifs, groove.riff))

    @pytest.mark.parametrize("genre", GROOVE_GENRES)
    @pytest.mark.parametrize("metre", ["4/4", "3/4", "12/8", "6/8", "5/4", "7/4", "2/4", "9/8", "7/8"])
    def test_every_groove_takes_every_metre(self, genre, metre):
        _, take = take_of(genre, f"{metre} Dm7 | G7 | Cmaj7 | A7")
        assert all(take.notes[name] for name in ("piano", "bass", "drums"))
        starts = [round(note.start_s, 4) for note in take.notes["bass"]]
        assert len(starts) == len(set(starts))


class TestClave:
    @pytest.mark.parametrize("seed", range(4))
    def test_the_head_is_on_one_side_of_the_clave_throughout(self, seed):
        sheet, take = take_of("mambo", seed=seed)
        head = sheet.sections[0].end_beat
        sticks = [beat for beat, _ in places(take, "drums", SIDE_STICK) if beat < min(head, 12)]
        struck = [(int(beat // 4) % 2, beat % 4) for beat in sticks]
        other = {(1 - bar, beat) for bar, beat in SON}
        assert set(struck) in (SON, other) and len(struck) >= 5

    def test_both_directions_are_played(self):
        sheet = LeadSheet.from_chart("Dm7 | G7", genre="mambo", tempo=200)
        turned = {feel_of(sheet, np.random.default_rng(seed)).turned for seed in range(12)}
        assert turned == {True, False}

    def test_tumbao_leaves_the_one_and_plays_the_coming_chord(self):
        sheet, take = take_of("mambo", "Dm7 | G7 | Cmaj7 | A7")
        bass = [(beat, note) for beat, note in places(take, "bass") if 4 <= beat < sheet.sections[0].end_beat - 4]
        assert {beat % 4 for beat, _ in bass} == {1.5, 3.0}
        for beat, note in bass:
            if beat % 4 == 3.0:
                following = sheet.spans[int(beat // 4 + 1) % len(sheet.spans)].chord
                assert note.midi % 12 == following.bass
                assert sheet.beat_at(note.start_s + note.duration_s) > beat + 1.9  # held over the bar line

    def test_montuno_is_octaves_and_inner_voices(self):
        _, take = take_of("mambo")
        piano = {}
        for beat, note in places(take, "piano"):
            if 4 <= beat < 12:
                piano.setdefault(beat, []).append(note.midi)
        octaves = [keys for keys in piano.values() if len(keys) == 2 and max(keys) - min(keys) == 12]
        assert len(octaves) >= 4 and sum(beat % 1 == 0.5 for beat in piano) > len(piano) / 2


class TestSamba:
    def test_the_surdo_is_strong_on_the_second_beat(self):
        _, take = take_of("samba")
        loud = {}
        for beat, note in places(take, "drums", KICK):
            loud.setdefault(beat % 4, []).append(note.velocity)
        assert np.mean(loud[2.0]) > np.mean(loud[0.0]) + 6
        assert all(beat % 4 == 2.0 for beat, _ in places(take, "drums", LOW_TOM)[:4])

    def test_at_half_the_tempo_it_is_in_sixteenths(self):
        """The same samba, written in 4/4 at 220 and in 2/4 at 110."""
        fast, slow = (take_of("samba", chart, tempo)[1] for chart, tempo in (("C | F", 220), ("2/4 C | F", 110)))
        gaps = [
            np.diff(sorted(note.start_s for _, note in places(take, "drums", KICK)[:16])).min() for take in (fast, slow)
        ]
        assert gaps[0] == pytest.approx(gaps[1], rel=0.35)


class TestAfro:
    BELL_PULSES = {0, 2, 4, 5, 7, 9, 11}

    @pytest.mark.parametrize(
        "metre, step, bars", [("12/8", 0.5, 1), ("6/8", 0.5, 2), ("3/4", 0.5, 2), ("4/4", 1 / 3, 1)]
    )
    def test_the_bell_is_the_same_in_every_metre(self, metre, step, bars):
        sheet, take = take_of("afro", f"{metre} Dm7 | Em7", tempo=140, turns=8)
        length = bars * sheet.metre_of(0).beats
        rung = [beat for beat, _ in places(take, "drums", BELL, grid=6) if beat < length - 0.1]
        assert {round(beat / step) for beat in rung} == self.BELL_PULSES

    def test_a_prompt_writes_a_tune_in_twelve(self):
        assert str(write_lead_sheet("afro groove", seed=1).metre_of(0)) == "12/8"
        assert str(write_lead_sheet("afro 6/8", seed=1).metre_of(0)) == "6/8"


class TestOthers:
    def test_gypsy_swing_has_no_kit_and_la_pompe(self):
        sheet = write_lead_sheet("gypsy swing", seed=2, duration=20)
        assert not set(KITS) & set(sheet.instruments) and "guitar" in sheet.instruments
        assert all(section.lead != "guitar" for section in sheet.sections)
        take = compose(sheet, np.random.default_rng(0))
        lengths = {0: [], 1: []}
        for note in take.notes["guitar"]:
            beat = round(take.lead_sheet.beat_at(note.start_s) * 2) / 2
            if beat % 1 == 0 and beat < sheet.num_beats - 12:
                lengths[int(beat) % 2].append(note.velocity)
        assert np.mean(lengths[1]) > np.mean(lengths[0]) + 4  # two and four are the accents

    def test_second_line_has_the_big_four(self):
        _, take = take_of("second_line", seed=1)
        kick = [(beat % 8, note.velocity) for beat, note in places(take, "drums", KICK) if beat < 12]
        assert max(kick, key=lambda each: each[1])[0] == 7.0  # the fourth beat of the second bar
        snare = [beat for beat, _ in places(take, "drums", SNARE) if beat < 8]
        assert len(snare) >= 16

    def test_funk_has_its_backbeat_in_either_pulse(self):
        for tempo in (96, 168):
            _, take = take_of("funk", tempo=tempo)
            loud = [beat % 4 for beat, note in places(take, "drums", SNARE, grid=4) if beat < 12 and note.velocity > 68]
            assert {1.0, 3.0} & set(loud) and np.mean([beat in (1.0, 3.0) for beat in loud]) > 0.5

    def test_shuffle_shuffles(self):
        sheet, take = take_of("shuffle", tempo=120, band="organ bass drums")
        offbeats = np.array([sheet.beat_at(note.start_s) for note in take.notes["drums"] if note.midi in (42, 51)]) % 1
        assert np.median(offbeats[(offbeats > 0.4) & (offbeats < 0.9)]) == pytest.approx(2 / 3, abs=0.04)

    def test_even_eighths_are_even_and_leave_room(self):
        sheet, take = take_of("even_eighths", tempo=120)
        assert sheet.swing == 0.0
        assert len(take.notes["bass"]) < sheet.num_beats

    def test_fast_waltz_is_felt_in_one(self):
        sheet = write_lead_sheet("fast waltz", seed=1, duration=12)
        take = compose(sheet, np.random.default_rng(1))
        assert sheet.genre == "fast_waltz" and sheet.beats_per_bar == 3 and sheet.tempo > 180
        kicks = [beat % 3 for beat, _ in places(take, "drums", KICK) if beat < 24]
        assert kicks.count(0.0) >= len(kicks) / 2

    @pytest.mark.parametrize("genre", GROOVE_GENRES)
    def test_the_live_band_writes_the_same_however_it_is_asked(self, genre):
        sheet = write_lead_sheet(genre.replace("_", " "), chords="Dm7 | G7 | Cmaj7 | A7", seed=3, tempo=180)
        whole = Band(sheet, 4).write(24.0)
        band = Band(sheet, 4)
        parts = [note for until in (3.0, 9.5, 10.0, 24.0) for note in band.write(until).notes]
        assert sorted(whole.notes, key=repr) == sorted(parts, key=repr) and whole.notes

    def test_toms_of_a_montuno_answer_on_four(self):
        _, take = take_of("mambo")
        assert {beat % 4 for beat, _ in places(take, "drums", HIGH_TOM) if beat < 8} <= {3.0, 3.5}
