"""Every keyword of diffusers' audio pipelines, and every method of its adapters, tried on this one."""

from __future__ import annotations

import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from tiny_models import build_tiny_pipeline, make_adapter

from rtjazz_hf import RealTimeJazzPipeline
from rtjazz_hf.prompts import refuse_others

pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")

SHORT = {"duration": 0.2, "chords": "Dm7 | G7", "tempo": 132, "block_frames": 12, "window_frames": 24}
PIPELINES = ("StableAudioPipeline", "StableAudio3Pipeline", "StableAudio3InpaintPipeline",
             "StableAudio3AudioToAudioPipeline", "AceStepPipeline", "LongCatAudioDiTPipeline", "AudioLDM2Pipeline",
             "MusicLDMPipeline", "DanceDiffusionPipeline", "AudioDiffusionPipeline")  # fmt: skip
# What diffusers' mixin has for those who write pipelines, and the scale of one call, which is `adapter_scale` here.
INSIDE = {"lora_scale", "pack_weights", "write_lora_layers"}


def play(pipe, **options):
    return pipe("swing", generator=torch.Generator().manual_seed(1), **{**SHORT, **options}).audios


def parameters(function):
    return {p.name for p in inspect.signature(function).parameters.values()
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in ("self", "cls")}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_keywords_of_calls(name):
    kind = getattr(diffusers, name, None)
    if kind is None:
        pytest.skip(f"this diffusers has no {name}")
    for keyword in parameters(kind.__call__) - parameters(RealTimeJazzPipeline.__call__):
        refuse_others({keyword: None})
        with pytest.raises(ValueError, match=f"{keyword} is not taken: [a-z]"):
            refuse_others({keyword: 1})


class TestAdapters:
    @pytest.fixture
    def pipe(self, tmp_path):
        pipe = build_tiny_pipeline()
        for number, name in enumerate(("toy", "pixel")):
            make_adapter(tmp_path / name, number + 1)
            pipe.load_lora_weights(tmp_path / name, adapter_name=name)
        return pipe

    def test_every_method_is_there_with_its_keywords(self):
        for name, method in vars(LoraBaseMixin).items():
            if name.startswith("_") or name in INSIDE:
                continue
            own = getattr(RealTimeJazzPipeline, name)
            assert callable(own) == callable(getattr(LoraBaseMixin, name)), name
            if inspect.isfunction(method) and name != "enable_lora_hotswap":
                assert parameters(method) - {"kwargs"} <= parameters(own), name

    def test_the_examples_of_the_documentation(self, pipe):
        """diffusers' pages on LoRA: loading, set_adapters, enabling, fusing, hot swaps, deleting."""
        plain = play(pipe, adapter={})
        pipe.set_adapters(["pixel", "toy"], adapter_weights=[0.5, 1.0])
        assert sorted(pipe.get_active_adapters()) == ["pixel", "toy"]
        assert pipe.get_list_adapters() == {"transformer": ["toy", "pixel"]}
        mixed = play(pipe)
        pipe.disable_lora()
        np.testing.assert_array_equal(play(pipe), plain)
        pipe.enable_lora()
        np.testing.assert_array_equal(play(pipe), mixed)
        pipe.set_adapters("toy")  # else the other one is heard beside what is fused
        pipe.fuse_lora(components=["transformer"], adapter_names=["toy"], lora_scale=0.7, safe_fusing=True)
        assert pipe.fused_loras == {"toy"} and pipe.num_fused_loras == 1
        fused = play(pipe)
        pipe.unfuse_lora(components=["transformer"])
        assert pipe.num_fused_loras == 0
        pipe.set_adapters("toy", 0.7)
        np.testing.assert_allclose(play(pipe), fused, atol=1e-5)
        pipe.set_lora_device(["toy", "pixel"], "cpu")
        np.testing.assert_allclose(play(pipe), fused, atol=1e-5)
        pipe.delete_adapters("toy")
        assert pipe.get_list_adapters() == {"transformer": ["pixel"]}
        with pytest.raises(ValueError, match=r"components \['pixel'\].*adapter_names"):
            pipe.fuse_lora(["pixel"])
        with pytest.raises(ValueError, match="'toy' is not loaded"):
            pipe.set_lora_device(["toy"], "cpu")
        pipe.unload_lora_weights()
        np.testing.assert_array_equal(play(pipe), plain)

    def test_hot_swaps(self, pipe, tmp_path):
        pipe.enable_lora_hotswap(target_rank=16)
        pipe.set_adapters("pixel")
        pixel = play(pipe)
        pipe.set_adapters(["toy", "pixel"], [0.4, 0.6])
        make_adapter(tmp_path / "wide", 2, rank=8)
        pipe.load_lora_weights(tmp_path / "pixel", adapter_name="toy", hotswap=True)  # both are the same one now
        assert pipe.active_mix == (("pixel", 0.6), ("toy", 0.4))
        np.testing.assert_allclose(play(pipe), pixel, atol=1e-5)
        pipe.load_lora_weights(tmp_path / "wide", adapter_name="toy", hotswap=True)  # of any rank
        assert np.abs(play(pipe) - pixel).max() > 1e-4
        with pytest.raises(ValueError, match="'other' is not loaded"):
            pipe.load_lora_weights(tmp_path / "toy", adapter_name="other", hotswap=True)
        with pytest.raises(ValueError, match="hotswap=True"):
            pipe.load_lora_weights(tmp_path / "toy", adapter_name="toy")

    def test_layers_of_a_training_script(self, pipe, tmp_path):
        from peft import get_peft_model_state_dict

        trained = make_adapter(tmp_path / "x", 3)
        layers = get_peft_model_state_dict(trained, save_embedding_layers=False)
        pipe.save_lora_weights(tmp_path / "written", transformer_lora_layers=layers)
        name = pipe.load_lora_weights(tmp_path / "written", check_base=False)
        heard = play(pipe, adapter=name, adapter_scale=2.0)  # alpha 8 of rank 4, which tensors alone do not tell
        pipe.load_lora_weights(tmp_path / "x", "x")
        np.testing.assert_allclose(heard, play(pipe, adapter="x"), atol=1e-5)

    def test_weights_that_would_not_be_finite_are_not_fused(self, pipe):
        pipe.to(torch.float16)
        low = next(iter(pipe.adapter_bank.adapters["toy"].layers.values()))
        low.up.mul_(1e6)
        before = pipe.transformer
        with pytest.raises(ValueError, match="not finite"):
            pipe.fuse_lora(adapter_names=["toy"])
        assert pipe.transformer is before and not pipe.fused_loras

    def test_of_the_model_itself(self, pipe, tmp_path):
        """transformers' page on PEFT: the adapter is put on the model, beside the pipeline's own way."""
        want = play(pipe, adapter="toy")
        pipe.unload_lora_weights()
        plain = play(pipe)
        pipe.transformer.load_adapter(str(tmp_path / "toy"), adapter_name="toy")
        pipe.transformer.eval()
        np.testing.assert_allclose(play(pipe), want, atol=1e-5)
        pipe.transformer.disable_adapters()
        np.testing.assert_allclose(play(pipe), plain, atol=1e-5)
        pipe.transformer.enable_adapters()
        np.testing.assert_allclose(play(pipe), want, atol=1e-5)


