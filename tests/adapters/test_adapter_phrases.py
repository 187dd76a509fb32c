"""A player's habits beside an adapter: its file, and who leans to them when the style is called."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from tiny_models import build_tiny_pipeline

from rtjazz_hf.adapters import read_adapter
from rtjazz_hf.adapters.blending import weighted_adapter
from rtjazz_hf.band import PhraseMemory, write_lead_sheet
from rtjazz_hf.hub.publishing import adapter_files
from rtjazz_hf.music.score_features import SCORE_DIM
from rtjazz_hf.server.notes import clip_midi
from rtjazz_hf.server.schemas import ClipRequest

LEAPS = PhraseMemory(tuple(50 * (abs(i - 12) == 9) for i in range(25)), (0,) * 7 + (90, 10, 0), (100,) + (0,) * 5,
                     (50, 0, 50, 0, 0, 0, 0, 0))  # fmt: skip
SHEET = write_lead_sheet("medium swing tenor sax quartet", tempo=240, seed=1)
SHEET = SHEET.from_chart("Dm7 | G7", tempo=240, instruments=("tenor_sax", "piano", "bass", "drums"))
OPTIONS = {"block_frames": 48, "window_frames": 48, "num_inference_steps": 1, "guidance_scale": 1.0}
CALLED = "swing in the style of Anna Blue"


@pytest.fixture(scope="module")
def folder(folders, tmp_path_factory):
    """An adapter's folder with a phrase memory; not to be written to."""
    folder = tmp_path_factory.mktemp("phrases") / "mine"
    shutil.copytree(folders / "a", folder)
    (folder / "phrases.json").write_text(json.dumps(LEAPS.to_dict()))
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = build_tiny_pipeline(score_dim=SCORE_DIM)
    pipe.load_lora_weights(folder, "mine", check_base=False)
    pipe.disable_lora()
    return pipe


class TestFile:
    def test_read_saved_and_published(self, folder, folders, tmp_path):
        adapter = read_adapter(folder)
        assert adapter.phrases == LEAPS and read_adapter(folders / "a").phrases is None
        adapter.save(tmp_path / "again")
        assert read_adapter(tmp_path / "again").phrases == LEAPS
        assert "phrases.json" in {path.name for path in adapter_files(folder)}
        read_adapter(folders / "a").save(tmp_path / "again")  # over the older one
        assert read_adapter(tmp_path / "again").phrases is None

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "x"}', "[" * 40_000, " " * 70_000, "\x00"])
    def test_what_is_no_memory_is_refused_by_name(self, folder, tmp_path, text):
        shutil.copytree(folder, tmp_path / "x")
        (tmp_path / "x" / "phrases.json").write_text(text)
        with pytest.raises(ValueError, match=r"phrases\.json is not a player's phrase memory .*or remove it"):
            read_adapter(tmp_path / "x")

    def test_bytes_that_are_no_text(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "x")
        (tmp_path / "x" / "phrases.json").write_bytes(b"\xff\xfe\x80")
        with pytest.raises(ValueError, match=r"phrases\.json is not a player's phrase memory"):
            read_adapter(tmp_path / "x")

    def test_one_adapter_of_several(self, folder, folders):
        mine, other = read_adapter(folder), read_adapter(folders / "b")
        assert weighted_adapter([mine, other], [0.5, 0.5], "cat", None).phrases == LEAPS
        assert weighted_adapter([other, other], [0.5, 0.5], "cat", None).phrases is None


class TestPlaying:
    def leads(self, part):
        return [note for note in part.write(64 * 4).notes if note.role == "lead"]

    def test_who_leans(self, pipe):
        named, plain, mixed = (
            pipe.prepare_parts([SHEET], [1], prompt=prompt)[0]
            for prompt in (CALLED, "swing", {CALLED: 0.7, "ballad": 0.3})
        )
        assert named.phrases == mixed.phrases == LEAPS and plain.phrases is None
        assert self.leads(plain) == self.leads(pipe.prepare_parts([SHEET], [1])[0])
        assert self.leads(named) != self.leads(plain)
        rows = pipe.prepare_parts([SHEET, SHEET], [1, 1], prompt=["swing", CALLED])
        assert [row.phrases for row in rows] == [None, LEAPS]

    def test_clips_are_sessions_and_the_server_tells_the_same(self, pipe):
        blocks = 30
        out = pipe(CALLED, duration=blocks * 48 / 75, lead_sheet=SHEET, generator=torch.Generator().manual_seed(1),
                   **OPTIONS)  # fmt: skip
        with pipe.live(CALLED, lead_sheet=SHEET, seed=1, **OPTIONS) as session:
            notes = [note for _ in range(blocks) for note in next(session).notes]
        assert notes == list(out.scores[0].notes)
        asked = {"duration": 60.0, "seed": 1, "chords": "Dm7 | G7", "tempo": 300, "format": "mid", "parts": "band"}
        named, plain = (clip_midi(pipe, ClipRequest(prompt=p, **asked))[0] for p in (CALLED, "swing"))
        assert named != plain

    def test_an_update_calls_and_lets_go(self, pipe):
        with pipe.live("swing", lead_sheet=SHEET, seed=1, **OPTIONS) as session:
            for prompt, phrases in ((None, None), (CALLED, LEAPS), ("ballad", None)):
                if prompt:
                    session.update(prompt=prompt)
                next(session)
                assert session._band.phrases == phrases

    @pytest.mark.parametrize("pending", [False, True])
    def test_saved_sessions_play_on(self, pipe, pending):
        with pipe.live("swing" if pending else CALLED, lead_sheet=SHEET, seed=1, **OPTIONS) as session:
            for _ in range(25):
                next(session)
            if pending:
                session.update(prompt=CALLED)
            saved = session.to_bytes()
            wanted = [next(session) for _ in range(4)]
        with pipe.resume_live(saved) as resumed:
            for block in wanted:
                again = next(resumed)
                assert again.notes == block.notes and np.array_equal(again.audio, block.audio)
            assert resumed._band.phrases == LEAPS
