"""Chord and beat obedience on synthetic performances that obey, or do not."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("librosa")
pytest.importorskip("mir_eval")

from played import RATE, play_chords, play_clicks

from rtjazz_hf.evaluation.measures import obedience
from rtjazz_hf.music import Chord, LeadSheet

CHART = "Dm7 | G7 | Cmaj7 | A7b9 | Bm7b5 | E7 | Am6 | Ab7"


class TestChords:
    def test_what_obeys_ranks_first_and_what_is_rotated_does_not(self):
        sheet = LeadSheet.from_chart(CHART, tempo=120)
        audio = play_chords(sheet, 16.0)
        true, rotated, segments = obedience.chord_rates(audio, sheet)
        assert segments == 8
        assert true == 1.0
        assert rotated < 0.15
        assert obedience.chord_rank_rate(audio, sheet) == true
        assert obedience.chord_rank_rate(audio, sheet, rotation=range(1, 12)) == pytest.approx(rotated)

    def test_rotation_is_the_rotated_chart(self):
        sheet = LeadSheet.from_chart(CHART, tempo=120)
        audio = play_chords(sheet.rotated(5), 16.0)
        assert obedience.chord_rank_rate(audio, sheet) < 0.3
        assert obedience.chord_rank_rate(audio, sheet, rotation=5) == 1.0
        assert obedience.chord_rank_rate(audio, sheet.rotated(5)) == 1.0

    def test_start_within_the_sheet(self):
        sheet = LeadSheet.from_chart(CHART, tempo=120)
        audio = play_chords(sheet, 16.0)[:, 6 * RATE :]
        assert obedience.chord_rank_rate(audio, sheet, start_s=6.0) == 1.0

    def test_noise_is_deaf(self):
        sheet = LeadSheet.from_chart(CHART, tempo=120)
        noise = 0.1 * np.random.default_rng(0).standard_normal((2, 16 * RATE)).astype(np.float32)
        assert obedience.chord_rank_rate(noise, sheet) <= 0.4

    def test_nothing_to_judge(self):
        sheet = LeadSheet.from_chart("N.C. | N.C.", tempo=120)
        assert np.isnan(obedience.chord_rank_rate(np.ones((2, 4 * RATE), np.float32) * 0.01, sheet))
        assert not obedience.changes_chord(sheet)

    def test_symmetric_chords_may_tie(self):
        diminished = Chord.parse("Cdim7")
        chroma = np.zeros(12)
        chroma[list(diminished.pitch_classes)] = 0.25
        assert obedience._rank_is_first(chroma, diminished)
        assert not obedience._rank_is_first(np.roll(chroma, 1), diminished)

    def test_which_charts_count(self):
        assert obedience.changes_chord(LeadSheet.from_chart("Dm7 | G7"))
        assert not obedience.changes_chord(LeadSheet.from_chart("Dm7 | %"))

    def test_score(self):
        assert obedience.chord_score(0.8, 0.05, 0.8) == pytest.approx(1.0)
        assert obedience.chord_score(0.05, 0.05, 0.8) == 0.0
        assert np.isnan(obedience.chord_score(0.5, 0.5, 0.5))


class TestBeats:
    @pytest.mark.parametrize("tempo", [72, 120, 210])
    def test_clicks_on_the_grid(self, tempo):
        sheet = LeadSheet.from_chart("C | F", tempo=tempo)
        audio = play_clicks(sheet.beat_times(0.0, 12.0), 12.0)
        scores = obedience.beat_scores(audio, sheet)
        assert scores["f"] > 0.97
        assert scores["f_offset"] < 0.1
        assert scores["tempo_error"] < 0.02

    @pytest.mark.parametrize("late", [0.15, 0.25])
    def test_late_clicks_are_not_on_the_grid(self, late):
        sheet = LeadSheet.from_chart("C | F", tempo=100)
        audio = play_clicks(sheet.beat_times(0.0, 12.0) + late, 12.0)
        assert obedience.beat_f_measure(audio, sheet) < 0.15

    def test_another_tempo_is_not_snapped_to_the_grid(self):
        sheet = LeadSheet.from_chart("C | F", tempo=120)
        audio = play_clicks(np.arange(0, 20, 60 / 133), 20.0)
        scores = obedience.beat_scores(audio, sheet)
        assert scores["f"] < 0.5
        assert scores["tempo_error"] == pytest.approx(13 / 120, abs=0.03)

    def test_silence_has_no_beats(self):
        assert obedience.beat_f_measure(np.zeros((2, 4 * RATE)), LeadSheet.from_chart("C")) == 0.0


def test_a_render_beside_itself_is_as_obedient_as_itself():
    sheet = LeadSheet.from_chart("Dm7 | G7 | Cmaj7 | A7", tempo=120)
    render = play_chords(sheet, 8.0)
    scores = obedience.chart_scores(render, render, sheet)
    assert scores["changes_chord"]
    assert scores["chord_generated"] == scores["chord_render"] > scores["chord_rotated"]
    assert scores["beat_f"] == scores["beat_f_render"]
    one_chord = obedience.chart_scores(render, render, LeadSheet.from_chart("Dm7", tempo=120))
    mean = obedience.mean_chart_scores([scores, one_chord])
    assert (mean["chord_charts"], mean["chord_score"]) == (1, 1.0)
    assert mean["chord_render"] == scores["chord_render"]
    assert mean["beat_f"] == (scores["beat_f"] + one_chord["beat_f"]) / 2
    assert np.isnan(obedience.mean_chart_scores([])["chord_score"])
