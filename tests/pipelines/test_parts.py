"""The doors by which parts come into a pipeline, and what users of the libraries around wrap them in."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig
from tiny_models import build_tiny_pipeline, make_adapter

import rtjazz_hf
from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzFlowTransformer, RealTimeJazzPipeline
from rtjazz_hf.hub import COMPONENTS, MODELS, bundled_folder

SHORT = {"duration": 0.2, "chords": "Dm7 | G7", "tempo": 132, "block_frames": 12, "window_frames": 24}
BITS = {"bitsandbytes_8bit": {"load_in_8bit": True}, "bitsandbytes_4bit": {"load_in_4bit": True}}


def play(pipe, seed=1, **options):
    pipe.set_progress_bar_config(disable=True)
    return pipe("swing", generator=torch.Generator().manual_seed(seed), **{**SHORT, **options}).audios


@pytest.fixture
def quiet():
    """Nothing that was asked is dropped without a word, and nothing is told that was not asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "this CPU has no fast bfloat16")  # of the machine, not of what was asked
        yield


class TestNames:
    @pytest.mark.parametrize("part", ["scheduler", "tokenizer", "codec"])
    def test_the_bundled_one_opens_every_door_of_ours(self, part):
        kind = getattr(rtjazz_hf, COMPONENTS[part])
        assert type(kind.from_pretrained("rtjazz-mini")) is type(kind.from_pretrained("rtjazz-mini", subfolder=part))

    @pytest.mark.parametrize("names", MODELS.values(), ids=list(MODELS))
    def test_of_configs(self, names):
        kind = getattr(rtjazz_hf, names[0])
        folder, part = bundled_folder("rtjazz-mini"), kind.bundled_part
        assert kind.from_pretrained("rtjazz-mini").to_dict() == kind.from_pretrained(folder / part).to_dict()
        assert getattr(rtjazz_hf, names[1]).bundled_part == part and COMPONENTS[part] == names[1]


class TestTypes:
    def test_the_codec_is_float32_by_every_door(self, tiny_folder):
        want = RealTimeJazzCodec.from_pretrained(tiny_folder, subfolder="codec").state_dict()

        def same(codec):
            return all(torch.equal(value, want[name]) for name, value in codec.state_dict().items())

        with pytest.warns(UserWarning, match="RealTimeJazzCodec stays float32"):
            pipe = DiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16)
        assert pipe.transformer.dtype == torch.bfloat16 and same(pipe.codec)
        with pytest.warns(UserWarning, match="RealTimeJazzCodec stays float32"):
            assert same(RealTimeJazzCodec.from_pretrained(tiny_folder, subfolder="codec", dtype="float16"))

    def test_in_16_bits_if_it_is_meant(self, tiny_folder, quiet):
        dtype = {"default": torch.bfloat16, "codec": torch.bfloat16}
        pipe = RealTimeJazzPipeline.from_pretrained(tiny_folder, dtype=dtype)
        assert pipe.codec.dtype == pipe.transformer.dtype == torch.bfloat16
        assert RealTimeJazzPipeline.from_pretrained(tiny_folder, dtype="bf16").codec.dtype == torch.float32

    def test_double_is_refused_by_to(self):
        pipe = build_tiny_pipeline()
        with pytest.raises(ValueError, match="choose from float32"):
            pipe.to(torch.float64)
        assert pipe.transformer.dtype == torch.float32


class TestBits:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("bitsandbytes", reason="8 and 4 bits (the quant extra)")

    @pytest.mark.parametrize("backend", BITS)
    @pytest.mark.parametrize("components", [None, ["transformer"]], ids=["plain", "named"])
    def test_a_plain_config_plays(self, tiny_pipeline, tiny_folder, backend, components, quiet):
        config = PipelineQuantizationConfig(
            quant_backend=backend, quant_kwargs=BITS[backend], components_to_quantize=components
        )
        pipe = RealTimeJazzPipeline.from_pretrained(tiny_folder, quantization_config=config)
        assert pipe.transformer.is_quantized and config.components_to_quantize == components
        assert pipe.transformer.modulation.weight.is_floating_point()  # what decides much stays whole
        difference = np.abs(play(pipe) - play(tiny_pipeline)).max()
        assert 0 < difference < 0.02 * np.abs(play(tiny_pipeline)).max()

    def test_by_other_doors(self, tiny_pipeline, tiny_folder, tmp_path):
        from transformers import BitsAndBytesConfig

        config = PipelineQuantizationConfig(quant_backend="bitsandbytes_8bit", quant_kwargs={"load_in_8bit": True})
        with pytest.warns(UserWarning, match="RealTimeJazzCodec is not held in fewer bits"):
            pipe = DiffusionPipeline.from_pretrained(tiny_folder, quantization_config=config)
        want = play(pipe)
        plain = BitsAndBytesConfig(load_in_8bit=True)
        model = RealTimeJazzFlowTransformer.from_pretrained(
            tiny_folder, subfolder="transformer", quantization_config=plain
        )
        assert plain.llm_int8_skip_modules is None  # the user's own is left alone
        handed = RealTimeJazzPipeline.from_pretrained(tiny_folder, transformer=model)
        np.testing.assert_array_equal(play(handed), want)
        handed.save_pretrained(tmp_path)
        np.testing.assert_array_equal(play(RealTimeJazzPipeline.from_pretrained(tmp_path)), want)


