"""A session in a file plays on to the bit; files that are none are refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import build_tiny_pipeline, plucked_clip

from rtjazz_hf import LeadSheet

OPTIONS = {"block_frames": 12, "window_frames": 48, "tempo": 120, "seed": 1}


def take(session, count):
    return [next(session) for _ in range(count)]


def assert_goes_on(resumed, session, count=4):
    for want, got in zip(take(session, count), take(resumed, count)):
        assert np.array_equal(want.audio, got.audio) and np.array_equal(want.latents, got.latents)
        assert (want.start, want.bar, want.beat, want.chord, want.tempo) == (
            got.start, got.bar, got.beat, got.chord, got.tempo)  # fmt: skip


class TestRoundTrip:
    @pytest.mark.parametrize("blocks", [0, 1, 7])
    @pytest.mark.parametrize("overlap", [False, True])
    def test_plays_on_to_the_bit(self, tiny_pipeline, tmp_path, blocks, overlap):
        session = tiny_pipeline.live("swing", **OPTIONS, overlap=overlap)
        plain = tiny_pipeline.live("swing", **OPTIONS)  # never saved
        take(session, blocks), take(plain, blocks)
        session.save(tmp_path / "night.safetensors")
        resumed = tiny_pipeline.resume_live(tmp_path / "night.safetensors", overlap=overlap)
        assert resumed.position == session.position
        saved = [take(resumed, 4), take(session, 4), take(plain, 4)]
        for got, want, untouched in zip(*saved):
            assert np.array_equal(got.audio, want.audio) and np.array_equal(got.audio, untouched.audio)
            assert (got.start, got.bar, got.beat) == (want.start, want.bar, want.beat)

    def test_keeps_wishes_and_settings(self, tiny_pipeline, tmp_path):
        session = tiny_pipeline.live(
            "swing", key="F", instruments=["piano", "bass"], first_block_frames=6, **OPTIONS
        )
        take(session, 3)
        session.update(tempo=np.float64(150), guidance_scale=2.5, num_inference_steps=3)
        next(session)
        session.update(seed=9)  # waits for the next block
        session.save(tmp_path / "a.safetensors")
        resumed = tiny_pipeline.resume_live(tmp_path / "a.safetensors")
        assert resumed.lead_sheet == session.lead_sheet and resumed.seed == 9
        assert_goes_on(resumed, session)
        for each in (resumed, session):
            each.update(prompt="bossa nova", block_frames=6)
        assert resumed.lead_sheet == session.lead_sheet and "piano" in resumed.lead_sheet.instruments
        assert_goes_on(resumed, session)

    def test_keeps_clips_and_sheets(self, tiny_pipeline, tmp_path):
        torch.manual_seed(0)
        clip = plucked_clip(1.0)[0]
        session = tiny_pipeline.live(
            (("swing", 0.4), (clip, 0.6)),
            lead_sheet=LeadSheet.from_chart("3/4 Am7 | D7:1 G7:2", tempo=133),
            context=clip,
            seed=2,
            block_frames=6,
            window_frames=30,
        )
        take(session, 2)
        session.save(tmp_path / "a.safetensors")
        resumed = tiny_pipeline.resume_live(tmp_path / "a.safetensors")
        assert_goes_on(resumed, session)
        for each in (resumed, session):
            each.update(tempo=160)
        assert_goes_on(resumed, session)

    def test_out_of_a_group_and_into_one(self, tiny_pipeline, tmp_path):
        group = tiny_pipeline.live_group()
        one, _ = (group.join("swing", **{**OPTIONS, "seed": seed}) for seed in (1, 2))
        group.step(), group.step()
        one.save(tmp_path / "one.safetensors")
        resumed = tiny_pipeline.resume_live(tmp_path / "one.safetensors")
        group.add(resumed)
        blocks = group.step()
        np.testing.assert_allclose(blocks[one].audio, blocks[resumed].audio, rtol=0, atol=1e-5)

    def test_of_a_loaded_pipeline(self, tiny_pipeline, tiny_folder, tmp_path):
        session = tiny_pipeline.live("swing", **OPTIONS)
        take(session, 2)
        session.save(tmp_path / "a.safetensors")
        pipe = type(tiny_pipeline).from_pretrained(tiny_folder)
        assert_goes_on(pipe.resume_live(tmp_path / "a.safetensors"), session)

    def test_a_closed_one_can_be_saved(self, tiny_pipeline, tmp_path):
        with tiny_pipeline.live("swing", **OPTIONS) as session:
            next(session)
        session.save(tmp_path / "a.safetensors")
        assert next(tiny_pipeline.resume_live(tmp_path / "a.safetensors")).start == pytest.approx(0.16)


@pytest.fixture(scope="module")
def saved(tiny_pipeline, tmp_path_factory):
    session = tiny_pipeline.live("swing", **OPTIONS)
    take(session, 2)
    path = tmp_path_factory.mktemp("session") / "a.safetensors"
    session.save(path)
    return path


def rewritten(saved, path, change):
    with safe_open(saved, "pt") as file:
        header, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, metadata=header)
    return path


class TestRefused:
    def test_another_model(self, saved):
        with pytest.raises(ValueError, match="played by other models"):
            build_tiny_pipeline(seed=1).resume_live(saved)
        with pytest.raises(ValueError, match="played by other models"):
            build_tiny_pipeline(num_hidden_layers=1).resume_live(saved)

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
    def test_a_file_cut_short(self, tiny_pipeline, saved, tmp_path, share):
        data = saved.read_bytes()
        (tmp_path / "a.safetensors").write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match="damaged or cut short"):
            tiny_pipeline.resume_live(tmp_path / "a.safetensors")

    def test_another_kind_of_file(self, tiny_pipeline, tmp_path, tiny_folder):
        with pytest.raises(FileNotFoundError, match="no session file"):
            tiny_pipeline.resume_live(tmp_path / "none.safetensors")
        with pytest.raises(ValueError, match="holds no live session"):
            tiny_pipeline.resume_live(next((tiny_folder / "codec").glob("*.safetensors")))

    def test_a_newer_version(self, tiny_pipeline, saved, tmp_path):
        path = rewritten(saved, tmp_path / "a.safetensors", lambda h, t: h.update(version="2"))
        with pytest.raises(ValueError, match=r"format version 2, this package reads up to 1: update"):
            tiny_pipeline.resume_live(path)

    @pytest.mark.parametrize("what", ["tensor", "setting", "shape", "slots"])
    def test_one_with_something_missing(self, tiny_pipeline, saved, tmp_path, what):
        def change(header, tensors):
            settings = json.loads(header["session"])
            if what == "tensor":
                del tensors["generator"]
            elif what == "setting":
                del settings["frame"]
            elif what == "slots":
                tensors["cache.slots"] = tensors["cache.slots"] * 0
            else:
                tensors["cache.keys"] = tensors["cache.keys"][:1]
            header["session"] = json.dumps(settings)

        path = rewritten(saved, tmp_path / "a.safetensors", change)
        with pytest.raises(ValueError, match="does not load"):
            tiny_pipeline.resume_live(path)

    def test_paths_that_cannot_be_written(self, tiny_pipeline, saved, tmp_path):
        session = tiny_pipeline.live("swing", **OPTIONS)
        before = saved.read_bytes()
        with pytest.raises(FileExistsError):
            session.save(saved)
        assert saved.read_bytes() == before
        with pytest.raises(ValueError, match="safetensors"):
            session.save(tmp_path / "a.pt")
        with pytest.raises(FileNotFoundError):
            session.save(tmp_path / "none" / "a.safetensors")
        copy = tmp_path / "copy.safetensors"
        copy.write_bytes(before)
        session.save(copy, overwrite=True)
        assert tiny_pipeline.resume_live(copy).position == 0
        assert list(tmp_path.iterdir()) == [copy]
