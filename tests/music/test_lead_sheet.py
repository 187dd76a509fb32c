"""The lead sheet: checks, time, changes, and storage."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtjazz_hf.band import random_lead_sheet, write_lead_sheet
from rtjazz_hf.music import FEATURE_SLICES, Chord, ChordSpan, LeadSheet, Section, parse_chart
from rtjazz_hf.music.grid import chart_grid
from rtjazz_hf.music.key_finding import estimate_key

sheets = st.integers(0, 2**32 - 1).map(lambda seed: random_lead_sheet(np.random.default_rng(seed)))
CHART = "Dm7 | G7 | Cmaj7 | %"


def sections(*items, instruments=("piano", "bass", "drums")):
    return tuple(Section(role, start, beats, instruments, "piano") for role, start, beats in items)


class TestChecks:
    @pytest.mark.parametrize(
        "change, message",
        [
            ({"tempo": 30}, "40 to 320"),
            ({"tempo": 321}, "40 to 320"),
            ({"tempo": float("nan")}, "40 to 320"),
            ({"beats_per_bar": 0}, "choose 3"),
            ({"beats_per_bar": 7}, "whole number of 7/4 bars"),
            ({"metres": ("3/4",) * 4}, "must end together"),
            ({"metres": ("5/5",) * 4}, "unsupported metre 5/5"),
            ({"metres": ("8/4", "8/4")}, "no bar of the sheet has 4 beats"),
            ({"swing": 1.2}, "0 .straight. to 1"),
            ({"key": "H"}, "unknown key 'H'"),
            ({"genre": "polka"}, "unknown genre 'polka'.*bossa"),
            ({"mood": "hungry"}, "unknown mood 'hungry'.*relaxed"),
            ({"spans": ()}, "at least one chord"),
            ({"beat_offset": float("inf")}, "beat_offset"),
            ({"beats_per_bar": 3}, "whole number of 3/4 bars"),
            ({"sections": ()}, "must end together"),
            ({"sections": sections(("head", 0, 8))}, "must end together"),
            ({"sections": sections(("head", 0, 8), ("solo", 9, 7))}, "follow one another"),
        ],
    )
    def test_wrong_fields_are_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(LeadSheet.from_chart(CHART), **change)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (("chorus", 0, 4, ("piano",), None), "unknown section role 'chorus'.*head_out"),
            (("head", 0, 4, ("kazoo",), None), "unknown instrument 'kazoo'"),
            (("head", 0, 4, ("piano",), "bass"), "'bass' does not play"),
            (("head", -1, 4, ("piano",), None), "section start"),
            (("head", 0, 0, ("piano",), None), "positive number of beats"),
        ],
    )
    def test_wrong_sections_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Section(*arguments)

    def test_from_chart_fills_in_what_is_left_open(self):
        sheet = LeadSheet.from_chart(
            "3/4 Gm7 | C7 | Fmaj7 | %", tempo=150, instruments=["flute", "bass", "piano"]
        )
        assert (sheet.key, sheet.beats_per_bar, sheet.num_bars, sheet.num_beats) == ("F", 3, 4, 12)
        assert sheet.sections == (Section("head", 0.0, 12.0, ("piano", "bass", "flute"), "flute"),)
        assert sheet.duration == pytest.approx(12 * 60 / 150) and sheet.loops
        assert 0.5 < sheet.offbeat < 2 / 3
        with pytest.raises(ValueError, match="unknown instrument 'kazoo'"):
            LeadSheet.from_chart(CHART, instruments=["kazoo"])

    @pytest.mark.parametrize(
        "chart, key",
        [
            (CHART, "C"),
            ("Em7b5 | A7b9 | Dm6 | %", "Dm"),
            ("F7 | Bb7 | F7 | Gm7 C7", "F"),
            ("Cm7 | % | Fm7 | Cm7", "Cm"),
            ("Abmaj7 | Bbm7 Eb7 | Abmaj7 | Bbm7 Eb7", "Ab"),
            ("N.C.", "C"),
        ],
    )
    def test_the_key_is_found(self, chart, key):
        assert estimate_key(parse_chart(chart).spans) == key


class TestTime:
    def test_positions(self):
        sheet = LeadSheet.from_chart(CHART, tempo=120)
        assert (sheet.position(0).bar, sheet.position(0).beat, sheet.position(0).chord.symbol) == (
            1,
            1.0,
            "Dm7",
        )
        later = sheet.position(2.75)
        assert (later.bar, later.beat, later.chord.symbol) == (2, pytest.approx(2.5), "G7")
        again = sheet.position(8.0)
        assert (again.bar, again.beat, again.chord.symbol, again.section.role) == (5, 1.0, "Dm7", "head")

    def test_before_the_start_and_after_the_end_nobody_plays(self):
        sheet = dataclasses.replace(LeadSheet.from_chart(CHART, tempo=120, loops=False), beat_offset=-4.0)
        assert sheet.position(0.0).chord.is_no_chord and sheet.position(0.0).section is None
        assert sheet.position(0.0).bar == 0 and sheet.position(2.0).bar == 1
        assert sheet.position(10.0).chord.is_no_chord and sheet.position(9.9).chord.symbol == "Cmaj7"
        assert [round(t, 6) for t in sheet.beat_times(0.0, 20.0)] == [2.0 + 0.5 * beat for beat in range(16)]
        ends = [
            (round(t0, 6), round(t1, 6), chord.symbol) for t0, t1, chord in sheet.chord_segments(0.0, 12.0)
        ]
        assert ends == [(0, 2, "N.C."), (2, 4, "Dm7"), (4, 6, "G7"), (6, 10, "Cmaj7"), (10, 12, "N.C.")]

    @given(sheets, st.floats(0, 300), st.floats(0.1, 60))
    def test_segments_cover_the_stretch_and_agree_with_positions(self, sheet, start, duration):
        segments = sheet.chord_segments(start, duration)
        assert segments[0][0] == pytest.approx(start) and segments[-1][1] == pytest.approx(start + duration)
        for (_, end, chord), (begin, _, following) in pairwise(segments):
            assert end == begin and chord != following
        for t0, t1, chord in segments:
            if t1 - t0 > 1e-6:
                assert sheet.position((t0 + t1) / 2).chord == chord

    @given(sheets, st.floats(0, 300), st.floats(0, 30))
    def test_beat_times_are_whole_beats_inside(self, sheet, start, duration):
        times = sheet.beat_times(start, duration)
        beats = np.array([sheet.beat_at(time) for time in times])
        np.testing.assert_allclose(beats, np.round(beats), atol=1e-6)
        assert np.all(np.diff(beats) > 0.5)
        assert np.all((times >= start - 1e-6) & (times < start + duration + 1e-6))

    @given(sheets, st.floats(0, 1000))
    def test_time_of_is_the_inverse_of_beat_at(self, sheet, seconds):
        assert sheet.time_of(sheet.beat_at(seconds)) == pytest.approx(seconds, abs=1e-6)


class TestChanges:
    @given(sheets, st.integers(-24, 24), st.integers(-24, 24))
    def test_rotation_is_a_group_action(self, sheet, first, second):
        assert sheet.rotated(0) == sheet == sheet.rotated(12)
        assert sheet.rotated(first).rotated(second) == sheet.rotated(first + second)
        turned = sheet.rotated(first)
        assert [span.chord.root for span in turned.spans] == [
            None if span.chord.root is None else (span.chord.root + first) % 12 for span in sheet.spans
        ]

    def test_music_minus_one(self):
        sheet = LeadSheet.from_chart(CHART, instruments=["piano", "bass", "drums", "trumpet"])
        without = sheet.without("trumpet")
        assert without.instruments == ("piano", "bass", "drums")
        assert without.sections[0].lead is None and sheet.sections[0].lead == "trumpet"
        assert sheet.without("vibes") == sheet
        with pytest.raises(ValueError, match="kazoo"):
            sheet.without("kazoo")

    def test_another_tempo_takes_its_swing_along_unless_it_was_chosen(self):
        sheet = LeadSheet.from_chart(CHART, tempo=120)
        assert sheet.with_tempo(280).swing < sheet.swing
        assert LeadSheet.from_chart(CHART, tempo=120, swing=0.5).with_tempo(280).swing == 0.5
        with pytest.raises(ValueError, match="40 to 320"):
            sheet.with_tempo(400)


class TestStorage:
    @given(sheets)
    def test_a_dictionary_in_json_comes_back_equal(self, sheet):
        again = LeadSheet.from_dict(json.loads(json.dumps(sheet.to_dict())))
        assert again == sheet
        assert [span.chord.symbol for span in again.spans] == [span.chord.symbol for span in sheet.spans]

    @given(sheets)
    def test_the_text_reads_back_to_the_same_chords(self, sheet):
        again = LeadSheet.from_chart(sheet.to_text(), tempo=sheet.tempo, genre=sheet.genre)
        assert again.beats_per_bar == sheet.beats_per_bar and again.num_beats == sheet.num_beats
        for (a0, a1, chord), (b0, b1, other) in zip(
            again.chord_segments(0, sheet.duration), sheet.chord_segments(0, sheet.duration), strict=True
        ):
            assert chord == other and (a0, a1) == pytest.approx((b0, b1))

    @pytest.mark.parametrize("entry", ["chords", "tempo", "sections", "key"])
    def test_a_missing_entry_is_named(self, entry):
        data = LeadSheet.from_chart(CHART).to_dict()
        del data[entry]
        with pytest.raises(ValueError, match=entry):
            LeadSheet.from_dict(data)

    def test_an_unknown_entry_is_named(self):
        with pytest.raises(ValueError, match="colour"):
            LeadSheet.from_dict({**LeadSheet.from_chart(CHART).to_dict(), "colour": "blue"})

    def test_sheets_are_values(self):
        one, two = LeadSheet.from_chart(CHART), LeadSheet.from_chart("Dm7|G7|CΔ|CM7")
        assert one == two and hash(one) == hash(two)
        assert isinstance(one.spans[0], ChordSpan) and one.spans[0].chord == Chord.parse("D-7")


def test_another_band_plays_the_same_chart():
    sheet = LeadSheet.from_chart("Dm7 | G7 | Cmaj7 | %", 120)
    other = sheet.with_band(["bass", "vibes"])
    assert other.instruments == sheet.with_band(("vibraphone", "bass")).instruments
    assert set(other.instruments) == {"vibraphone", "bass"} and other.spans == sheet.spans
    assert {section.lead for section in other.sections} == {"vibraphone"}
    with pytest.raises(ValueError, match="band is empty"):
        sheet.with_band([])


METRES = ["2/4", "3/4", "4/4", "5/4", "5/4(2+3)", "6/4", "7/4", "3/8", "6/8", "9/8", "12/8", "2/2", "7/8"]
mixed = st.lists(st.sampled_from(METRES), min_size=1, max_size=7).map(
    lambda metres: LeadSheet.from_chart(" | ".join(f"{metre} C" for metre in metres), tempo=97)
)


class TestMetres:
    @given(mixed, st.integers(-9, 40), st.floats(0, 0.999))
    def test_bars_and_beats_are_each_others_inverse(self, sheet, bar, share):
        beat = sheet.bar_start(bar) + share * sheet.metre_of(bar).beats
        found, within = sheet.bar_at(beat + 1e-9)
        assert found == bar and within == pytest.approx(share * sheet.metre_of(bar).beats, abs=1e-6)
        assert sheet.bar_start(bar + 1) - sheet.bar_start(bar) == pytest.approx(sheet.metre_of(bar).beats)

    @given(mixed, st.integers(0, 240).map(lambda at: at / 4 + 0.01), st.integers(1, 80).map(lambda at: at / 4))
    def test_clicks_mark_every_bar(self, sheet, first, beats):
        clicks = sheet.clicks(first, first + beats)
        assert [at for at, _ in clicks] == sorted(at for at, _ in clicks)
        for at, downbeat in clicks:
            assert downbeat == (sheet.bar_at(at + 1e-9)[1] < 1e-6)
        whole = [sheet.bar_start(bar) for bar in range(200) if first <= sheet.bar_start(bar) < first + beats - 1e-6]
        assert [at for at, downbeat in clicks if downbeat] == pytest.approx(whole)

    @given(mixed, st.integers(-12, 12))
    def test_text_storage_and_rotation_keep_them(self, sheet, semitones):
        assert LeadSheet.from_dict(json.loads(json.dumps(sheet.to_dict()))) == sheet
        again = LeadSheet.from_chart(sheet.to_text(), tempo=97)
        assert (again.num_beats, again.num_bars) == (sheet.num_beats, sheet.num_bars)
        assert [again.metre_of(bar) for bar in range(9)] == [sheet.metre_of(bar) for bar in range(9)]
        assert sheet.rotated(semitones).metres == sheet.metres

    @given(mixed, st.integers(0, 4000))
    def test_features_are_such_as_a_model_of_three_and_four_beats_knows(self, sheet, start):
        features = sheet.features(start, 150)
        assert np.isfinite(features).all() and (features[:, FEATURE_SLICES["beat_in_bar"]].sum(axis=1) == 1).all()
        waltz = features[:, FEATURE_SLICES["waltz"].start] == 1.0
        assert not features[waltz, FEATURE_SLICES["beat_in_bar"].start + 3].any()
        np.testing.assert_array_equal(features[50:], sheet.features(start + 50, 100))

    def test_five_is_three_and_two_and_twelve_eighths_are_four_swung_beats(self):
        five = LeadSheet.from_chart("5/4 C", tempo=60).features(0, 375)
        places = five[::75, FEATURE_SLICES["beat_in_bar"]].argmax(axis=1)
        assert list(places) == [0, 1, 2, 0, 1]
        assert list(five[::75, FEATURE_SLICES["waltz"].start]) == [1, 1, 1, 0, 0]
        twelve = LeadSheet.from_chart("12/8 C", tempo=180).features(0, 600)
        four = LeadSheet.from_chart("4/4 C", tempo=120, swing=1.0).features(0, 600)
        for name in ("beat_phase", "beat_in_bar", "bar_phase", "tempo", "swing", "beat_pulse", "offbeat_pulse"):
            np.testing.assert_allclose(
                twelve[:, FEATURE_SLICES[name]], four[:, FEATURE_SLICES[name]], atol=1e-4, err_msg=name
            )

    def test_positions(self):
        sheet = LeadSheet.from_chart("4/4 C | 2/4 F | 6/8 G", tempo=60)
        assert [(sheet.position(t).bar, round(sheet.position(t).beat, 3)) for t in (0, 5, 6.5, 9, 13.5)] == [
            (1, 1), (2, 2), (3, 1.5), (4, 1), (5, 1.5),
        ]  # fmt: skip
        assert list(sheet.beat_times(0, 9)) == pytest.approx([0, 1, 2, 3, 4, 5, 6, 7.5])

    def test_rests_and_breaks_silence_the_band(self):
        sheet = LeadSheet.from_chart("C | N.C. | (break) F | G", tempo=240)  # a bar a second
        features = sheet.features(0, 300)
        playing = features[:, FEATURE_SLICES["instruments"]].sum(axis=1)
        assert list(playing[[10, 85, 160, 235]]) == [3, 0, 1, 3]
        assert sheet.without("piano").spans == sheet.spans
        assert features[85, FEATURE_SLICES["lead"]].sum() == 0 and features[160, FEATURE_SLICES["lead"]].sum() == 1

    @pytest.mark.parametrize("duration", [None, 7.0, 20.0])
    @pytest.mark.parametrize(
        "chart", ["5/4 Am7 D7 | %", "4/4 C | 2/4 F | 6/8 G | 12/8 A7", "7/4 Dm7 | Em7", "3/8 C | G7"]
    )
    def test_the_band_leader_lays_out_any_metre(self, chart, duration):
        sheet = write_lead_sheet("swing quartet", chords=chart, duration=duration, seed=3)
        assert sheet.sections[-1].end_beat == pytest.approx(sheet.num_beats)
        lines = set(np.round(sheet.bar_lines, 6))
        assert all(round(section.start_beat, 6) in lines for section in sheet.sections)
        if duration is not None:
            assert sheet.duration >= duration - 1e-6
        assert write_lead_sheet("jazz in 5/4", duration=duration).beats_per_bar == 5

    def test_what_stands_above_the_chart_is_played_unless_something_else_is_asked(self):
        chart = "title: Mine\nkey: Eb\ntempo: 77\nstyle: bossa nova\nswing: 0.25\nCm7 | F7"
        sheet = write_lead_sheet("", chords=chart)
        assert (sheet.title, sheet.key, sheet.tempo, sheet.genre, sheet.swing) == ("Mine", "Eb", 77, "bossa", 0.25)
        other = write_lead_sheet("hard bop at 180 bpm", chords=chart, key="Cm")
        assert (other.key, other.tempo, other.genre) == ("Cm", 180, "hard_bop")
        assert write_lead_sheet("waltz", chords="C | F").beats_per_bar == 3
        assert write_lead_sheet("", chords="3/4 C | F").genre == "waltz"


class TestGrid:
    def test_bars_until_they_come_again(self):
        sheet = LeadSheet.from_chart("Dm7 | G7 Db7 | Cmaj7 | %", tempo=120)
        assert chart_grid(sheet) == [["Dm7"], ["G7", "Db7"], ["Cmaj7"], ["Cmaj7"]]
        assert chart_grid(LeadSheet.from_chart("C | F | C | F", tempo=120)) == [["C"], ["F"]]
        assert chart_grid(LeadSheet.from_chart("5/4 C | F | C", tempo=120)) == [["C"], ["F"], ["C"]]
