"""Charts made into something to practise: lines above a chart, and players who rest by the clock."""

import pytest

from rtjazz_hf.band import write_lead_sheet
from rtjazz_hf.band.ensemble import Band
from rtjazz_hf.music import LeadSheet, parse_chart
from rtjazz_hf.music.practice import Rest, lines_above, rests_of

CHART = "Dm7 | G7 | Cmaj7 | A7"


class TestLines:
    def test_bars_then_key_then_all_keys(self):
        chart = parse_chart(f"only bars: 1-2\ntranspose: +2\nall keys: semitones\nkey: C\n{CHART}")
        assert len(chart.bars) == 24 and [str(span.chord) for span in chart.spans[:4]] == ["Em7", "A7", "Fm7", "Bb7"]
        assert parse_chart(chart.to_text()).bars == chart.bars

    def test_a_key(self):
        assert parse_chart(f"key: C\ntranspose: Bb\n{CHART}").key == "Bb"

    def test_lines_take_the_place_of_the_charts_own(self):
        wishes = {"swing": "0.2", "rests": "", "transpose": None}
        chart = parse_chart(lines_above("My tune\nswing: 0.8\nrests: bass/2\n" + CHART, wishes))
        assert (chart.title, chart.swing, str(chart.rests[0])) == ("My tune", 0.2, "bass/2")
        assert lines_above(CHART, {}) == CHART

    @pytest.mark.parametrize(
        "line, problem",
        [("only bars: 3-9", "bars 3-9: the chart has bars 1 to 4"), ("only bars: some", "write it as 9-16"),
         ("transpose: up", "semitones from -12"), ("all keys: sideways", "fourths, semitones"),
         ("rests: piano", "piano/2"), ("rests: kazoo/2", "unknown instrument"), ("rests: piano/1", "1 or more"),
         ("rests: drums:4+0", "1 or more")],
    )  # fmt: skip
    def test_what_cannot_be_is_said(self, line, problem):
        with pytest.raises(ValueError, match=problem):
            parse_chart(f"{line}\n{CHART}")


class TestRests:
    @pytest.mark.parametrize(
        "text, rests",
        [("piano/2", (Rest("piano", 1),)), ("piano/3, drums:4+2", (Rest("piano", 2), Rest("drums", 4, 2, "bars"))),
         ("piano out every second chorus", (Rest("piano", 1),)), ("vibes every 4th chorus", (Rest("vibraphone", 3),)),
         ("tenor sax rests every other chorus", (Rest("tenor_sax", 1),))],
    )  # fmt: skip
    def test_written_in_several_ways(self, text, rests):
        assert rests_of(text) == rests
        assert rests_of(", ".join(map(str, rests))) == rests

    def test_they_stay_with_a_chart(self):
        chart = parse_chart(f"rests: piano/2\n{CHART}")
        assert parse_chart(chart.to_text()).rests == chart.rests == (Rest("piano", 1),)

    def out(self, sheet, name, bars):
        return [
            name not in sheet.position(sheet.time_of(sheet.bar_start(bar) + 0.5)).section.instruments for bar in bars
        ]

    def test_every_second_chorus_of_a_sheet_that_loops(self):
        sheet = LeadSheet.from_chart(f"rests: piano/2\n{CHART}")
        assert sheet.num_bars == 8
        assert self.out(sheet, "piano", range(16)) == ([False] * 4 + [True] * 4) * 2
        assert not any(self.out(sheet, "bass", range(16)))

    def test_the_band_leader_lays_it_over_the_form(self):
        sheet = write_lead_sheet("swing trio", chords=f"rests: piano every third chorus, drums:2+1\n{CHART}", seed=1)
        assert sheet.num_bars % 12 == 0
        assert self.out(sheet, "piano", range(24)) == ([False] * 8 + [True] * 4) * 2
        assert self.out(sheet, "drums", range(9)) == [False, False, True] * 3

    def test_nobody_who_rests_is_told_notes_or_leads(self):
        sheet = write_lead_sheet("piano trio", chords=f"rests: piano/2\ntempo: 200\n{CHART}", seed=1)
        assert all(section.lead in (*section.instruments, None) for section in sheet.sections)
        notes = [note for note in Band(sheet, 1).write(32.0).notes if note.player == "piano"]
        assert notes and not any(16.1 < note.start < 31.4 for note in notes)

    def test_more_than_a_chart_may_have_begins_anew_with_each_pass(self):
        chart = " | ".join(["Dm7"] * 100)
        sheet = LeadSheet.from_chart(f"rests: piano/9\n{chart}")
        assert sheet.num_bars == 100 and not any(self.out(sheet, "piano", (0, 50, 99)))
