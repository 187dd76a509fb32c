"""Coming and going: registration, the loopback Hub, bundled names, folders that cannot load, cards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hub_stub import HubStub

from rtjazz_hf import RealTimeJazzPipeline, hub
from rtjazz_hf.hub import loading, registration


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class TestRegistration:
    """`import rtjazz_hf` came first here; the loopback test imports the others first."""

    @pytest.mark.parametrize("part", ["codec", "transformer", "style_encoder"])
    def test_auto_model_loads_a_component(self, tiny_pipeline, tiny_folder, part):
        from transformers import AutoConfig, AutoModel

        ours = getattr(tiny_pipeline, part)
        config = AutoConfig.from_pretrained(tiny_folder / part)
        assert type(config) is type(ours.config)
        loaded, info = AutoModel.from_pretrained(tiny_folder / part, output_loading_info=True)
        assert type(loaded) is type(ours)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        for name, value in ours.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name

    def test_auto_tokenizer(self, tiny_pipeline, tiny_folder):
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(tiny_folder / "tokenizer")
        assert type(loaded) is type(tiny_pipeline.tokenizer)
        text = "Medium swing, 132 bpm"
        assert loaded(text)["input_ids"] == tiny_pipeline.tokenizer(text)["input_ids"]

    def test_register_twice_is_harmless(self):
        hub.register()
        assert sys.meta_path.count(registration._RegisterOnImport) == 1

    def test_index_names_the_package(self, tiny_folder):
        index = json.loads((tiny_folder / "model_index.json").read_text())
        assert index["_class_name"] == "RealTimeJazzPipeline"
        assert {part: index[part] for part in hub.COMPONENTS} == {
            part: ["rtjazz_hf", name] for part, name in hub.COMPONENTS.items()
        }


class TestLoopbackHub:
    """A real push and real loads, over HTTP, in a process of its own."""

    SCRIPT = """
        import sys
        from transformers import AutoModel            # both before rtjazz_hf: registration must catch up
        from diffusers import DiffusionPipeline
        import rtjazz_hf, torch
        from huggingface_hub import scan_cache_dir
        from rtjazz_hf.hub import load_codec, part_folder

        def play(pipe):
            pipe.set_progress_bar_config(disable=True)
            generator = torch.Generator().manual_seed(3)
            return pipe("swing", duration=0.6, generator=generator, output_type="pt").audios

        local = rtjazz_hf.RealTimeJazzPipeline.from_pretrained(sys.argv[1])
        want = play(local)
        local.push_to_hub("stub/tiny", model_card="# by hand")
        local.push_to_hub("stub/tiny")                # keeps the card
        alone = load_codec("stub/tiny")
        assert all(torch.equal(a, b) for a, b in zip(local.codec.parameters(), alone.parameters()))
        files = {file.file_name for repo in scan_cache_dir().repos for rev in repo.revisions for file in rev.files}
        assert files == {"model_index.json", "config.json", "model.safetensors"}, "more than the codec"
        ours = rtjazz_hf.RealTimeJazzPipeline.from_pretrained("stub/tiny")
        assert torch.equal(want, play(ours)), "RealTimeJazzPipeline"
        assert ours.name_or_path == "stub/tiny"
        theirs = DiffusionPipeline.from_pretrained("stub/tiny")
        assert type(theirs) is rtjazz_hf.RealTimeJazzPipeline
        assert torch.equal(want, play(theirs)), "DiffusionPipeline"
        codec, info = AutoModel.from_pretrained("stub/tiny", subfolder="codec", output_loading_info=True)
        assert type(codec) is rtjazz_hf.RealTimeJazzCodec
        assert not info["missing_keys"] and not info["unexpected_keys"]
        local.codec.push_to_hub("stub/codec")
        assert part_folder("stub/tiny", "style_encoder").with_name("tokenizer").joinpath("tokenizer.json").is_file()
        assert load_codec("stub/codec").config.codebook_size == local.codec.config.codebook_size
        local.transformer.push_to_hub("stub/flow")
        again = rtjazz_hf.RealTimeJazzFlowTransformer.from_pretrained("stub/flow")
        assert all(torch.equal(a, b) for a, b in zip(local.transformer.parameters(), again.parameters()))
        try:
            rtjazz_hf.RealTimeJazzPipeline.from_pretrained("stub/nothing")
        except OSError as error:
            assert "stub/nothing" in str(error)
        else:
            raise AssertionError("an unknown id loaded")
        print("done")
    """

    def test_push_and_load(self, tiny_folder, tmp_path):
        with HubStub() as stub:
            environment = {**os.environ, **stub.environment(tmp_path / "cache")}
            environment.pop("HF_HUB_OFFLINE", None)
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(self.SCRIPT), str(tiny_folder)],
                capture_output=True,
                text=True,
                env=environment,
                timeout=300,
            )
            assert done.returncode == 0 and done.stdout.strip().endswith("done"), done.stderr[-3000:]
            files = stub.repositories["stub/tiny"].files
            assert files["README.md"] == b"# by hand"
            assert {name.split("/")[0] for name in files if "/" in name} == set(hub.COMPONENTS)


class TestCodecAlone:
    def test_of_a_pipeline_and_by_itself(self, tiny_pipeline, tiny_folder):
        for folder in (tiny_folder, tiny_folder / "codec"):
            codec = hub.load_codec(folder)
            assert not codec.training and codec.dtype == torch.float32
            for name, value in tiny_pipeline.codec.state_dict().items():
                assert torch.equal(value, codec.state_dict()[name]), name

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda folder: shutil.rmtree(folder / "codec"), "neither a pipeline nor a codec"),
            (lambda folder: edit_json(folder / "codec" / "config.json", model_type="encodec"), "'encodec'"),
            (lambda folder: (folder / "codec" / "model.safetensors").write_bytes(b"cut"), "cut short"),
            (lambda folder: edit_json(folder / "codec" / "config.json", decoder_layers=2), "lacks weights"),
            (lambda folder: edit_json(folder / "codec" / "config.json", overlap=0), "overlap=0"),
        ],
    )
    def test_refusals_name_the_folder(self, tiny_folder, tmp_path, spoil, words):
        folder = copy_of(tiny_folder, tmp_path)
        spoil(folder)
        with pytest.raises((OSError, ValueError), match=f"{folder}.*{words}"):
            hub.load_codec(folder)

    def test_a_part_is_a_folder_or_a_pipelines(self, tiny_folder, tmp_path):
        for part in ("codec", "style_encoder", "transformer"):
            assert hub.part_folder(tiny_folder, part) == hub.part_folder(tiny_folder / part, part)
        assert hub.part_folder("rtjazz-mini", "codec").name == "codec"
        for nowhere in (tmp_path, tmp_path / "nowhere", "nowhere"):
            with pytest.raises(OSError, match=str(nowhere)):
                hub.part_folder(nowhere, "codec")

    def test_another_part_of_a_pipeline(self, tiny_folder):
        with pytest.raises(ValueError, match="not a codec"):
            hub.load_codec(tiny_folder / "transformer")


class TestResolve:
    def test_bundled_name_wins_over_a_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "rtjazz-mini").mkdir()
        monkeypatch.setattr(loading, "bundled_folder", lambda name: Path("/bundled") / name)
        assert hub.resolve_pretrained("rtjazz-mini") == ("/bundled/rtjazz-mini", True)
        assert hub.resolve_pretrained("./rtjazz-mini") == ("rtjazz-mini", True)

    def test_hub_id(self):
        assert hub.resolve_pretrained("me/my-style") == ("me/my-style", False)

    @pytest.mark.parametrize("name", ["./nowhere", "/no/where/at/all", "a/b/c", "~nobody/x"])
    def test_no_such_folder(self, name):
        with pytest.raises(OSError, match="there is no folder"):
            hub.resolve_pretrained(name)

    @pytest.mark.parametrize("name", ["", "two words", "me/my style"])
    def test_impossible_name(self, name):
        with pytest.raises(ValueError, match="cannot be a model"):
            hub.resolve_pretrained(name)

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "model").write_text("x")
        with pytest.raises(OSError, match="is a file"):
            hub.resolve_pretrained(tmp_path / "model")

    def test_unknown_id_without_network(self):
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        with pytest.raises(OSError, match="'me/unheard-of' is neither a bundled model nor a folder"):
            RealTimeJazzPipeline.from_pretrained("me/unheard-of")


class TestBrokenFolders:
    """Each is refused with the name of the file or part at fault."""

    def load(self, folder: Path) -> None:
        RealTimeJazzPipeline.from_pretrained(folder)

    def test_no_index(self, tmp_path):
        with pytest.raises(OSError, match="no model_index"):
            self.load(tmp_path)

    def test_another_pipeline(self, tiny_folder, tmp_path):
        folder = copy_of(tiny_folder, tmp_path)
        edit_json(folder / "model_index.json", _class_name="FluxPipeline")
        with pytest.raises(ValueError, match="FluxPipeline"):
            self.load(folder)

    @pytest.mark.parametrize("part", sorted(hub.COMPONENTS))
    def test_missing_part(self, tiny_folder, tmp_path, part):
        folder = copy_of(tiny_folder, tmp_path)
        shutil.rmtree(folder / part)
        with pytest.raises(OSError, match=f"lacks its part '{part}'"):
            self.load(folder)

    @pytest.mark.parametrize("keep", [0, 4, 1000, -1])
    def test_truncated_weights(self, tiny_folder, tmp_path, keep):
        folder = copy_of(tiny_folder, tmp_path)
        path = folder / "transformer" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(OSError, match=r"transformer/model.safetensors.*cut short"):
            self.load(folder)

    def test_missing_weights(self, tiny_folder, tmp_path):
        folder = copy_of(tiny_folder, tmp_path)
        (folder / "codec" / "model.safetensors").unlink()
        with pytest.raises(OSError, match=r"codec has no model\.safetensors"):
            self.load(folder)

    def test_config_that_is_not_json(self, tiny_folder, tmp_path):
        folder = copy_of(tiny_folder, tmp_path)
        (folder / "codec" / "config.json").write_text("{oops")
        with pytest.raises(ValueError, match=r"codec/config.json is not JSON"):
            self.load(folder)

    def test_config_of_another_model(self, tiny_folder, tmp_path):
        folder = copy_of(tiny_folder, tmp_path)
        shutil.copy(folder / "codec" / "config.json", folder / "transformer" / "config.json")
        with pytest.raises(ValueError, match="realtime_jazz_codec"):
            self.load(folder)

    @pytest.mark.parametrize(
        "changes",
        [{"hidden_size": 128}, {"num_hidden_layers": 3}, {"hidden_size": "wide"}, {"latent_dim": 32}],
    )
    def test_wrong_config(self, tiny_folder, tmp_path, changes):
        folder = copy_of(tiny_folder, tmp_path)
        edit_json(folder / "transformer" / "config.json", **changes)
        with pytest.raises(ValueError, match=r"pipeline in|do not belong together"):
            self.load(folder)

    def test_weights_that_are_not_all_there(self, tiny_folder, tmp_path):
        from safetensors.torch import load_file, save_file

        folder = copy_of(tiny_folder, tmp_path)
        path = folder / "transformer" / "model.safetensors"
        weights = load_file(path)
        gone = sorted(weights)[0]
        save_file({name: w for name, w in weights.items() if name != gone}, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"lacks weights {gone}"):
            self.load(folder)


class TestCards:
    def test_saved_pipeline_has_one(self, tiny_pipeline, tiny_folder):
        card = (tiny_folder / "README.md").read_text()
        assert "library_name: diffusers" in card and "{{" not in card
        assert "num_inference_steps = 2" in card and "RealTimeJazzFlowTransformer" in card

    def test_an_existing_card_stays(self, tiny_pipeline, tmp_path):
        (tmp_path / "README.md").write_text("mine")
        tiny_pipeline.save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == "mine"

    def test_template_of_ones_own(self, tiny_pipeline):
        assert hub.model_card(tiny_pipeline, "me/x", "{{name}}: {{ takes }}", takes=20) == "me/x: 20"
        with pytest.raises(ValueError, match="takes"):
            hub.model_card(tiny_pipeline, "me/x", "{{ takes }}")


class TestBundledCheckpoint:
    def test_loads_without_network_and_plays(self):
        pipe = RealTimeJazzPipeline.from_pretrained("rtjazz-mini")
        pipe.set_progress_bar_config(disable=True)
        assert pipe.dtype == torch.float32
        audio = pipe("Bill Evans modal jazz", duration=1.0, generator=torch.Generator().manual_seed(1)).audios
        assert audio.shape == (1, 2, 48_000)
        assert abs(audio).max() < 1.0 and audio.std() > 1e-3

    def test_is_small(self):
        folder = hub.bundled_folder("rtjazz-mini")
        pipe = RealTimeJazzPipeline.from_pretrained("rtjazz-mini")
        parts = (pipe.codec, pipe.transformer, pipe.style_encoder)
        assert sum(p.numel() for part in parts for p in part.parameters()) <= 32e6
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 64e6
