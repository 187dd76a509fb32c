"""Adapters in sessions that play, and from the Hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted import OPTIONS, blocks
from hub_stub import HubStub

pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")


class TestLive:
    @pytest.mark.parametrize("overlap", [False, True])
    def test_swap_is_heard_from_the_next_block_on(self, pipe, overlap):
        with pipe.live("swing", **OPTIONS, overlap=overlap) as plain:
            base = [next(plain) for _ in range(6)]
        with pipe.live("swing", **OPTIONS, overlap=overlap) as session:
            heard = [next(session) for _ in range(2)]
            session.update(adapter={"a": 0.7, "b": 0.3})
            heard += [next(session) for _ in range(2)]
            assert all(np.array_equal(one.latents, other.latents) for one, other in zip(heard[:2], base))
            assert not np.allclose(heard[2].latents, base[2].latents, atol=1e-4)
            sound = np.concatenate([block.audio for block in heard], axis=1)
            step = np.abs(np.diff(sound, axis=1)).max(axis=0)
            seam = heard[0].audio.shape[1] * 2
            assert step[seam - 2 : seam + 1].max() <= step.max()  # a click would stand out of all others
            session.update(adapter=None)
            assert session._plan.transformer is pipe.transformer

    def test_swap_is_the_same_with_and_without_a_worker(self, pipe):
        sounds = []
        for overlap in (False, True):
            with pipe.live("swing", **OPTIONS, overlap=overlap) as session:
                first = blocks(session, 2)
                session.update(adapter="a", adapter_scale=0.5)
                second = blocks(session, 2)
                session.update(adapter="b")
                sounds.append(np.concatenate([first, second, blocks(session, 2)], axis=1))
                assert session._plan.asked["adapter_scale"] == 0.5
        assert np.array_equal(*sounds)

    def test_whole_clip_and_session_agree(self, pipe):
        with pipe.live("swing", **OPTIONS, adapter="a") as session:
            streamed = blocks(session, 3)
        clip = pipe("swing", duration=36 / 75, adapter="a", generator=torch.Generator().manual_seed(1), tempo=120,
                    chords="Dm7 | G7", block_frames=12, window_frames=48).audios[0]  # fmt: skip
        np.testing.assert_allclose(streamed, clip, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(
        "wrong", [{"adapter": "c"}, {"adapter": {"a": 3}}, {"adapter": 3}, {"adapter_scale": -2.5}]
    )
    def test_refused_updates_leave_the_music_alone(self, pipe, wrong):
        with (
            pipe.live("swing", **OPTIONS, adapter="a") as plain,
            pipe.live("swing", **OPTIONS, adapter="a") as session,
        ):
            next(plain), next(session)
            with pytest.raises(ValueError, match=r"adapter|strength"):
                session.update(**wrong, tempo=200)
            assert np.array_equal(next(plain).audio, next(session).audio)

    def test_sessions_keep_their_own(self, pipe):
        with pipe.live("swing", **OPTIONS, adapter="a") as alone:
            wanted = blocks(alone, 4)
        pipe.set_adapters("a")
        with pipe.live("swing", **OPTIONS) as session, pipe.live("swing", **OPTIONS, adapter={}) as other:
            heard = [next(session).audio]
            next(other)
            pipe.set_adapters("b")
            heard.append(next(session).audio)
            next(other)
            pipe.delete_adapters("a")
            heard.append(next(session).audio)
            pipe.fuse_lora()
            heard.append(next(session).audio)
            with pytest.raises(ValueError, match="'a' is not loaded"):
                session.update(adapter_scale=0.5)
        assert np.array_equal(np.concatenate(heard, axis=1), wanted)

    def test_group_batches_by_adapter(self, pipe):
        mixes = ["a", "a", {"a": 0.5, "b": 0.5}, {}]
        wanted = []
        for mix in mixes:
            with pipe.live("swing", **OPTIONS, adapter=mix) as session:
                wanted.append(blocks(session, 3))
        with pipe.live_group() as group:
            sessions = [group.join("swing", **OPTIONS, adapter=mix) for mix in mixes]
            heard = {session: [] for session in sessions}
            for _ in range(3):
                for session, block in group.step().items():
                    heard[session].append(block.audio)
            assert sessions[0]._rows[0] is sessions[1]._rows[0] is not sessions[2]._rows[0]
        for session, want in zip(sessions, wanted):
            np.testing.assert_allclose(np.concatenate(heard[session], axis=1), want, rtol=0, atol=1e-4)

    def test_saved_session_plays_on(self, pipe, folders, tmp_path):
        with pipe.live("swing", **OPTIONS, adapter={"a": 0.7, "b": 0.3}) as session:
            session.update(adapter={"a": np.float32(0.5), "b": 1}, adapter_scale=np.float32(0.5))
            blocks(session, 2)
            session.save(tmp_path / "s.safetensors")
            wanted = blocks(session, 2)
        with pipe.resume_live(tmp_path / "s.safetensors") as resumed:
            assert np.array_equal(blocks(resumed, 2), wanted)
        pipe.delete_adapters("a")
        with pytest.raises(ValueError, match="adapter 'a'"):
            pipe.resume_live(tmp_path / "s.safetensors")
        pipe.load_lora_weights(folders / "b", "a")
        with pytest.raises(ValueError, match="adapter 'a'"):
            pipe.resume_live(tmp_path / "s.safetensors")


class TestHub:
    """Fetched over HTTP by the real client, in a process of its own whose cache is empty."""

    SCRIPT = """
        import sys, numpy as np
        from huggingface_hub import HfApi, scan_cache_dir
        from adapted import play
        from tiny_models import build_tiny_pipeline

        api = HfApi()
        for name, folder in (("stub/style", sys.argv[1]), ("stub/pickle", sys.argv[2])):
            api.create_repo(name)
            api.upload_folder(repo_id=name, folder_path=folder)
        pipe = build_tiny_pipeline()
        pipe.load_lora_weights(sys.argv[1], "here")
        pipe.load_lora_weights("stub/style", "there", revision="main")
        assert pipe.get_active_adapters() == ["there"]
        assert play(pipe).tobytes() == play(pipe, adapter="here").tobytes()
        assert pipe.encode_prompt("in the style of Anna Blue").shape == (1, 512)
        files = {file.file_name for repo in scan_cache_dir().repos for rev in repo.revisions for file in rev.files}
        assert files == {"adapter_config.json", "adapter_model.safetensors", "style_embedding.safetensors"}, files
        api.create_repo("stub/nested")
        api.upload_folder(repo_id="stub/nested", folder_path=sys.argv[1], path_in_repo="adapter")
        pipe.load_lora_weights("stub/nested", "nested")
        pipe.load_lora_weights("stub/nested", "inside", subfolder="adapter", weight_name="adapter_model.safetensors")
        assert play(pipe, adapter="nested").tobytes() == play(pipe, adapter="inside").tobytes()
        assert play(pipe, adapter="nested").tobytes() == play(pipe, adapter="here").tobytes()
        for name in ("stub/nothing", "stub/pickle"):
            try:
                pipe.load_lora_weights(name)
            except (OSError, ValueError) as error:
                assert name.split("/")[1] in str(error), error
            else:
                raise AssertionError(name)
        print("done")
    """

    def test_load_by_repository(self, folders, tmp_path):
        pickle = tmp_path / "pickle"
        pickle.mkdir()
        (pickle / "adapter_config.json").write_bytes((folders / "a" / "adapter_config.json").read_bytes())
        (pickle / "adapter_model.bin").write_bytes(b"never read")
        shutil.copytree(folders / "a", tmp_path / "a")
        for name in ("README.md", "run_me.py", "training.pt"):
            (tmp_path / "a" / name).write_text("of no interest")
        here = Path(__file__).parent
        paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
        with HubStub() as stub:
            environment = {**os.environ, **stub.environment(tmp_path / "cache"), "PYTHONPATH": paths}
            environment.pop("HF_HUB_OFFLINE", None)
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(self.SCRIPT), str(tmp_path / "a"), str(pickle)],
                capture_output=True,
                text=True,
                env=environment,
                timeout=300,
            )
        assert done.returncode == 0 and done.stdout.strip().endswith("done"), done.stderr[-3000:]
