"""Notes that are heard: the transcriber, its scores, tunes as text, and the part of the report."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from tiny_models import build_tiny_pipeline

from rtjazz_hf.band import Score, ScoreNote
from rtjazz_hf.corpus.transcription import transcribe
from rtjazz_hf.evaluation.measures.latent_probe import notes_heard
from rtjazz_hf.evaluation.measures.notes import clarity, note_scores, peaks_over_valleys, semitone_levels
from rtjazz_hf.evaluation.measures.themes import likeness, theme_chroma
from rtjazz_hf.evaluation.parts.notes import three_choruses
from rtjazz_hf.evaluation.report import evaluate
from rtjazz_hf.evaluation.takes import HeldOutTake
from rtjazz_hf.evaluation.tunes import TUNES
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.music.score_features import SCORE_DIM

pytest.importorskip("librosa")
pytest.importorskip("mir_eval")
needs_basic_pitch = pytest.mark.skipif(
    importlib.util.find_spec("basic_pitch") is None, reason="pip install --no-deps basic-pitch==0.4.0"
)
SHEET = LeadSheet.from_chart("C6 | G7", tempo=120, instruments=["piano", "bass"])
SCORE = Score(
    tuple(ScoreNote(2.0 * i, 1.8, key, 90, "piano", "lead") for i, key in enumerate((72, 76, 79)))
    + tuple(ScoreNote(2.0 * i, 1.8, key, 90, "bass", "bass") for i, key in enumerate((48, 43, 48)))
)


def plucked(score=SCORE, seconds=4.0):
    """The notes as tones with a few partials."""
    time = np.arange(round(seconds * 48_000)) / 48_000
    sound = np.zeros_like(time)
    for start, length, key, *_ in score.rows(SHEET)[0]:
        since = time - start
        on = (since >= 0) & (since < length)
        hertz = 440 * 2 ** ((key - 69) / 12)
        for partial in (1, 2, 3, 4):
            sound += on * np.exp(-3 * since.clip(0)) * np.sin(2 * np.pi * hertz * partial * since) / partial
    return np.stack([sound, sound]).astype(np.float32) * 0.1


class TestScores:
    def test_what_was_asked_is_heard(self):
        notes = SCORE.rows(SHEET)[0]
        heard = np.array([(start, start + length, key, 0.9) for start, length, key, *_ in notes])
        scores = note_scores(plucked(), notes, heard)
        assert scores["lead_f1"] == scores["bass_f1"] == pytest.approx(1.0) and "comp_f1" not in scores
        late = heard.copy()
        late[:, :2] += 0.09
        assert note_scores(plucked(), notes, late)["lead_f1"] == 0.0
        extra = np.concatenate([heard, [(0.5, 0.9, 74, 0.9)]])
        assert note_scores(plucked(), notes, extra)["lead_precision"] == pytest.approx(0.75)

    def test_clarity_and_valleys(self):
        notes, rng = SCORE.rows(SHEET)[0], np.random.default_rng(0)
        clear = semitone_levels(plucked())
        smeared = semitone_levels(plucked() + 0.05 * rng.standard_normal((2, 4 * 48_000)).astype(np.float32))
        assert clarity(clear, notes)["lead_db"] > clarity(smeared, notes)["lead_db"] > 0
        assert peaks_over_valleys(clear) > peaks_over_valleys(smeared)

    @needs_basic_pitch
    def test_the_transcriber(self):
        found = transcribe(plucked())
        notes = SCORE.rows(SHEET)[0]
        assert note_scores(plucked(), notes, found)["lead_f1"] > 0.9
        takes = [HeldOutTake("scored", SHEET, "", 4.0, score=SCORE), HeldOutTake("bare", SHEET, "", 4.0)]
        heard = notes_heard([plucked(), plucked()], takes)
        assert heard["lead"] > 0.9 and heard.keys() == {"lead", "bass"}
        hits = [row for row in found if row[2] == 76 and abs(row[0] - 1.0) < 0.05]
        assert hits  # in time, too


class TestThemes:
    def test_a_tune_is_more_like_itself(self):
        beats = np.arange(9) * 0.5
        other = Score(tuple(ScoreNote(2.0 * i, 1.8, key, 90, "piano", "lead") for i, key in enumerate((74, 71, 81))))
        tune, again, solo = (theme_chroma(plucked(score), beats) for score in (SCORE, SCORE, other))
        assert likeness(tune, again) > 0.99 > 0.5 > likeness(tune, solo)

    def test_three_choruses(self):
        sheet = three_choruses(SHEET)
        assert [section.role for section in sheet.sections] == ["head", "solo", "head_out"]
        assert sheet.num_beats == 24 and not sheet.loops


class TestTunes:
    def test_ten_that_fill_their_charts(self):
        assert len(TUNES) == 10
        for tune in TUNES:
            score, sheet = tune.score, tune.sheet
            assert 0 <= sheet.num_beats - score.end_beat < 1.5 * sheet.beats_per_bar, tune.title
            assert score.notes[0].start >= -sheet.beats_per_bar

    def test_their_files(self, tmp_path):
        pytest.importorskip("mido")
        for tune in TUNES:
            back = Score.from_file(tune.write(tmp_path))
            assert [(n.start, n.midi) for n in back.notes] == [(n.start, n.midi) for n in tune.score.notes]


class TestPart:
    @needs_basic_pitch
    def test_report(self, tmp_path):
        pytest.importorskip("matplotlib")
        pytest.importorskip("mido")
        take = HeldOutTake("one", SHEET, "swing piano", 4.0, samples=plucked(), score=SCORE)
        report = evaluate(
            build_tiny_pipeline(score_dim=SCORE_DIM), [take], tmp_path, only="notes", progress=False, num_takes=1,
            duration=2.0, note_takes=1, tunes=1, themes=0, steps=1, guidance_scale=1.0,
        )  # fmt: skip
        rows = {row["what"].split(":")[0]: row for row in report["table"]}
        assert "lead notes heard in 1 charts" in rows and "bass notes heard in 1 charts" in rows
        assert "lead left out of 1 charts" in rows
        assert set(report["references"]["lead F1"]) == {"held_out", "reconstruction", "generated", "free"}
        assert (tmp_path / "notes-one.png").is_file()

    def test_a_model_without_notes_is_told_apart(self, tiny_pipeline, tmp_path):
        pytest.importorskip("matplotlib")
        take = HeldOutTake("one", SHEET, "swing piano", 4.0, samples=plucked(), score=SCORE)
        report = evaluate(tiny_pipeline, [take], tmp_path, only="notes", progress=False, num_takes=1, duration=1.0)
        assert report["notes"]["skipped"] and "not measured" in report["table"][0]["measured"]
