"""Whole clips: saving and loading, seeds and batches, what may be asked and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import MOVING, build_tiny_pipeline, plucked_clip

from rtjazz_hf import Chord, LeadSheet, RealTimeJazzPipeline
from rtjazz_hf.live.engine import draw_noise, soft_limit

CHART = "Dm7 | G7 | Cmaj7 | %"
SHORT = 0.9  # seconds: two blocks, the second cut


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def play(pipe, prompt="medium swing piano trio", seed=1, **options):
    options = {"duration": SHORT, "chords": CHART, "tempo": 132, "output_type": "pt", **options}
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **options)


class TestOutput:
    def test_numpy_by_default(self, tiny_pipeline):
        out = tiny_pipeline("swing", duration=SHORT, generator=seeded(1))
        assert isinstance(out.audios, np.ndarray)
        assert out.audios.shape == (1, 2, 43_200) and out.audios.dtype == np.float32
        assert np.isfinite(out.audios).all() and abs(out.audios).max() < 1.0
        assert out.audios.std() > 1e-3
        assert tiny_pipeline.sampling_rate == 48_000
        assert isinstance(out.lead_sheets[0], LeadSheet)

    @pytest.mark.parametrize("duration", [1e-4, 0.48, 0.481, 1.0])
    def test_length_is_exact(self, tiny_pipeline, duration):
        out = play(tiny_pipeline, duration=duration)
        samples = max(1, round(duration * 48_000))
        assert out.audios.shape == (1, 2, samples)
        assert out.latents.shape == (1, 64, -(-samples // 640))

    def test_codes_are_those_of_the_latents(self, tiny_pipeline):
        out = play(tiny_pipeline, output_type="codes")
        assert out.audios is None
        assert out.codes.shape == (1, 4, 68) and out.codes.dtype == torch.int64
        assert out.codes.min() >= 0 and out.codes.max() < 64
        latents = play(tiny_pipeline, output_type="latents").latents
        assert torch.equal(out.codes, tiny_pipeline.codec.latents_to_codes(latents))

    def test_a_flow_that_knows_of_no_deviations_plays_with_a_codec_whose_tones_move(self, tmp_path):
        built = build_tiny_pipeline(codec=MOVING, latent_dim=40)
        assert built.codec.config.energy_dim == 40
        built.save_pretrained(tmp_path)
        pipe = RealTimeJazzPipeline.from_pretrained(tmp_path)
        out = play(pipe, output_type="codes")
        assert out.codes.shape == (1, 4, 68) and out.latents.shape[1] == 40
        assert torch.equal(play(pipe).audios, play(built).audios)
        assert len(next(pipe.live("swing", context=plucked_clip(1.0)[0].numpy(), block_frames=12)).latents) == 40
        with pytest.raises(ValueError, match="64 or 40 channels, the transformer's 48"):
            build_tiny_pipeline(codec=MOVING, latent_dim=48)

    def test_tuple(self, tiny_pipeline):
        audios, lead_sheets = play(tiny_pipeline, return_dict=False)
        assert torch.equal(audios, play(tiny_pipeline).audios) and len(lead_sheets) == 1
        codes, _ = play(tiny_pipeline, output_type="codes", return_dict=False)
        assert codes.shape == (1, 4, 68)

    def test_the_chart_is_followed(self, tiny_pipeline):
        sheet = play(tiny_pipeline).lead_sheets[0]
        assert sheet.tempo == 132
        assert sheet.spans[0].chord == Chord.parse("Dm7")

    def test_soft_limit(self):
        quiet = torch.linspace(-0.95, 0.95, 101)
        assert torch.equal(soft_limit(quiet), quiet)
        loud = soft_limit(torch.linspace(0.9, 50, 1001))
        assert loud.max() < 1.0 and (loud.diff() >= 0).all()


class TestRepeatability:
    def test_same_seed_twice_is_identical(self, tiny_pipeline):
        assert torch.equal(play(tiny_pipeline).audios, play(tiny_pipeline).audios)

    def test_another_seed_is_not(self, tiny_pipeline):
        assert not torch.allclose(play(tiny_pipeline, seed=1).latents, play(tiny_pipeline, seed=2).latents)

    def test_without_a_generator_it_is_random(self, tiny_pipeline):
        first, second = (
            tiny_pipeline("swing", duration=0.4, output_type="latents").latents for _ in range(2)
        )
        assert not torch.allclose(first, second)

    def test_batch_equals_singles(self, tiny_pipeline):
        prompts = [
            "medium swing piano trio",
            "bossa",
            {"fast bebop sax quartet": 0.7, "ballad": 0.3},
            "blues",
        ]
        together = tiny_pipeline(prompts, duration=SHORT, generator=seeded(1, 2, 3, 4), output_type="pt")
        for row, (prompt, generator) in enumerate(zip(prompts, seeded(1, 2, 3, 4))):
            alone = tiny_pipeline(prompt, duration=SHORT, generator=generator, output_type="pt")
            assert alone.lead_sheets[0] == together.lead_sheets[row]
            torch.testing.assert_close(alone.audios[0], together.audios[row], rtol=0, atol=1e-4)

    def test_one_generator_serves_a_batch(self, tiny_pipeline):
        generator = torch.Generator().manual_seed(1)
        latents = tiny_pipeline(
            ["swing"] * 2, duration=0.4, generator=generator, output_type="latents"
        ).latents
        assert not torch.allclose(latents[0], latents[1])

    def test_noise_is_drawn_in_frame_order(self):
        whole = draw_noise(seeded(1, 2), 72, 64, "cpu")
        generators = seeded(1, 2)
        pieces = [draw_noise(generators, 36, 64, "cpu") for _ in range(2)]
        assert torch.equal(whole, torch.cat(pieces, dim=-1))

    def test_less_noise_is_asked_of_the_scheduler(self, tiny_pipeline, tiny_folder, tmp_path):
        pipe = RealTimeJazzPipeline.from_pretrained(tiny_folder)
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, init_noise_sigma=0.5)
        quiet = pipe.prepare_latents(seeded(1), 36)
        assert torch.equal(quiet, 0.5 * tiny_pipeline.prepare_latents(seeded(1), 36))
        pipe.save_pretrained(tmp_path / "calm")
        again = RealTimeJazzPipeline.from_pretrained(tmp_path / "calm")
        assert again.scheduler.init_noise_sigma == 0.5
        less, same, more = (play(each, duration=0.6).latents for each in (pipe, again, tiny_pipeline))
        assert torch.equal(less, same) and not torch.allclose(less, more)

    def test_conditions_matter(self, tiny_pipeline):
        plain = play(tiny_pipeline, duration=0.4).latents
        for change in (
            {"chords": "Ebm7 | Ab7"},
            {"tempo": 90},
            {"prompt": "slow ballad, muted trumpet", "chords": CHART},
            {"guidance_scale": 1.0},
            {"num_inference_steps": 3},
        ):
            assert not torch.allclose(plain, play(tiny_pipeline, duration=0.4, **change).latents), change


class TestBlocks:
    """Playing with the cache is the same as playing without."""

    @pytest.mark.parametrize("block_frames", [6, 24])
    def test_cached_equals_uncached(self, tiny_pipeline, block_frames):
        pipe, blocks = tiny_pipeline, 4
        prompt, generators = "medium swing piano trio", seeded(5)
        sheet = LeadSheet.from_chart(CHART, tempo=150)
        steps = pipe.config.num_inference_steps
        cached = pipe(
            prompt,
            duration=blocks * block_frames / 75,
            lead_sheet=sheet,
            block_frames=block_frames,
            window_frames=2 * block_frames,
            guidance_scale=1.0,
            generator=generators,
            output_type="latents",
        ).latents

        style, noise = pipe.encode_prompt(prompt), seeded(5)
        features = pipe.prepare_features([sheet], 0, blocks * block_frames)
        past = torch.zeros(1, 64, 0)
        for block in range(blocks):
            latents = pipe.prepare_latents(noise, block_frames)
            pipe.scheduler.set_timesteps(steps)
            seen = (block + 1) * block_frames
            for t in pipe.scheduler.timesteps:
                with torch.no_grad():  # every block again, each time, from clean neighbours: no cache
                    velocity = pipe.transformer(
                        torch.cat([past, latents], dim=-1),
                        t.expand(1),
                        lead_sheet=features[:, :seen],
                        style=style,
                        context=torch.cat([past, latents], dim=-1),
                        block_frames=block_frames,
                        window_frames=2 * block_frames,
                    ).sample[..., -block_frames:]
                latents = pipe.scheduler.step(velocity, t, latents).prev_sample
            past = torch.cat([past, latents], dim=-1)
        torch.testing.assert_close(cached, past, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("cut", [1, 36, 50])
    def test_decoding_in_pieces(self, tiny_pipeline, cut):
        latents = play(tiny_pipeline).latents
        whole = tiny_pipeline.prepare_stream(seeded(0)).decode(latents)
        stream = tiny_pipeline.prepare_stream(seeded(0))
        pieces = [stream.decode(latents[..., :cut]), stream.decode(latents[..., cut:])]
        torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, rtol=0, atol=1e-4)

    def test_callback(self, tiny_pipeline):
        seen = []

        def callback(pipe, step, timestep, tensors):
            assert pipe is tiny_pipeline
            seen.append((step, float(timestep)))
            return {"latents": tensors["latents"] * 0}

        latents = play(tiny_pipeline, callback_on_step_end=callback, output_type="latents").latents
        assert [step for step, _ in seen] == [0, 1, 2, 3]  # two blocks of two steps
        assert seen[0][1] == 0.0 and not latents.any()

    def test_cue_channels_stay_inside(self):
        pipe = build_tiny_pipeline(cue_channels=8)
        out = play(pipe)
        assert out.latents.shape[1] == 64 and torch.isfinite(out.audios).all()

    def test_codebook_prediction(self):
        pipe = build_tiny_pipeline(prediction_type="codebook")
        pipe.transformer.set_codebooks(pipe.codec.codebooks, pipe.codec.latents_offset)
        assert torch.isfinite(play(pipe).audios).all()

    def test_heun(self, tiny_pipeline):
        scheduler = tiny_pipeline.scheduler
        pipe = RealTimeJazzPipeline(
            **{
                **tiny_pipeline.components,
                "scheduler": type(scheduler).from_config(scheduler.config, method="heun"),
            }
        )
        pipe.set_progress_bar_config(disable=True)
        assert not torch.allclose(
            play(pipe, num_inference_steps=2, guidance_scale=1.5).latents, play(tiny_pipeline).latents
        )


class TestPrompts:
    def test_mix_lies_between(self, tiny_pipeline):
        one, two, mix = tiny_pipeline.encode_prompt(["swing", "bossa", {"swing": 0.5, "bossa": 0.5}])
        assert mix.norm().item() == pytest.approx(1.0, abs=1e-5)
        torch.testing.assert_close(mix @ one, mix @ two, rtol=0, atol=1e-5)

    def test_weights_are_relative(self, tiny_pipeline):
        one, two = tiny_pipeline.encode_prompt([{"swing": 0.2, "bossa": 0.6}, {"swing": 1, "bossa": 3}])
        torch.testing.assert_close(one, two)

    def test_clip_alone_and_in_a_mix(self, tiny_pipeline):
        clip = np.random.default_rng(0).normal(0, 0.1, (2, 24_000)).astype(np.float32)
        alone = tiny_pipeline.encode_prompt(clip)
        mixed = tiny_pipeline.encode_prompt((("swing", 0.5), (clip, 0.5)))
        assert alone.shape == mixed.shape == (1, 512) and not torch.allclose(alone, mixed)
        assert torch.isfinite(play(tiny_pipeline, prompt=clip).audios).all()

    def test_neighbours_do_not_matter(self, tiny_pipeline):
        alone = tiny_pipeline.encode_prompt("swing")
        among = tiny_pipeline.encode_prompt(["swing", "a very much longer prompt about a slow ballad"])
        assert torch.equal(alone[0], among[0])

    def test_long_prompts_are_cut(self, tiny_pipeline):
        assert tiny_pipeline.encode_prompt("swing " * 500).shape == (1, 512)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"prompt": ""}, "prompt is empty"),
            ({"prompt": "  \n"}, "prompt is empty"),
            ({"prompt": []}, "empty list"),
            ({"prompt": {}}, "empty mix"),
            ({"prompt": {"swing": -1}}, "weight -1"),
            ({"prompt": {"swing": 0, "bossa": 0}}, "all weights"),
            ({"prompt": {"swing": float("nan")}}, "weight nan"),
            ({"prompt": 7}, "prompt of type int"),
            ({"prompt": np.zeros((3, 48_000), np.float32)}, r"shape \(3, 48000\)"),
            ({"prompt": np.full((2, 48_000), np.nan, np.float32)}, "NaN"),
            ({"duration": 0}, "duration 0"),
            ({"duration": -1.0}, "duration -1"),
            ({"duration": float("nan")}, "duration nan"),
            ({"duration": 600.1}, "at most 600"),
            ({"duration": "10"}, "duration '10'"),
            ({"chords": "Hm7 | G7"}, "Hm7"),
            ({"chords": "|: Dm7 | G7"}, "repeat"),
            ({"chords": "7/5 Dm7 | G7"}, "7/5"),
            ({"tempo": 39}, "tempo 39.*40"),
            ({"tempo": 321}, "320"),
            ({"tempo": float("nan")}, "tempo"),
            ({"key": "H"}, "key 'H'"),
            ({"mood": "grumpy"}, "grumpy"),
            ({"instruments": ["kazoo"]}, "kazoo"),
            ({"num_inference_steps": 0}, "num_inference_steps 0"),
            ({"num_inference_steps": 2.5}, "num_inference_steps 2.5"),
            ({"guidance_scale": -1}, "guidance_scale -1"),
            ({"guidance_scale": float("inf")}, "guidance_scale inf"),
            ({"block_frames": 37}, "6, 12, 24, 36, 48"),
            ({"window_frames": 751}, "window_frames 751"),
            ({"output_type": "wav"}, "np, pt, codes, latents"),
            ({"lead_sheet": "Dm7"}, "lead_sheet"),
            ({"prompt": ["swing"] * 3, "tempo": [100, 120]}, "2 values of tempo for 3 prompts"),
        ],
    )
    def test_is_named(self, tiny_pipeline, change, words):
        with pytest.raises(ValueError, match=words):
            play(tiny_pipeline, **change)

    def test_generators_must_match(self, tiny_pipeline):
        with pytest.raises(ValueError, match="a list of 2"):
            tiny_pipeline(["swing", "bossa"], duration=0.4, generator=seeded(1, 2, 3))

    def test_lead_sheets_must_match(self, tiny_pipeline):
        sheet = LeadSheet.from_chart(CHART)
        with pytest.raises(ValueError, match="2 lead sheets for 3 prompts"):
            play(tiny_pipeline, prompt=["swing"] * 3, lead_sheet=[sheet, sheet])

    def test_parts_that_do_not_fit(self):
        with pytest.raises(ValueError, match="64 channels, the transformer's 32"):
            build_tiny_pipeline(latent_dim=32)
        with pytest.raises(ValueError, match="reads 7 lead sheet features"):
            build_tiny_pipeline(lead_sheet_dim=7)


class TestSaving:
    def test_round_trip_is_bit_equal(self, tiny_pipeline, tiny_folder):
        loaded = RealTimeJazzPipeline.from_pretrained(tiny_folder)
        loaded.set_progress_bar_config(disable=True)
        assert loaded.generation_defaults == tiny_pipeline.generation_defaults
        assert torch.equal(play(loaded).audios, play(tiny_pipeline).audios)

    def test_diffusion_pipeline_finds_the_class(self, tiny_pipeline, tiny_folder):
        from diffusers import DiffusionPipeline

        loaded = DiffusionPipeline.from_pretrained(tiny_folder)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is RealTimeJazzPipeline
        assert torch.equal(play(loaded).audios, play(tiny_pipeline).audios)

    def test_sixteen_bit_weights_load_as_float32_unless_told(self, tmp_path):
        build_tiny_pipeline().to(torch.bfloat16).save_pretrained(tmp_path)
        loaded = RealTimeJazzPipeline.from_pretrained(tmp_path)
        assert {part.dtype for part in (loaded.codec, loaded.transformer, loaded.style_encoder)} == {
            torch.float32
        }
        for dtype in (torch.bfloat16, "bfloat16"):
            loaded = RealTimeJazzPipeline.from_pretrained(tmp_path, dtype=dtype)
            assert (loaded.transformer.dtype, loaded.codec.dtype) == (torch.bfloat16, torch.float32)
        loaded.set_progress_bar_config(disable=True)
        assert torch.isfinite(play(loaded).audios).all()
        with pytest.raises(ValueError, match="float99"):
            RealTimeJazzPipeline.from_pretrained(tmp_path, dtype="float99")

    def test_an_attached_adapter_is_refused(self, tmp_path):
        pytest.importorskip("peft")
        from peft import LoraConfig

        pipe = build_tiny_pipeline()
        targets = [name for name, m in pipe.transformer.named_modules() if isinstance(m, torch.nn.Linear)][:1]
        pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=targets))
        with pytest.raises(ValueError, match="adapter is attached to 'transformer'"):
            pipe.save_pretrained(tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "wrong", [{"block_frames": 35}, {"num_inference_steps": 0}, {"guidance_scale": "much"}]
    )
    def test_wrong_defaults_are_refused(self, tiny_pipeline, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RealTimeJazzPipeline(**tiny_pipeline.components, **wrong)
