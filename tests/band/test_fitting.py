"""A melody that meets a chart and a band: played as written, by who leads, and what differs is said."""

from __future__ import annotations

import dataclasses

import pytest

from rtjazz_hf.band.fitting import fit_melody
from rtjazz_hf.band.score import Score, ScoreControl, ScoreNote
from rtjazz_hf.music import LeadSheet

CHART = "Cmaj7 | Am7 | Dm7 | G7"


def melody(*keys, player="piano", length=1.0, role="lead", **source):
    notes = tuple(ScoreNote(i * length, length, key, 80, player, role) for i, key in enumerate(keys))
    return Score(notes, told=("lead", "second"), **source)


C_MAJOR = (60, 62, 64, 65, 67, 69, 71, 72, 71, 69, 67, 65, 64, 62, 60, 60)


class TestWhoPlays:
    def test_the_lead_of_the_sheet(self):
        sheet = LeadSheet.from_chart(CHART, instruments=["trumpet", "piano", "bass", "drums"])
        bend = ScoreControl(0.0, "bend", 0.5, "piano", "lead")
        fitted, said = fit_melody(Score(melody(*C_MAJOR).notes, (bend,)), sheet)
        assert fitted.players == ("trumpet",) and fitted.controls[0].player == "trumpet"
        assert [n.midi for n in fitted.notes] == list(C_MAJOR) and said == []
        assert fitted.told == ("lead", "second")

    def test_where_the_instrument_has_it(self):
        sheet = LeadSheet.from_chart(CHART, instruments=["flute", "bass"])
        fitted, said = fit_melody(melody(*C_MAJOR), sheet)
        assert [n.midi for n in fitted.notes] == [key + 12 for key in C_MAJOR]
        assert said == ["the lead is played 1 octave higher, where the flute has it"]

    def test_a_band_without_melody_players(self):
        sheet = LeadSheet.from_chart(CHART, instruments=["bass", "drums"])
        fitted, said = fit_melody(melody(*C_MAJOR), sheet)
        assert fitted.players == ("piano",) and "nobody in the band plays melodies" in said[0]

    def test_others_of_the_file_are_not_taken_and_that_is_said(self):
        sheet = LeadSheet.from_chart(CHART)
        bass = ScoreNote(0.0, 1.0, 40, 80, "bass", "bass")
        fitted, said = fit_melody(Score((*melody(*C_MAJOR).notes, bass)), sheet)
        assert len(fitted.notes) == len(C_MAJOR) and "score=" in said[0]

    def test_whom_the_score_names(self):
        sheet = LeadSheet.from_chart(CHART, instruments=["trumpet", "guitar", "bass"])
        assert fit_melody(melody(*C_MAJOR, player="guitar"), sheet)[0].players == ("guitar",)
        assert fit_melody(melody(*C_MAJOR, player="flute"), sheet)[0].players == ("trumpet",)

    def test_other_parts_alone_are_taken_as_they_are(self):
        score = melody(40, 43, player="bass", role="bass")
        fitted, said = fit_melody(score, LeadSheet.from_chart(CHART))
        assert fitted == score and "its bass is played" in said[0]


class TestDisagreements:
    @pytest.mark.parametrize(
        "score, told",
        [
            (melody(*C_MAJOR, metre="3/4"), "the melody is in 3/4 and the chart in 4/4"),
            (melody(*C_MAJOR, *C_MAJOR), "the melody lasts 8 bars and the chart 4: the chart starts again"),
            (melody(*C_MAJOR[:6]), "the melody lasts 2 bars and the chart 4: after it"),
            (melody(*(key + 3 for key in C_MAJOR)), "the melody seems to be in Eb and the chart is in C"),
        ],
    )
    def test_said_and_played_as_written(self, score, told):
        sheet = LeadSheet.from_chart(CHART, instruments=["piano", "bass"])
        fitted, said = fit_melody(score, sheet)
        assert len(said) == 1 and told in said[0]
        assert [(n.start, n.beats, n.midi) for n in fitted.notes] == [
            (n.start, n.beats, n.midi) for n in score.notes
        ]

    @pytest.mark.parametrize("chart, key", [("Am7 | Dm7 | E7 | Am7", "Am"), ("Cmaj7 | F7 | C7 | G7", "C")])
    def test_modes_of_one_scale_agree(self, chart, key):
        assert fit_melody(melody(*C_MAJOR), LeadSheet.from_chart(chart, key=key))[1] == []

    def test_an_arrangement_repeats_the_chart(self):
        section = LeadSheet.from_chart(CHART).sections[0]
        sheet = LeadSheet.from_chart(" | ".join([CHART] * 3))
        parts = [dataclasses.replace(section, start_beat=16.0 * i) for i in range(3)]
        assert fit_melody(melody(*C_MAJOR), dataclasses.replace(sheet, sections=tuple(parts)))[1] == []

    def test_an_end_that_is_not_heard(self):
        sheet = LeadSheet.from_chart(CHART, loops=False)
        assert "its end is not heard" in fit_melody(melody(*C_MAJOR, *C_MAJOR), sheet)[1][0]