class TestWrapped:
    @pytest.fixture
    def peft_model(self):
        peft = pytest.importorskip("peft", reason="wraps models (the train extra)")
        torch.manual_seed(0)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        return peft.get_peft_model(build_tiny_pipeline().transformer, config).eval()

    def test_a_peft_model_plays_by_every_door(self, tiny_pipeline, tiny_folder, peft_model):
        handed = RealTimeJazzPipeline.from_pretrained(tiny_folder, transformer=peft_model)
        put = RealTimeJazzPipeline.from_pretrained(tiny_folder)
        put.transformer = peft_model
        want = play(handed)
        np.testing.assert_array_equal(play(put), want)
        assert np.abs(want - play(tiny_pipeline)).max() > 1e-4
        with peft_model.disable_adapter():
            np.testing.assert_allclose(play(handed), play(tiny_pipeline), atol=1e-5)
        made = RealTimeJazzPipeline(
            **{**tiny_pipeline.components, "transformer": peft_model}, **tiny_pipeline.generation_defaults
        )
        np.testing.assert_array_equal(play(made), want)
        made.transformer = peft_model.merge_and_unload()
        np.testing.assert_allclose(play(made), want, atol=1e-5)

    def test_compiled_ones_play_the_same(self, tiny_pipeline, tiny_folder):
        pipe = RealTimeJazzPipeline.from_pretrained(tiny_folder)
        for part in ("transformer", "codec", "style_encoder"):
            setattr(pipe, part, torch.compile(getattr(pipe, part), backend="eager"))
        np.testing.assert_allclose(play(pipe), play(tiny_pipeline), atol=1e-5)
        with pipe.live("swing", seed=1, block_frames=12, window_frames=24) as session:
            first = next(session).latents
        with tiny_pipeline.live("swing", seed=1, block_frames=12, window_frames=24) as session:
            np.testing.assert_allclose(first, next(session).latents, atol=1e-5)

    def test_a_compiled_one_is_saved_and_adapted(self, tiny_pipeline, tiny_folder, tmp_path):
        pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")
        make_adapter(tmp_path / "a", 1)
        pipe, compiled = (RealTimeJazzPipeline.from_pretrained(tiny_folder) for _ in range(2))
        compiled.transformer = torch.compile(compiled.transformer, backend="eager")
        compiled.save_pretrained(tmp_path / "saved")
        np.testing.assert_allclose(
            play(RealTimeJazzPipeline.from_pretrained(tmp_path / "saved")), play(tiny_pipeline), atol=1e-5
        )
        for each in (pipe, compiled):
            each.load_lora_weights(tmp_path / "a", "a")
        assert np.abs(play(pipe) - play(tiny_pipeline)).max() > 1e-4
        np.testing.assert_allclose(play(compiled), play(pipe), atol=1e-5)


class TestKinds:
    def test_another_kind_is_refused_by_every_door(self, tiny_pipeline, tiny_folder):
        wrong = {"codec": tiny_pipeline.transformer, "transformer": torch.nn.Linear(2, 2), "tokenizer": "words"}
        pipe = RealTimeJazzPipeline.from_pretrained(tiny_folder)
        for part, value in wrong.items():
            match = f"{part} is a {type(value).__name__}: give a {COMPONENTS[part]}"
            for door in (
                lambda part=part, value=value: RealTimeJazzPipeline.from_pretrained(tiny_folder, **{part: value}),
                lambda part=part, value=value: RealTimeJazzPipeline(**{**pipe.components, part: value}),
                lambda part=part, value=value: setattr(pipe, part, value),
            ):
                with pytest.raises(ValueError, match=match):
                    door()
            with pytest.raises(ValueError, match=f"{part} is None"):
                setattr(pipe, part, None)
        np.testing.assert_array_equal(play(pipe), play(tiny_pipeline))  # it is as it was

    def test_parts_of_different_makes_are_refused(self, tiny_pipeline):
        other = build_tiny_pipeline(codec={"latent_dim": 32}, latent_dim=32)
        pipe = RealTimeJazzPipeline(**tiny_pipeline.components)
        for part in ("transformer", "codec"):
            with pytest.raises(ValueError, match="not made for each other"):
                setattr(pipe, part, getattr(other, part))


class TestCopies:
    def test_sessions_say_how_they_go_on_elsewhere(self, tiny_pipeline):
        with tiny_pipeline.live("swing", block_frames=12, window_frames=24) as session:
            for copied in (pickle.dumps, copy.deepcopy):
                with pytest.raises(TypeError, match="to_bytes"):
                    copied(session)
                with pytest.raises(TypeError, match="to_bytes"):
                    copied(tiny_pipeline.live_group())