class TestLoraConfigs:
    """PEFT's page on LoRA: what a config may say, trained by PEFT on the base, saved, and loaded here."""

    @pytest.mark.parametrize(
        "options",
        [{"use_rslora": True}, {"use_dora": True}, {"init_lora_weights": "gaussian"}, {"target_modules": "all-linear"},
         {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
         {"target_modules": r".*\.mlp\.(up|down)_proj"}, {"exclude_modules": ["layers.0.self_attn.q_proj"]},
         {"lora_dropout": 0.1}, {"init_lora_weights": "orthogonal"}],
        ids=lambda options: "-".join(options),
    )  # fmt: skip
    def test_plays_as_peft_plays_it(self, tmp_path, options):
        from peft import LoraConfig, get_peft_model

        pipe, twin = build_tiny_pipeline(), build_tiny_pipeline()
        torch.manual_seed(0)
        config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], **options})
        twin.transformer = get_peft_model(twin.transformer, config)
        with torch.no_grad():
            for parameter in twin.transformer.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        twin.transformer.eval().save_pretrained(tmp_path)
        plain = play(pipe)
        with pytest.warns(UserWarning, match="does not tell which weights"):
            pipe.load_lora_weights(tmp_path)
        np.testing.assert_allclose(play(pipe), play(twin), atol=1e-5)
        assert np.abs(play(pipe) - plain).max() > 1e-5

    @pytest.mark.parametrize("start", ["pissa", "olora"])
    def test_what_changed_its_base_is_refused(self, tmp_path, start):
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            build_tiny_pipeline().transformer, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=start)
        )
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"init_lora_weights='{start}'.*changed its base"):
            build_tiny_pipeline().load_lora_weights(tmp_path)
