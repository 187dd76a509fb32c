"""Notes in calls and live sessions: who tells them, what a model without them says, and that a clip is a session."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import build_tiny_pipeline

from rtjazz_hf.band import Score, ScoreNote, write_lead_sheet
from rtjazz_hf.live.loops import play_loop
from rtjazz_hf.live.snapshot import _checksum
from rtjazz_hf.music import LEAD_SHEET_DIM, LeadSheet
from rtjazz_hf.music.score_features import NOTE_ROLES, SCORE_DIM, SCORE_SLICES

BLOCK, WINDOW = 12, 24
OPTIONS = {"block_frames": BLOCK, "window_frames": WINDOW, "num_inference_steps": 1, "guidance_scale": 1.0}
MELODY = Score(tuple(ScoreNote(float(b), 1.0, 60 + b, 80, "trumpet", "lead") for b in range(4)), told=("lead",))
SHEET = write_lead_sheet("medium swing tenor sax quartet", tempo=132, seed=1)


@pytest.fixture(scope="module")
def pipe():
    return build_tiny_pipeline(score_dim=SCORE_DIM)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def play(pipe, seed=1, blocks=8, **options):
    options = {"lead_sheet": SHEET, **OPTIONS, **options}
    return pipe("swing", duration=blocks * BLOCK / 75, generator=generator(seed), **options)


def take(session, count):
    return [next(session) for _ in range(count)]


class TestCalls:
    def test_a_band_by_default_and_by_the_seed(self, pipe):
        one, again, other = play(pipe), play(pipe), play(pipe, seed=2)
        assert one.scores == again.scores and one.scores[0].notes != other.scores[0].notes
        assert one.scores[0].told == NOTE_ROLES and set(one.scores[0].players) <= set(SHEET.instruments)
        assert not np.array_equal(one.audios, play(pipe, parts="free").audios)
        assert play(pipe, parts="free").scores == [Score(told=())]

    def test_rows_have_bands_of_their_own(self, pipe):
        out = pipe(["swing", "swing"], duration=2, generator=generator(), lead_sheet=SHEET, **OPTIONS)
        assert out.scores[0].notes != out.scores[1].notes

    def test_a_melody(self, pipe):
        out = play(pipe, melody=MELODY, blocks=12)
        lead = [note for note in out.scores[0].notes if note.role == "lead"]
        assert [(n.start, n.midi) for n in lead[:4]] == [(b, 60 + b) for b in range(4)]
        assert {n.role for n in out.scores[0].notes} >= {"bass", "drums"}
        alone = play(pipe, melody=MELODY, parts="free").scores[0]
        assert alone.told == ("lead",) and {n.role for n in alone.notes} == {"lead"}

    def test_a_score_is_told_as_it_is(self, pipe):
        out = play(pipe, score=MELODY)
        assert out.scores == [MELODY]
        assert np.array_equal(out.audios, play(pipe, score=MELODY, parts=None).audios)
        muted = play(pipe, score=MELODY, lead_sheet=None, instruments=["-trumpet"])
        assert muted.scores[0].notes == () and muted.scores[0].told == ("lead",)

    def test_a_muted_player_is_silent(self, pipe):
        out = pipe("swing piano trio", duration=3, instruments=["-piano"], generator=generator(), **OPTIONS)
        assert "piano" not in out.scores[0].players and out.scores[0].notes

    def test_what_the_transformer_is_told(self, pipe):
        sheets = [SHEET]
        tellers = pipe.prepare_parts(sheets, [1])
        told = pipe.prepare_features(sheets, 0, 24, tellers)
        free = pipe.prepare_features(sheets, 0, 24)
        assert told.shape == free.shape == (1, 24, pipe.transformer.config.feature_dim)
        assert torch.equal(told[..., :LEAD_SHEET_DIM], free[..., :LEAD_SHEET_DIM])
        flags = SCORE_SLICES["told"]
        assert told[0, :, LEAD_SHEET_DIM:][:, flags].all() and not free[0, :, LEAD_SHEET_DIM:][:, flags].any()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"parts": "loud"}, "choose 'band'"),
            ({"melody": 3}, "give a Score, or the path"),
            ({"melody": Score()}, "has no notes"),
            ({"score": "a.mid"}, "give a Score"),
            ({"score": MELODY, "melody": MELODY}, "leave melody and parts out"),
            ({"score": MELODY, "parts": "band"}, "leave melody and parts out"),
        ],
    )
    def test_bad_input(self, pipe, options, message):
        with pytest.raises(ValueError, match=message):
            play(pipe, **options)

    def test_loops_tell_their_notes(self, pipe):
        out = play_loop(pipe, "swing", LeadSheet.from_chart("Dm7 | G7", tempo=240), 2, generator=generator(), **OPTIONS)
        notes = out.scores[0].notes
        assert notes and notes[0].start < 1 and max(n.start for n in notes) < 8


class TestWithoutNotes:
    @pytest.mark.parametrize("options", [{"parts": "band"}, {"melody": MELODY}, {"score": MELODY}])
    def test_a_model_that_reads_none_says_so(self, tiny_pipeline, options):
        with pytest.raises(ValueError, match="this model reads chords and no notes"):
            play(tiny_pipeline, **options)

    def test_plays_as_ever(self, tiny_pipeline):
        assert tiny_pipeline.default_parts == "free"
        out = play(tiny_pipeline)
        assert out.scores == [Score(told=())]
        assert np.array_equal(out.audios, play(tiny_pipeline, parts="free").audios)
        with tiny_pipeline.live("swing", **OPTIONS) as session:
            assert next(session).notes == ()

    def test_other_layouts_are_refused(self):
        with pytest.raises(ValueError, match="reads 7 score features"):
            build_tiny_pipeline(score_dim=7)


class TestLive:
    def live(self, pipe, **options):
        return pipe.live("swing", seed=1, **{"lead_sheet": SHEET, **OPTIONS, **options})

    def test_a_session_plays_and_tells_what_the_call_does(self, pipe):
        out, blocks = play(pipe, blocks=10), take(self.live(pipe), 10)
        heard = np.concatenate([block.audio for block in blocks], axis=1)
        np.testing.assert_allclose(heard, out.audios[0], rtol=0, atol=1e-5)
        assert [note for block in blocks for note in block.notes] == list(out.scores[0].notes)
        for block in blocks:
            times = block.note_times
            assert all(block.start - 1e-6 <= time < block.start + block.duration for time in times)

    def test_changes_are_answered_from_the_next_beat(self, pipe):
        session = self.live(pipe)
        take(session, 4)
        session.update(chords="Ebm7", instruments=["piano", "bass"], at="now")
        at = session.position
        notes = [(time, note) for block in take(session, 12) for time, note in zip(block.note_times, block.notes)]
        beat = 60 / session.lead_sheet.tempo
        assert {note.player for time, note in notes if time > at + beat} == {"piano", "bass"}
        assert min(time for time, note in notes if note.player == "piano") < at + 3 * beat
        session.update(melody=MELODY)
        lead = [n.midi for block in take(session, 20) for n in block.notes if n.role == "lead"]
        assert set(lead) & {60, 61, 62, 63}
        session.update(melody=None)
        assert "melody" not in session.asked
        session.update(parts="free")
        assert not any(block.notes for block in take(session, 4))
        session.update(parts="band")
        assert any(block.notes for block in take(session, 8))

    def test_a_group_is_as_each_alone(self, pipe):
        with pipe.live_group() as group:
            one = group.join("swing", seed=1, lead_sheet=SHEET, **OPTIONS)
            two = group.join("swing", seed=2, lead_sheet=SHEET, melody=MELODY, **OPTIONS)
            told = {one: [], two: []}
            for _ in range(4):
                for session, block in group.step().items():
                    told[session] += block.notes
        assert told[one] == [n for block in take(self.live(pipe), 4) for n in block.notes]
        assert told[two] != told[one] and told[two][0].midi

    @pytest.mark.parametrize("change", [{}, {"tempo": 90}, {"chords": "Fm7 | Bb7"}, {"melody": MELODY}, {"seed": 5}])
    def test_a_saved_session_plays_on_to_the_bit(self, pipe, change):
        session = self.live(pipe, melody=MELODY)
        take(session, 5)
        session.update(**change) if change else None
        resumed = pipe.resume_live(session.to_bytes())
        for want, got in zip(take(session, 6), take(resumed, 6)):
            assert np.array_equal(want.audio, got.audio) and want.notes == got.notes

    def test_a_long_melody_is_saved_too(self, pipe):
        notes = tuple(ScoreNote(b / 8, 0.1, 50 + b % 30, 80, "flute", "lead") for b in range(8000))
        session = self.live(pipe, melody=Score(notes, told=("lead",)))
        next(session)
        assert pipe.resume_live(session.to_bytes()).asked["melody"].notes == notes

    @pytest.mark.parametrize("change", [{"handed": 1000.0}, {"pending": [[0.0]]}, {"memory": {"bass": ["x"]}}])
    def test_a_band_that_is_not_the_session_s_is_refused(self, pipe, change):
        from safetensors.torch import load, save

        session = self.live(pipe)
        take(session, 2)
        data = session.to_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        tensors = load(data)
        state = {**json.loads(tensors["band"].numpy().tobytes()), **change}
        tensors["band"] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
        header["sha256"] = _checksum(tensors, header["session"])
        with pytest.raises(ValueError, match="does not load"):
            pipe.resume_live(save(tensors, metadata=header))

    def test_files_of_the_first_version_are_read(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", seed=1, **OPTIONS)
        take(session, 2)
        data = session.to_bytes()
        assert data.count(b'"version":"5"') == 1
        resumed = tiny_pipeline.resume_live(data.replace(b'"version":"5"', b'"version":"1"'))
        assert np.array_equal(next(resumed).audio, next(session).audio)
