"""The pipeline's contract with users of diffusers: schedulers, seeds, components, types, callbacks."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from tiny_models import build_tiny_pipeline, make_adapter, plucked_clip

from rtjazz_hf import FlowMatchScheduler, RealTimeJazzPipeline
from rtjazz_hf.audio import resample, write_audio

SHORT = {"duration": 0.2, "chords": "Dm7 | G7", "tempo": 132, "block_frames": 12, "window_frames": 24}


def play(pipe, seed=1, **options):
    return pipe("swing", generator=torch.Generator().manual_seed(seed), **{**SHORT, **options}).audios


class TestScheduler:
    @pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, DDIMScheduler])
    def test_another_is_refused_by_every_door(self, tiny_pipeline, tiny_folder, kind):
        before, other = tiny_pipeline.scheduler, kind()
        with pytest.raises(ValueError, match=f"{kind.__name__}.*FlowMatchScheduler"):
            tiny_pipeline.scheduler = other
        assert tiny_pipeline.scheduler is before is tiny_pipeline.models.scheduler
        with pytest.raises(ValueError, match=kind.__name__):
            RealTimeJazzPipeline(**{**tiny_pipeline.components, "scheduler": other})
        with pytest.raises(ValueError, match=kind.__name__):
            RealTimeJazzPipeline.from_pretrained(tiny_folder, scheduler=other)

    def test_its_own_kind_is_heard(self, tiny_pipeline):
        before, music = tiny_pipeline.scheduler, play(tiny_pipeline)
        try:
            tiny_pipeline.scheduler = FlowMatchScheduler.from_config(before.config, shift=4.0)
            assert not np.array_equal(play(tiny_pipeline), music)
        finally:
            tiny_pipeline.scheduler = before


class TestSeeds:
    def test_torchs_own_generator(self, tiny_pipeline):
        def out(seed):
            torch.manual_seed(seed)
            return tiny_pipeline(["swing", "bossa nova"], **SHORT)

        one, same, other = out(0), out(0), out(1)
        np.testing.assert_array_equal(one.audios, same.audios)
        assert one.seeds == same.seeds and not set(one.seeds) & set(other.seeds) and len(set(one.seeds)) == 2
        again = tiny_pipeline(
            ["swing", "bossa nova"], generator=[torch.Generator().manual_seed(s) for s in one.seeds], **SHORT
        )
        np.testing.assert_array_equal(again.audios, one.audios)  # a liked take is not lost

    def test_told_only_where_they_play_it_again(self, tiny_pipeline):
        generator = torch.Generator().manual_seed(3)
        assert tiny_pipeline("swing", generator=generator, **SHORT).seeds == [3]
        assert tiny_pipeline(["swing"] * 2, generator=generator, **SHORT).seeds is None

    def test_live_draws_too(self, tiny_pipeline):
        def seed_of(number):
            torch.manual_seed(number)
            with tiny_pipeline.live("swing", block_frames=12, window_frames=24) as session:
                return session.seed

        assert seed_of(0) == seed_of(0) != seed_of(1)

    @pytest.mark.parametrize("wrong", [42, "42", [42], [torch.Generator()] * 2])
    def test_what_is_no_generator(self, tiny_pipeline, wrong):
        with pytest.raises(ValueError, match=r"torch\.Generator"):
            tiny_pipeline("swing", generator=wrong, **SHORT)


class TestComponents:
    def test_defaults_travel_with_the_model(self, tiny_pipeline):
        student = build_tiny_pipeline().transformer
        student.config.distilled_steps = 2
        parts = {**tiny_pipeline.components, "transformer": student}
        assert RealTimeJazzPipeline(**parts).generation_defaults["num_inference_steps"] == 2
        assert RealTimeJazzPipeline(**parts).generation_defaults["guidance_scale"] == 1.0
        assert RealTimeJazzPipeline(**tiny_pipeline.components).generation_defaults["num_inference_steps"] == 8

    def test_one_that_is_missing_is_named(self, tiny_pipeline):
        with pytest.raises(ValueError, match="transformer is None"):
            RealTimeJazzPipeline(**{**tiny_pipeline.components, "transformer": None})

    @pytest.mark.parametrize("arguments", [(torch.bfloat16,), ("cpu", torch.bfloat16)])
    def test_the_codec_stays_as_it_is(self, arguments):
        pipe = build_tiny_pipeline()
        before = {name: value.clone() for name, value in pipe.codec.state_dict().items()}
        assert pipe.to(*arguments) is pipe
        assert pipe.transformer.dtype == pipe.style_encoder.dtype == torch.bfloat16
        after = pipe.codec.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before) and pipe.codec is pipe.models.codec
        assert np.isfinite(play(pipe)).all()

    @pytest.mark.parametrize(("name", "dtype"), [("auto", torch.float32), ("fp16", torch.float16)])
    def test_names_of_types(self, tiny_folder, name, dtype):
        assert RealTimeJazzPipeline.from_pretrained(tiny_folder, dtype=name).transformer.dtype == dtype

    def test_double_is_refused(self, tiny_folder):
        with pytest.raises(ValueError, match="choose from float32"):
            RealTimeJazzPipeline.from_pretrained(tiny_folder, dtype=torch.float64)

    def test_from_pipe_takes_the_adapters_along(self, tiny_pipeline, tmp_path):
        pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")
        make_adapter(tmp_path / "a", 1)
        tiny_pipeline.load_lora_weights(tmp_path / "a", "a")
        try:
            tiny_pipeline.set_adapters("a", 0.5)
            made = RealTimeJazzPipeline.from_pipe(tiny_pipeline)
            assert made.active_mix == (("a", 0.5),)
            np.testing.assert_array_equal(play(made), play(tiny_pipeline))
            with pytest.raises(ValueError, match="trained on"):
                RealTimeJazzPipeline.from_pipe(tiny_pipeline, transformer=build_tiny_pipeline(7).transformer)
        finally:
            tiny_pipeline.unload_lora_weights()

    def test_what_is_handed_in_is_not_the_folder_s(self, tiny_folder):
        other = build_tiny_pipeline(num_hidden_layers=1).transformer
        assert RealTimeJazzPipeline.from_pretrained(tiny_folder, transformer=other).transformer is other

    def test_pickles(self, tiny_pipeline):
        copied = pickle.loads(pickle.dumps(tiny_pipeline))
        np.testing.assert_array_equal(play(copied), play(tiny_pipeline))

    def test_a_file_is_no_folder(self, tiny_pipeline, tmp_path):
        (tmp_path / "x").write_text("mine")
        with pytest.raises(NotADirectoryError, match="is a file"):
            tiny_pipeline.save_pretrained(tmp_path / "x")


class TestCallbacks:
    def test_tensor_inputs(self, tiny_pipeline):
        seen = []
        play(tiny_pipeline, callback_on_step_end=lambda p, i, t, given: seen.append(set(given)),
             callback_on_step_end_tensor_inputs=["latents"])  # fmt: skip
        assert seen and set.union(*seen) == {"latents"}
        with pytest.raises(ValueError, match=r"prompt_embeds.*choose from latents"):
            play(tiny_pipeline, callback_on_step_end_tensor_inputs=["prompt_embeds"])

    def test_interrupt_ends_with_the_block(self, tiny_pipeline):
        def stop(pipe, step, t, given):
            pipe._interrupt = True
            return {}

        whole, cut = play(tiny_pipeline, duration=0.5), play(tiny_pipeline, duration=0.5, callback_on_step_end=stop)
        assert cut.shape[-1] == 12 * 640 < whole.shape[-1]
        assert play(tiny_pipeline, duration=0.5).shape == whole.shape  # the next call begins anew

    def test_one_that_returns_no_dict(self, tiny_pipeline):
        with pytest.raises(ValueError, match="returned a Tensor: return a dict"):
            play(tiny_pipeline, callback_on_step_end=lambda p, i, t, given: given["latents"])


class TestKeywords:
    def test_takes_of_each_prompt(self, tiny_pipeline):
        out = tiny_pipeline(["swing", "bossa nova"], num_waveforms_per_prompt=2, **{**SHORT, "tempo": [100, 140]})
        assert len(out.audios) == 4 and [s.tempo for s in out.lead_sheets] == [100, 100, 140, 140]
        assert not np.array_equal(out.audios[0], out.audios[1])

    def test_prompt_embeds(self, tiny_pipeline):
        embeds = tiny_pipeline.encode_prompt("swing")
        np.testing.assert_array_equal(play(tiny_pipeline, prompt_embeds=embeds), play(tiny_pipeline))
        assert not np.array_equal(play(tiny_pipeline, prompt_embeds=-embeds), play(tiny_pipeline))
        for wrong in (embeds[0], embeds[:, :9], embeds * float("nan"), "swing"):
            with pytest.raises(ValueError, match="prompt_embeds"):
                play(tiny_pipeline, prompt_embeds=wrong)

    def test_a_band_for_each(self, tiny_pipeline):
        out = tiny_pipeline(["swing"] * 2, instruments=[["piano", "bass"], ["vibraphone", "drums"]], **SHORT)
        assert [set(s.instruments) for s in out.lead_sheets] == [{"piano", "bass"}, {"vibraphone", "drums"}]
        with pytest.raises(ValueError, match="3 prompts"):
            tiny_pipeline(["swing"] * 3, instruments=[["piano"], ["bass"]], **SHORT)

    @pytest.mark.parametrize("name", ["negative_prompt", "latents", "audio_end_in_s", "callback"])
    def test_others_say_what_to_do(self, tiny_pipeline, name):
        play(tiny_pipeline, **{name: None})
        with pytest.raises(ValueError, match=f"{name} is not taken: "):
            play(tiny_pipeline, **{name: 1})
        with pytest.raises(TypeError, match="unexpected keyword argument 'sheeps'"):
            play(tiny_pipeline, sheeps=1)

    @pytest.mark.parametrize("scale", [5.5, -0.1])
    def test_guidance_has_a_bound(self, tiny_pipeline, scale):
        with pytest.raises(ValueError, match="from 0 to 5"):
            play(tiny_pipeline, guidance_scale=scale)

    def test_update_after_close(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", block_frames=12, window_frames=24)
        session.close()
        with pytest.raises(ValueError, match="closed"):
            session.update(tempo=140)


class TestClips:
    def test_every_form_sounds_alike(self, tiny_pipeline, tmp_path):
        clip = plucked_clip()[0].numpy()
        low = resample(clip, 48_000, 24_000)
        write_audio(tmp_path / "trio.wav", low, sampling_rate=24_000)
        want = tiny_pipeline.encode_prompt(resample(low, 24_000))
        for form in ((24_000, low), (24_000, low.T), {"array": low, "sampling_rate": 24_000}, tmp_path / "trio.wav",
                     (24_000, np.int16(low.T * 32767))):  # fmt: skip
            assert (tiny_pipeline.encode_prompt(form) @ want.T).item() > 0.99
        held = {"path": "somewhere/trio.wav", "bytes": (tmp_path / "trio.wav").read_bytes()}  # Audio(decode=False)
        decoder = SimpleNamespace(
            get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(low), sample_rate=24_000)
        )  # as datasets' Audio() of version 4 and newer gives
        for form in (held, decoder):
            assert (tiny_pipeline.encode_prompt(form) @ want.T).item() > 0.99
        with pytest.raises(ValueError, match=r"holds no sound.*Path"):
            tiny_pipeline.encode_prompt({"path": str(tmp_path / "trio.wav"), "bytes": None})
        assert tiny_pipeline.encode_prompt((("swing", 0.5), ((24_000, low), 0.5))).shape == want.shape
        with pytest.raises(ValueError, match="rate 1"):
            tiny_pipeline.encode_prompt((1, low))

    def test_a_name_in_a_string_is_told(self, tiny_pipeline):
        with pytest.raises(ValueError, match=r"name of a sound file.*Path"):
            play_words(tiny_pipeline, "trio.wav")


def play_words(pipe, words):
    return pipe(words, **SHORT)


class TestBroken:
    def test_weights_that_are_not_finite_are_refused_by_name(self, tmp_path):
        pipe = build_tiny_pipeline()
        name, parameter = next(iter(pipe.transformer.named_parameters()))
        with torch.no_grad():
            parameter.view(-1)[0] = float("nan")
        pipe.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"NaN or infinite values in {name}"):
            RealTimeJazzPipeline.from_pretrained(tmp_path)

    def test_a_block_that_is_not_finite_is_never_heard(self, caplog):
        pipe = build_tiny_pipeline()
        with pipe.live("swing", block_frames=12, window_frames=24) as session:
            assert np.abs(next(session).audio).max() > 0
            parameter = next(p for n, p in pipe.transformer.named_parameters() if "norm" in n or p.ndim == 1)
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.fill_(float("nan"))
            silent = next(session).audio
            assert np.isfinite(silent).all() and np.abs(silent).max() == 0 and "not finite" in caplog.text
            with pytest.raises(ValueError, match="not finite"):
                play(pipe)
            with torch.no_grad():
                parameter.copy_(kept)
            later = [next(session).audio for _ in range(3)]
            assert np.isfinite(later).all() and np.abs(later[-1]).max() > 0

    @pytest.mark.parametrize(
        ("part", "name", "value"),
        [("transformer", "num_hidden_layers", 10**9), ("style_encoder", "layer_norm_eps", -1.0),
         ("style_encoder", "layer_norm_eps", float("nan")), ("codec", "decoder_hidden_size", 10**12)],
    )  # fmt: skip
    def test_configs_are_bounded_before_anything_is_built(self, tiny_folder, tmp_path, part, name, value):
        shutil.copytree(tiny_folder, tmp_path / "x")
        path = tmp_path / "x" / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
        with pytest.raises(ValueError, match=f"{name} is"):
            RealTimeJazzPipeline.from_pretrained(tmp_path / "x")

    def test_deep_json(self, tiny_folder, tmp_path):
        shutil.copytree(tiny_folder, tmp_path / "x")
        (tmp_path / "x" / "codec" / "config.json").write_text("[" * 100_000)
        with pytest.raises(ValueError, match="is not JSON"):
            RealTimeJazzPipeline.from_pretrained(tmp_path / "x")

    @pytest.mark.parametrize(
        ("file", "name", "value"),
        [("scheduler/scheduler_config.json", "shift", None), ("scheduler/scheduler_config.json", "shift", 1e308),
         ("transformer/config.json", "num_attention_heads", 0), ("transformer/config.json", "rope_theta", 0.0),
         ("style_encoder/config.json", "num_mel_bins", 0), ("codec/config.json", "seanet_strides", None),
         ("model_index.json", "guidance_scale", 1e308), ("model_index.json", "window_frames", 1e308)],
    )  # fmt: skip
    def test_the_setting_is_named(self, tiny_folder, tmp_path, file, name, value):
        shutil.copytree(tiny_folder, tmp_path / "x")
        path = tmp_path / "x" / file
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
        with pytest.raises(ValueError, match=rf"{name}( is |=| ){re.escape(str(value))}"):
            RealTimeJazzPipeline.from_pretrained(tmp_path / "x")

    def test_no_default_is_the_class_s(self, tiny_folder, tmp_path):
        shutil.copytree(tiny_folder, tmp_path / "x")
        path = tmp_path / "x" / "model_index.json"
        nothing = dict.fromkeys(("num_inference_steps", "guidance_scale", "block_frames", "window_frames"))
        path.write_text(json.dumps({**json.loads(path.read_text()), **nothing}))
        defaults = RealTimeJazzPipeline.from_pretrained(tmp_path / "x").generation_defaults
        assert (defaults["block_frames"], defaults["window_frames"]) == (36, 300)
