"""Trained folders to one pipeline folder: what it holds, how it loads, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scripts import ROOT, load_script
from tiny_models import build_tiny_pipeline
from transformers import AutoModel

from rtjazz_hf import RealTimeJazzPipeline, hub
from rtjazz_hf.evaluation.measures.instrument_probe import PROBE_NAME


@pytest.fixture(scope="module")
def script():
    return load_script("assemble_pipeline", "conversion")


def save_parts(pipe: RealTimeJazzPipeline, folder: Path) -> Path:
    """Folders as the training scripts leave them; the codec with a quantiser that was fitted."""
    codec = copy.deepcopy(pipe.codec)
    latents = torch.randn(200, codec.config.latent_dim, generator=torch.Generator().manual_seed(0))
    codec.quantizer.fit(latents, iterations=2, generator=torch.Generator().manual_seed(0))
    if pipe.transformer.config.prediction_type == "codebook":
        pipe.transformer.set_codebooks(codec.codebooks, codec.latents_offset)
    codec.save_pretrained(folder / "codec")
    pipe.transformer.save_pretrained(folder / "flow")
    pipe.style_encoder.save_pretrained(folder / "style")
    pipe.tokenizer.save_pretrained(folder / "style")
    return folder


@pytest.fixture(scope="module")
def parts(tiny_pipeline, tmp_path_factory) -> Path:
    return save_parts(tiny_pipeline, tmp_path_factory.mktemp("parts"))


def typed(parts: Path, out: Path, *more: str, **folders: Path) -> list[str]:
    folders = {"codec": parts / "codec", "transformer": parts / "flow", "style-encoder": parts / "style"} | {
        name.replace("_", "-"): folder for name, folder in folders.items()
    }
    options = [str(part) for name, folder in folders.items() for part in (f"--{name}", folder)]
    return [*options, "--steps", "2", "-o", str(out), *more]


@pytest.fixture(scope="module")
def assembled(script, parts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("assembled") / "tiny"
    assert script.main(typed(parts, out, "--guidance", "1.5", "--window-frames", "144", "--shift", "2")) == 0
    return out


class TestFolder:
    def test_settings_and_card(self, assembled):
        pipe = RealTimeJazzPipeline.from_pretrained(assembled)
        assert pipe.generation_defaults == {
            "num_inference_steps": 2, "guidance_scale": 1.5, "block_frames": 36, "window_frames": 144,
        }  # fmt: skip
        assert pipe.scheduler.config.shift == 2.0
        card = (assembled / "README.md").read_text()
        assert "# tiny\n" in card and "guidance_scale = 1.5" in card

    def test_parts_of_a_pipeline_make_it_again_and_its_probe_goes_along(self, script, assembled, tmp_path):
        (assembled / "style_encoder" / PROBE_NAME).write_bytes(b"probe")
        folders = {"codec": assembled, "transformer": assembled, "style_encoder": assembled}
        assert script.main(typed(assembled, tmp_path / "again", **folders)) == 0
        for part in ("codec", "transformer", "style_encoder"):
            one, other = (load_file(f / part / "model.safetensors") for f in (assembled, tmp_path / "again"))
            assert all(torch.equal(one[name], other[name]) for name in one)
        assert (tmp_path / "again" / "style_encoder" / PROBE_NAME).read_bytes() == b"probe"

    def test_a_distilled_transformer_is_played_as_it_was_taught(self, script, parts, tiny_pipeline, tmp_path):
        distilled = copy.deepcopy(tiny_pipeline.transformer)
        distilled.config.distilled_steps, distilled.config.distilled_shift = 3, 2.0
        distilled.save_pretrained(tmp_path / "flow")
        for more, expected in (([], (3, 1.0, 2.0)), (["--steps", "2", "--guidance", "1.5"], (2, 1.5, 2.0))):
            folders = typed(parts, tmp_path / "tiny", "--overwrite", transformer=tmp_path / "flow")
            without_steps = [word for word in folders if word not in ("--steps", "2")]
            assert script.main([*without_steps, *more]) == 0
            pipe = RealTimeJazzPipeline.from_pretrained(tmp_path / "tiny")
            assert (pipe.config.num_inference_steps, pipe.config.guidance_scale) == expected[:2]
            assert pipe.scheduler.config.shift == expected[2]

    def test_weights_are_16_bit_and_integers_untouched(self, assembled, parts):
        for part in ("codec", "transformer", "style_encoder"):
            with safe_open(assembled / part / "model.safetensors", framework="pt") as file:
                types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            assert set(types.values()) <= {"F16", "BOOL"}
            assert (part == "codec") == ("BOOL" in types.values())
        before = (parts / "flow" / "model.safetensors").stat().st_size
        after = (assembled / "transformer" / "model.safetensors").stat().st_size
        assert 0.45 * before < after < 0.6 * before

    def test_every_way_of_loading_computes_in_float32(self, assembled):
        for part in ("codec", "transformer", "style_encoder"):
            assert AutoModel.from_pretrained(assembled / part).dtype == torch.float32
        theirs = DiffusionPipeline.from_pretrained(str(assembled))
        assert {theirs.codec.dtype, theirs.transformer.dtype, theirs.style_encoder.dtype} == {torch.float32}

    def test_weights_are_the_trained_ones_rounded(self, assembled, tiny_pipeline):
        pipe = RealTimeJazzPipeline.from_pretrained(assembled)
        for part in ("transformer", "style_encoder"):
            loaded = getattr(pipe, part).state_dict()
            for name, trained in getattr(tiny_pipeline, part).state_dict().items():
                assert torch.equal(loaded[name], trained.half().float()), name

    def test_says_nothing_of_where_it_was_made(self, assembled, parts):
        for path in assembled.rglob("*.json"):
            assert str(parts) not in path.read_text() and ".partial" not in path.read_text()
        assert ".partial" not in (assembled / "README.md").read_text()

    def test_float32_keeps_every_bit(self, script, parts, tiny_pipeline, tmp_path):
        card = tmp_path / "card.md"
        card.write_text("{{name}} has {{parameters}}")
        assert script.main(typed(parts, tmp_path / "x", "--dtype", "float32", "--card", str(card))) == 0
        loaded = RealTimeJazzPipeline.from_pretrained(tmp_path / "x").transformer.state_dict()
        assert all(
            torch.equal(loaded[name], value) for name, value in tiny_pipeline.transformer.state_dict().items()
        )
        assert (tmp_path / "x" / "README.md").read_text().startswith("x has 0.")

    def test_a_codebook_transformer_wants_its_own_codec(self, script, parts, tmp_path, capsys):
        own = save_parts(build_tiny_pipeline(prediction_type="codebook"), tmp_path / "parts")
        assert script.main(typed(own, tmp_path / "x")) == 0
        codec = tmp_path / "other"
        codec.mkdir()
        weights = load_file(own / "codec" / "model.safetensors")
        weights["quantizer.layers.0.embed"] += 1.0
        save_file(weights, codec / "model.safetensors", metadata={"format": "pt"})
        (codec / "config.json").write_text((own / "codec" / "config.json").read_text())
        assert script.main(typed(own, tmp_path / "y", codec=codec)) == 1
        assert "codes of another codec" in capsys.readouterr().err


class TestOutput:
    def test_an_existing_pipeline_is_replaced_only_when_asked(self, script, parts, tmp_path, capsys):
        out = tmp_path / "x"
        out.mkdir()
        (out / "model_index.json").write_text("{}")
        (out / "old.txt").write_text("old")
        assert script.main(typed(parts, out)) == 1
        assert "--overwrite" in capsys.readouterr().err and (out / "old.txt").exists()
        assert script.main(typed(parts, out, "--overwrite")) == 0
        assert not (out / "old.txt").exists() and (out / "codec" / "model.safetensors").exists()

    def test_other_folders_and_files_are_left_alone(self, script, parts, tmp_path, capsys):
        (tmp_path / "music").mkdir()
        (tmp_path / "music" / "song.txt").write_text("la")
        for out in (tmp_path / "music", tmp_path / "music" / "song.txt"):
            assert script.main(typed(parts, out, "--overwrite")) == 1
            assert str(out) in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "music").iterdir()] == ["song.txt"]

    def test_a_folder_that_plays_differently_does_not_stay(
        self, script, parts, tmp_path, capsys, monkeypatch
    ):
        def damage(pipe, folder, dtype, card, save=script.save_pipeline):
            save(pipe, folder, dtype, card)
            weights = load_file(folder / "transformer" / "model.safetensors")
            weights[next(name for name in weights if name.endswith("input_proj.weight"))] += 0.01
            save_file(weights, folder / "transformer" / "model.safetensors", metadata={"format": "pt"})

        monkeypatch.setattr(script, "save_pipeline", damage)
        assert script.main(typed(parts, tmp_path / "x")) == 1
        assert "plays differently" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_a_bundled_name_has_a_size_limit(self, script, parts, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(script, "BUNDLED_MEGABYTES", 0.5)
        assert script.main(typed(parts, tmp_path / hub.BUNDLED_MODELS[0])) == 1
        assert "a bundled model may have" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


class TestBadInput:
    def damaged(self, parts: Path, folder: Path, part: str, change) -> Path:
        """A copy of a part with changed weights."""
        folder.mkdir()
        weights = load_file(parts / part / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text((parts / part / "config.json").read_text())
        return folder

    def test_weights_that_16_bits_cannot_hold(self, script, parts, tmp_path, capsys):
        def enlarge(weights):
            next(iter(weights.values())).view(-1)[0] = 1e5

        flow = self.damaged(parts, tmp_path / "flow", "flow", enlarge)
        assert script.main(typed(parts, tmp_path / "x", transformer=flow)) == 1
        said = capsys.readouterr().err
        assert "1e+05" in said and "--dtype" in said and not (tmp_path / "x").exists()

    def test_parts_of_the_wrong_kind_or_incomplete(self, script, parts, tmp_path, capsys):
        def refuse(**folders: Path) -> str:
            assert script.main(typed(parts, tmp_path / "x", **folders)) == 1
            return capsys.readouterr().err

        assert "no folder" in refuse(codec=tmp_path / "nowhere")
        assert "not a transformer" in refuse(transformer=parts / "codec")
        lacking = self.damaged(parts, tmp_path / "a", "flow", lambda weights: weights.popitem())
        assert "lacks weights" in refuse(transformer=lacking)
        cut = self.damaged(parts, tmp_path / "b", "style", lambda weights: None)
        assert "tokenizer.json" in refuse(style_encoder=cut)
        for path in (parts / "style").glob("tokenizer*.json"):
            shutil.copy(path, cut)
        path = cut / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        assert "cut short" in refuse(style_encoder=cut)

        def forget(weights):
            for name in weights:
                if name.endswith("inited"):
                    weights[name].fill_(False)

        unfitted = self.damaged(parts, tmp_path / "c", "codec", forget)
        assert "freeze_encoder_at" in refuse(codec=unfitted)
        config = json.loads((parts / "codec" / "config.json").read_text())
        (unfitted / "config.json").write_text(json.dumps({**config, "encoder_hidden_size": 64}))
        assert "does not load" in refuse(codec=unfitted)
        assert not (tmp_path / "x").exists()

    def test_settings_out_of_range(self, script, parts, tmp_path, capsys):
        assert script.main(typed(parts, tmp_path / "x", "--steps", "0")) == 1
        assert "num_inference_steps" in capsys.readouterr().err
        assert script.main(typed(parts, tmp_path / "x", "--block-frames", "7")) == 1
        assert "block_frames" in capsys.readouterr().err


class TestCardValues:
    TEMPLATE = ROOT / "model_cards" / "base.md"

    def test_the_template_is_filled(self, script, parts, tmp_path):
        values = {
            name: f"the {name}" for name in ("data", "rights", "training", "metrics", "limits", "licence")
        }
        (tmp_path / "card.json").write_text(json.dumps({**values, "metadata": {"datasets": ["me/takes"]}}))
        more = ["--card", str(self.TEMPLATE), "--card-values", str(tmp_path / "card.json")]
        assert script.main(typed(parts, tmp_path / "tiny", *more)) == 0
        card = (tmp_path / "tiny" / "README.md").read_text()
        assert "me/takes" in card and "{{" not in card and all(text in card for text in values.values())

    def test_what_is_missing_is_named(self, script, parts, tmp_path, capsys):
        for text, words in (("{}", "data, licence"), ("[]", "JSON object"), ('{"pipe": 1}', "JSON object")):
            (tmp_path / "card.json").write_text(text)
            more = ["--card", str(self.TEMPLATE), "--card-values", str(tmp_path / "card.json")]
            assert script.main(typed(parts, tmp_path / "tiny", *more)) == 1
            assert words in capsys.readouterr().err
        assert not (tmp_path / "tiny").exists()
