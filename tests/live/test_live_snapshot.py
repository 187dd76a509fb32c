"""A session in a file plays on to the bit; files that are none are refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import MOVING, build_tiny_pipeline, plucked_clip

from rtjazz_hf import LeadSheet
from rtjazz_hf.live.snapshot import _checksum

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
            assert np.array_equal(got.audio, want.audio)
            assert np.allclose(got.audio, untouched.audio, atol=1e-5)  # whose blocks join as the next ones begin
            assert (got.start, got.bar, got.beat) == (want.start, want.bar, want.beat)

    def test_tones_that_move_go_on_in_phase(self, tmp_path):
        pipe = build_tiny_pipeline(codec=MOVING)
        session = pipe.live("swing", **OPTIONS)
        take(session, 2)
        assert session.stream.decoder_state["turned"].any()
        session.save(tmp_path / "night.safetensors")
        assert_goes_on(pipe.resume_live(tmp_path / "night.safetensors"), session)

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

    def test_as_bytes(self, tiny_pipeline):
        group = tiny_pipeline.live_group()
        one, two = (group.join("swing", **{**OPTIONS, "seed": seed}) for seed in (1, 2))
        group.step(), group.step()
        rows = one._rows, two._rows
        data = one.to_bytes()
        assert (one._rows, two._rows) == rows  # it reads, and takes nobody out of the batch
        group.leave(one)
        assert_goes_on(tiny_pipeline.resume_live(data), one)
        assert tiny_pipeline.resume_live(data).asked.keys() == one.asked.keys()

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
    header["sha256"] = _checksum(tensors, header["session"])
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
        with pytest.raises(ValueError, match="is no live session"):
            tiny_pipeline.resume_live(next((tiny_folder / "codec").glob("*.safetensors")))

    def test_a_newer_version(self, tiny_pipeline, saved, tmp_path):
        path = rewritten(saved, tmp_path / "a.safetensors", lambda h, t: h.update(version="6"))
        with pytest.raises(ValueError, match=r"format version 6, this package reads up to 5: update"):
            tiny_pipeline.resume_live(path)

    def test_bytes_that_changed(self, tiny_pipeline, saved, tmp_path):
        data, path = saved.read_bytes(), tmp_path / "a.safetensors"
        begin = 8 + int.from_bytes(data[:8], "little")
        for place in np.linspace(begin, len(data) - 1, 20).astype(int):
            changed = bytearray(data)
            changed[place] ^= 0x01
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=r"is damaged: .* \(checksum\)"):
                tiny_pipeline.resume_live(path)
        changed = data.replace(b"swing", b"swinG", 1)  # in what is told of it
        with pytest.raises(ValueError, match="damaged"):
            tiny_pipeline.resume_live(changed)

    def test_older_versions_need_no_checksum(self, tiny_pipeline, saved, tmp_path):
        """Those of version 1 had none, those of version 2 some."""
        with safe_open(saved, "pt") as file:
            header, tensors = dict(file.metadata()), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
        path, summed = tmp_path / "a.safetensors", header.pop("sha256")
        for change in ({"version": "1"}, {"version": "2"}, {"version": "2", "sha256": summed}):
            save_file(tensors, path, metadata={**header, **change})
            assert next(tiny_pipeline.resume_live(path)).start == pytest.approx(0.32)
        for change in ({"version": "3"}, {"version": "2", "sha256": summed[::-1]}):
            save_file(tensors, path, metadata={**header, **change})
            with pytest.raises(ValueError, match="damaged"):
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

    @pytest.mark.parametrize(
        ("place", "value", "says"),
        [
            ("frame", -1, "frame -1"),
            ("frame", 2**62, "frame"),
            ("frame", 1.5, "frame 1.5"),
            ("largest_block", 0, "largest_block 0"),
            ("window_frames", 10**9, "window_frames"),
            ("plan_seeds", None, "plan_seeds None"),
            ("lead_sheet", {}, "lead sheet"),
            ("lead_sheet", [], "does not load"),
            ("asked", [], "does not load"),
            ("adapters", 7, "does not load"),
            ("adapters", {"nobody": "1"}, "nobody"),
            ("cache", {}, "does not load"),
            ("cache.head_dim", 2**40, "head_dim"),
            ("cache.block_frames", 10**9, "block_frames of the cache"),
            ("asked.prompt", [], "empty mix"),
            ("asked.prompt", [[None, 1.0]], "does not load"),
            ("asked.num_inference_steps", 10**9, "num_inference_steps"),
            ("asked.guidance_scale", float("nan"), "guidance_scale"),
            ("asked.seed", "1", "seed '1'"),
            ("asked.rm", "-rf", "unknown wishes rm"),
        ],
    )
    def test_settings_of_no_session(self, tiny_pipeline, saved, tmp_path, place, value, says):
        def change(header, tensors):
            settings = json.loads(header["session"])
            *path, name = place.split(".")
            (settings[path[0]] if path else settings)[name] = value
            header["session"] = json.dumps(settings)

        path = rewritten(saved, tmp_path / "a.safetensors", change)
        with pytest.raises(ValueError, match=says):
            tiny_pipeline.resume_live(path.read_bytes())

    @pytest.mark.parametrize(
        ("name", "change", "says"),
        [
            ("style", lambda t: t * float("nan"), "style holds what is not finite"),
            ("style", lambda t: t[:, :3], "style is of shape"),
            ("cache.keys", lambda t: t + float("inf"), "cache.keys holds"),
            ("cache.values", lambda t: t.to(torch.int64), "cache.values holds"),
            ("cache.values", lambda t: t[..., :1], "does not load"),
            ("cache.position", lambda t: t - 2**50, "cache.position holds no counters"),
            ("cache.blocks", lambda t: t * 0 + 5, "blocks that no session plays"),
            ("cache.slots", lambda t: t[0], "does not load"),
            ("decoder.frame", lambda t: t.float(), "decoder.frame holds no counters"),
            ("decoder.tail", lambda t: t[..., :1], "decoder.tail is of shape"),
            ("decoder.tail", lambda t: None, "decoder.tail is missing"),
            ("decoder.more", lambda t: torch.zeros(1), "unknown tensors decoder.more"),
            ("generator", lambda t: t[:100], "does not load"),
            ("generator", lambda t: t * 0 + 255, "does not load"),
        ],
    )
    def test_tensors_of_no_session(self, tiny_pipeline, saved, tmp_path, name, change, says):
        def changed(header, tensors):
            tensors[name] = change(tensors.get(name))
            if tensors[name] is None:
                del tensors[name]
            else:
                tensors[name] = tensors[name].contiguous()

        path = rewritten(saved, tmp_path / "a.safetensors", changed)
        with pytest.raises(ValueError, match=says):
            tiny_pipeline.resume_live(path.read_bytes())

    @pytest.mark.parametrize(
        "text", ["[" * 100_000, "7", '{"frame": 1}', "{" + '"x": 1, ' * 40_000 + '"y": 1}'], ids=len
    )
    def test_headers_of_no_session(self, tiny_pipeline, saved, tmp_path, text):
        path = rewritten(saved, tmp_path / "a.safetensors", lambda h, t: h.update(session=text))
        with pytest.raises(ValueError, match=r"the session (is|was|does)"):
            tiny_pipeline.resume_live(path.read_bytes())

    @pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 64, b"\x80\x04\x95pickle", b"{}"])
    def test_bytes_that_are_none(self, tiny_pipeline, data):
        with pytest.raises(ValueError, match="damaged or cut short"):
            tiny_pipeline.resume_live(data)

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
