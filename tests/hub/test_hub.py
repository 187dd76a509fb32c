"""Coming and going: registration, bundled names, folders that cannot load, cards. Over HTTP: test_publishing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from rtjazz_hf import RealTimeJazzPipeline, hub
from rtjazz_hf.hub import loading, registration


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class TestRegistration:
    """`import rtjazz_hf` came first here; what goes to the loopback Hub imports the others first (test_publishing)."""

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
    @pytest.fixture(scope="class")
    def pipe(self):
        return RealTimeJazzPipeline.from_pretrained("rtjazz-mini")

    def test_loads_without_network_and_plays(self, pipe):
        pipe.set_progress_bar_config(disable=True)
        assert pipe.dtype == torch.float32
        audio = pipe("Bill Evans modal jazz", duration=1.0, generator=torch.Generator().manual_seed(1)).audios
        assert audio.shape == (1, 2, 48_000)
        assert abs(audio).max() < 1.0 and audio.std() > 1e-3

    def test_is_small(self, pipe):
        folder = hub.bundled_folder("rtjazz-mini")
        parts = (pipe.codec, pipe.transformer, pipe.style_encoder)
        assert sum(p.numel() for part in parts for p in part.parameters()) <= 32e6
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 64e6
