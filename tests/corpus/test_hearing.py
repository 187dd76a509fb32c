"""Lines that are heard in recordings: what is played is written down, what is doubtful is not."""

import importlib.util
import itertools
import json

import numpy as np
import pytest

from rtjazz_hf.audio import SAMPLE_RATE, write_audio
from rtjazz_hf.band import Score, ScoreNote
from rtjazz_hf.band.parts import Tone
from rtjazz_hf.corpus.dataset import TakeRecord
from rtjazz_hf.corpus.hearing import heard_phrases, heard_score, lowest_line
from rtjazz_hf.corpus.personal import prepare_takes
from rtjazz_hf.corpus.transcription import has_transcriber
from rtjazz_hf.music import LeadSheet

needs_basic_pitch = pytest.mark.skipif(not has_transcriber(), reason="basic-pitch is not installed")
BASS, LEAD = (36, 43, 38, 45, 41, 40, 38, 43), (67, 70, 72, 74, 77, 75, 72, 70)


def band(seconds=8.0, tempo=120):
    """A bass and a melody, a note a beat each, the melody's half a beat later."""
    audio, beat = np.zeros(round(seconds * SAMPLE_RATE)), 60 / tempo
    for number in range(round(seconds / beat) - 1):
        for keys, late, decay in ((BASS, 0.0, 3.0), (LEAD, 0.5, 2.0)):
            start = round((number + late) * beat * SAMPLE_RATE)
            time = np.arange(min(round(0.9 * beat * SAMPLE_RATE), len(audio) - start)) / SAMPLE_RATE
            hertz = 440 * 2 ** ((keys[number % 8] - 69) / 12)
            wave = sum(np.sin(2 * np.pi * hertz * k * time) / k**1.5 for k in range(1, 7))
            audio[start : start + len(time)] += 0.12 * wave * np.exp(-decay * time)
    return np.stack([audio, audio]).astype(np.float32)


class TestLowestLine:
    def test_octaves_overtones_and_attacks_begin_nothing(self):
        tones = [Tone(0.0, 0.9, 40, 80), Tone(0.02, 0.9, 52, 80), Tone(0.2, 0.5, 40, 80), Tone(0.5, 0.2, 59, 80),
                 Tone(1.0, 0.9, 43, 80), Tone(2.0, 1.5, 55, 80), Tone(3.0, 0.5, 43, 80)]  # fmt: skip
        line = lowest_line(tones, 2.0)
        assert [(tone.start, tone.midi) for tone in line] == [(0.0, 40), (1.0, 43), (2.0, 55), (3.0, 43)]
        assert all(a.start + a.beats <= b.start + 1e-9 for a, b in itertools.pairwise(line))
        assert lowest_line([], 2.0) == ()


class TestHeardPhrases:
    def record(self, folder, name, step=2, split="train", notes=40):
        sheet = LeadSheet.from_chart("Cm7 | F7", 120)
        line = [(beat / 2, 60 + step * (beat % 2)) for beat in range(notes)]
        (folder / name).mkdir()
        score = Score(tuple(ScoreNote(b, 0.4, key, 80, "piano", "lead") for b, key in line), told=("lead",))
        (folder / name / "score.json").write_text(json.dumps(score.to_dict()))
        return TakeRecord(folder / name / "mix.flac", sheet, "", (), {}, "", split)

    def test_takes_that_are_learnt_from_count_and_copies_once(self, tmp_path):
        take = self.record(tmp_path, "a")
        memory = heard_phrases([take])
        assert sum(memory.beats) == 40
        others = [self.record(tmp_path, "a_0"), self.record(tmp_path, "b", 7, split="test")]
        assert heard_phrases([take, *others]) == memory
        assert sum(heard_phrases([take, self.record(tmp_path, "c", 5)]).beats) == 80

    def test_nothing_heard(self, tmp_path):
        take = self.record(tmp_path, "a", notes=12)
        assert heard_phrases([take]) is None and heard_phrases([]) is None
        take.path.with_name("score.json").unlink()
        assert heard_phrases([take]) is None


@needs_basic_pitch
class TestHeardScore:
    SHEET = LeadSheet.from_chart("Cm7 | F7", 120, instruments=["tenor_sax", "piano", "bass", "drums"])

    def test_bass_and_lead_are_told_and_nothing_else(self):
        score = heard_score(band(), self.SHEET)
        assert set(score.told) == {"lead", "bass"}
        for role, keys, late in (("bass", BASS, 0.0), ("lead", LEAD, 0.5)):
            heard = {(round(2 * n.start) / 2, n.midi) for n in score.notes if n.role == role}
            asked = {(number + late, keys[number % 8]) for number in range(15)}
            assert len(heard & asked) >= 12, (role, sorted(asked - heard))
            assert {n.player for n in score.notes if n.role == role} == {"bass" if role == "bass" else "tenor_sax"}

    def test_silence_tells_nothing(self):
        score = heard_score(np.zeros((2, 6 * SAMPLE_RATE), np.float32), self.SHEET)
        assert not score.told and not score.notes

    def test_who_does_not_play_is_not_told(self):
        sheet = LeadSheet.from_chart("Cm7 | F7", 120, instruments=["drums"])
        assert not heard_score(band(), sheet).told

    def test_recordings_bring_their_notes_copies_too(self, tmp_path):
        pytest.importorskip("librosa")
        (tmp_path / "in").mkdir()
        write_audio(tmp_path / "in" / "take.wav", band(16.0))
        how = {"name": "me", "minimum_seconds": 10, "pictures": False, "instruments": ["vibraphone", "bass"]}
        copies = {"copies": 1} if importlib.util.find_spec("python_stretch") else {}
        records, report = prepare_takes(tmp_path / "in", tmp_path / "out", **how, **copies, transcribe=True)
        assert all(record.score is not None and record.score.notes for record in records)
        assert report.takes[0].notes > 20 and f"{report.takes[0].notes} notes" in report.to_text()
        plain, _ = prepare_takes(tmp_path / "in", tmp_path / "out", **how, **copies)
        assert all(record.score is None for record in plain)
