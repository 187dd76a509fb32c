from __future__ import annotations

import copy

import pytest
import torch
from flow_models import TINY, build_inputs, build_model, play

from rtjazz_hf.flow import (
    FlowMatchScheduler,
    RealTimeJazzFlowTransformer,
    RealTimeJazzFlowTransformerConfig,
    block_plan,
    codebook_loss,
    flow_matching_loss,
    velocity_target,
)

VARIANTS = [
    {},
    {"patch_size": 3},
    {"cue_channels": 4, "num_style_heads": 1},
    {"prediction_type": "codebook", "cue_channels": 4},
    {"prediction_type": "codebook", "patch_size": 2},
]


def close(first, second, tolerance=1e-5):
    torch.testing.assert_close(first, second, atol=tolerance, rtol=tolerance)


class TestTrainingEqualsGeneration:
    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    @pytest.mark.parametrize("window", [300, 20, 6, 3, 0])
    def test_blocks_equal_cache(self, variant, window):
        model = build_model(**variant)
        inputs = build_inputs(model)
        with torch.no_grad():
            trained = model(**inputs, block_frames=6, window_frames=window).sample
        played, cache = play(model, inputs, 6, window)
        close(trained, played)
        assert cache.num_frames == min(48, window // 6 * 6)

    @pytest.mark.parametrize("chunk", [1, 10, 12, 18, 1000])
    def test_chunks_do_not_matter(self, chunk, monkeypatch):
        model = build_model()
        inputs = build_inputs(model)
        starts = torch.tensor([20, 0])
        windows = torch.tensor([13, 40])
        monkeypatch.setattr(block_plan, "CPU_CHUNK_TOKENS", chunk)
        with torch.no_grad():
            output = model(**inputs, block_frames=6, window_frames=windows, context_start=starts).sample
            monkeypatch.setattr(block_plan, "CPU_CHUNK_TOKENS", 6)
            close(
                output,
                model(**inputs, block_frames=6, window_frames=windows, context_start=starts).sample,
            )

    def test_window_and_start_of_each_row(self):
        model = build_model()
        inputs = build_inputs(model)
        windows = torch.tensor([0, 18])
        with torch.no_grad():
            output = model(**inputs, block_frames=6, window_frames=windows).sample
            for row, window in enumerate(windows.tolist()):
                single = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
                close(output[row : row + 1], model(**single, block_frames=6, window_frames=window).sample)

    def test_context_start_is_a_cold_start(self):
        model = build_model()
        inputs = build_inputs(model, batch=1)
        with torch.no_grad():
            output = model(**inputs, block_frames=6, context_start=torch.tensor([18])).sample[..., 18:]
        late = {name: tensor[..., 18:] for name, tensor in inputs.items() if name in ("sample", "context")}
        late |= {"timestep": inputs["timestep"][:, 3:], "lead_sheet": inputs["lead_sheet"][:, 18:]}
        played, _ = play(model, inputs | late, 6, 300, start_frame=18)
        close(output, played)

    def test_default_block_is_the_configs(self):
        model = build_model()
        inputs = build_inputs(model, frames=72, blocks=2)
        with torch.no_grad():
            close(model(**inputs).sample, model(**inputs, block_frames=36).sample, 0)


class TestContext:
    def test_does_not_hear_the_target(self):
        model = build_model()
        inputs = build_inputs(model)
        _, cache = play(model, inputs, 6, 300)
        changed = build_inputs(model, seed=5) | {"context": inputs["context"]}
        _, other = play(model, changed, 6, 300)
        for first, second in zip(cache.keys + cache.values, other.keys + other.values):
            assert torch.equal(first, second)

    def test_block_hears_only_earlier_clean_blocks(self):
        model = build_model()
        inputs = build_inputs(model)
        with torch.no_grad():
            before = model(**inputs, block_frames=6).sample
            for name in ("sample", "context"):
                inputs[name] = inputs[name].clone()
                inputs[name][..., 24:30] += 1
            after = model(**inputs, block_frames=6).sample
        changed = (before - after).abs().amax((0, 1)) > 1e-6
        assert not changed[:24].any() and changed[24:].all()

    def test_noisy_blocks_do_not_hear_each_other(self):
        model = build_model()
        inputs = build_inputs(model)
        with torch.no_grad():
            before = model(**inputs, block_frames=6).sample
            inputs["sample"] = inputs["sample"].clone()
            inputs["sample"][..., 24:30] += 1
            after = model(**inputs, block_frames=6).sample
        changed = (before - after).abs().amax((0, 1)) > 1e-6
        assert not changed[:24].any() and not changed[30:].any() and changed[24:30].all()

    def test_hours_into_a_stream_nothing_shifts(self):
        model = build_model()
        inputs = build_inputs(model)
        early, _ = play(model, inputs, 6, 20)
        late, _ = play(model, inputs, 6, 20, start_frame=10 * 3600 * 75)
        close(early, late)

    def test_guidance_rows_share_a_cache(self):
        model = build_model()
        inputs = build_inputs(model)
        _, cache = play(model, inputs, 6, 300)
        block = torch.randn(4, 8, 6)
        twice = type(cache).stack([cache, cache])
        with torch.no_grad():
            close(model(block, 0.5, cache=cache).sample, model(block, 0.5, cache=twice).sample)
        with pytest.raises(ValueError, match="3 rows and the cache 2"):
            model(torch.randn(3, 8, 6), 0.5, cache=cache)


class TestForward:
    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    def test_batch_equals_singles(self, variant):
        model = build_model(**variant)
        inputs = build_inputs(model, batch=4)
        inputs.pop("context")
        with torch.no_grad():
            together = model(**inputs).sample
            for row in range(4):
                single = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
                close(together[row : row + 1], model(**single).sample)

    def test_eager_equals_sdpa(self):
        inputs = build_inputs(build_model())
        with torch.no_grad():
            close(
                build_model(attention="sdpa")(**inputs, block_frames=6, window_frames=20).sample,
                build_model(attention="eager")(**inputs, block_frames=6, window_frames=20).sample,
            )
            inputs.pop("context")
            close(
                build_model(attention="sdpa")(**inputs).sample,
                build_model(attention="eager")(**inputs).sample,
            )

    def test_flash_refuses_training_by_name(self):
        model = build_model()
        model.config._attn_implementation = "flash_attention_2"
        with pytest.raises(ValueError, match=r"flash_attention_2.*sdpa"):
            model(**build_inputs(model), block_frames=6)

    def test_none_is_zero(self):
        model = build_model()
        inputs = build_inputs(model)
        sample, timestep = inputs["sample"], inputs["timestep"]
        zeros = {name: torch.zeros_like(inputs[name]) for name in ("lead_sheet", "style")}
        with torch.no_grad():
            close(model(sample, timestep).sample, model(sample, timestep, **zeros).sample)
            assert not torch.allclose(
                model(sample, timestep).sample, model(sample, timestep, style=inputs["style"]).sample
            )

    @pytest.mark.parametrize("name", ["timestep", "lead_sheet", "style"])
    @pytest.mark.parametrize("prediction_type", ["velocity", "codebook"])
    def test_every_condition_is_heard(self, name, prediction_type):
        model = build_model(prediction_type=prediction_type)
        inputs = build_inputs(model)
        with torch.no_grad():
            before = model(**inputs, block_frames=6).sample
            inputs[name] = inputs[name] * 0.5
            assert (before - model(**inputs, block_frames=6).sample).abs().max() > 1e-4

    def test_codebook_velocity_leads_to_the_expected_vector(self):
        model = build_model(prediction_type="codebook", cue_channels=2)
        inputs = build_inputs(model)
        output = model(**inputs, block_frames=6)
        assert output.logits.shape == (2, 4, 48, 16)
        probabilities = output.logits.softmax(-1)
        expected = torch.einsum("bkfv,kvd->bdf", probabilities, model.head.codebooks)
        expected = expected + model.head.latents_offset[:, None]
        left = 1 - inputs["timestep"].repeat_interleave(6, dim=1)[:, None]
        close(inputs["sample"][:, :8] + left * output.sample[:, :8], expected)
        assert model(**inputs, block_frames=6, return_sample=False).sample is None

    def test_codebooks_of_a_predictive_codec_are_refused(self):
        model = build_model(prediction_type="codebook")
        with pytest.raises(ValueError, match="prediction_levels=4"):
            model.set_codebooks(model.head.codebooks, prediction_levels=4)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"sample": torch.zeros(2, 9, 48)}, r"\(2, 9, 48\).*\(batch, 8, frames\)"),
            ({"timestep": torch.zeros(2, 7)}, r"timestep has shape \(2, 7\)"),
            ({"lead_sheet": torch.zeros(2, 40, 5)}, r"\(2, 40, 5\).*\(2, 48, 5\)"),
            ({"style": torch.zeros(2, 3)}, r"\(2, 3\).*\(2, 16\)"),
            ({"context": torch.zeros(2, 8, 12)}, r"context has shape \(2, 8, 12\)"),
            ({"block_frames": 7}, "block_frames is 7"),
        ],
    )
    def test_wrong_shapes_are_named(self, change, message):
        model = build_model()
        with pytest.raises(ValueError, match=message):
            model(**(build_inputs(model) | {"block_frames": 6} | change))

    def test_bfloat16(self):
        model = build_model()
        inputs = build_inputs(model)
        with torch.no_grad():
            exact = model(**inputs, block_frames=6).sample
            with torch.autocast("cpu", torch.bfloat16):
                autocast = model(**inputs, block_frames=6).sample
            half = model.to(torch.bfloat16)(**inputs, block_frames=6).sample
        for output in (autocast, half):
            assert output.dtype == torch.float32
            assert (output - exact).abs().mean() < 0.05 * exact.abs().mean()


class TestPreparedConditions:
    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    @pytest.mark.parametrize("start_frame", [0, 10 * 3600 * 75])
    def test_equal_the_plain_forward(self, variant, start_frame):
        model = build_model(**variant)
        inputs = build_inputs(model)
        _, cache = play(model, inputs, 6, 20, start_frame=start_frame)
        sample, sheet, style = inputs["sample"][..., :12], inputs["lead_sheet"][:, :12], inputs["style"]
        timesteps = torch.tensor([0.0, 0.3, 0.9])
        with torch.no_grad():
            for kept in (cache, None):
                conditions = model.prepare_conditions(timesteps, sheet, style, kept)
                assert conditions.num_steps == 3
                for step, t in enumerate(timesteps):
                    prepared = model(sample, conditions=conditions, step=step, cache=kept)
                    plain = model(sample, t, sheet, style, cache=kept)
                    close(prepared.sample, plain.sample)
                    if plain.logits is not None:
                        close(prepared.logits, plain.logits)

    def test_times_of_each_row_and_guidance(self):
        model = build_model(patch_size=3)
        inputs = build_inputs(model)
        _, cache = play(model, inputs, 6, 20)
        timesteps = torch.rand(3, 4)
        sample, sheet = torch.randn(4, 8, 12), torch.randn(4, 12, 5)
        style = inputs["style"].repeat(2, 1)
        with torch.no_grad():
            conditions = model.prepare_conditions(timesteps, sheet, style, cache)
            for step, t in enumerate(timesteps):
                prepared = model(sample, conditions=conditions, step=step, cache=cache).sample
                close(prepared, model(sample, t, sheet, style, cache=cache).sample)

    def test_nothing_asked_for(self):
        model = build_model(lead_sheet_dim=0)
        sample = torch.randn(1, 8, 12)
        with torch.no_grad():
            conditions = model.prepare_conditions(torch.tensor([0.5]), frames=12)
            close(model(sample, conditions=conditions).sample, model(sample, 0.5).sample)

    def test_what_does_not_fit_is_named(self):
        model = build_model()
        sample = torch.randn(1, 8, 12)
        with pytest.raises(ValueError, match=r"timesteps has shape \(2,\) and frames is None"):
            model.prepare_conditions(torch.rand(2))
        conditions = model.prepare_conditions(torch.rand(2), frames=12)
        with pytest.raises(ValueError, match=r"1 rows of 12 frames .* has 1 of 24"):
            model(torch.randn(1, 8, 24), conditions=conditions)
        cache = model.init_cache(1)
        conditions = model.prepare_conditions(torch.rand(2), cache=cache, frames=12)
        model.append_to_cache(sample, cache, conditions)
        with pytest.raises(ValueError, match=r"positions \(0,\); .* at \(12,\)"):
            model(sample, conditions=conditions, cache=cache)
        with pytest.raises(ValueError, match="step is 2; the conditions are for steps 0 to 1"):
            model(sample, conditions=model.prepare_conditions(torch.rand(2), frames=12), step=2)
        with pytest.raises(ValueError, match="do not give timestep"):
            model(sample, 0.5, conditions=conditions)
        with pytest.raises(ValueError, match="Neither timestep nor conditions"):
            model(sample)

    def test_appending_with_the_steps_conditions_is_appending(self):
        model = build_model(patch_size=3)
        caches = [play(model, build_inputs(model), 6, 20)[1] for _ in range(2)]
        conditions = model.prepare_conditions(torch.rand(3), torch.randn(4, 12, 5), cache=caches[0])
        block = torch.randn(2, 8, 12)
        for _ in range(2):  # the second time they are those of another block, and of no use
            model.append_to_cache(block, caches[0], conditions)
            model.append_to_cache(block, caches[1])
        for first, second in zip(caches[0].keys + caches[0].values, caches[1].keys + caches[1].values):
            close(first, second)


    def test_those_of_the_last_block_save_work_where_nothing_but_the_chart_changes(self):
        model, cache = build_model(patch_size=3), None
        timesteps, style = torch.tensor([0.0, 0.5]), torch.randn(2, 16)

        def conditions(style=style, timesteps=timesteps, previous=None):
            return model.prepare_conditions(timesteps, torch.randn(2, 12, 5, generator=draw()), style, cache,
                                            previous=previous)  # fmt: skip

        def draw():
            return torch.Generator().manual_seed(2)

        first = conditions()
        again = conditions(previous=first)
        assert again.modulation is first.modulation and again.lead_sheet is not first.lead_sheet
        others = [{"style": -style}, {"timesteps": torch.tensor([0.0, 0.6])}, {"timesteps": torch.tensor([0.0])}]
        for changed in others:
            torch.testing.assert_close(vars(conditions(**changed, previous=first)), vars(conditions(**changed)))
        with torch.no_grad():
            model.modulation.weight.mul_(2)
        torch.testing.assert_close(vars(conditions(previous=first)), vars(conditions()))


class TestPackedWeights:
    @staticmethod
    def step(model, sample):
        with torch.no_grad():
            style = torch.zeros(len(sample), 16)
            conditions = model.prepare_conditions(torch.tensor([0.4]), style=style, frames=sample.shape[-1])
            return model(sample, conditions=conditions).sample

    @staticmethod
    def packed(model):
        return [hasattr(group[0], "_packed") for group in model._step_linears()]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_play_the_same(self, dtype):
        model = build_model(patch_size=3).to(dtype)
        sample = torch.randn(2, 8, 36, dtype=dtype)
        plain = self.step(model, sample)
        model.pack_weights()
        if not all(self.packed(model)):
            pytest.skip("torch packs no such weights on this machine")
        packed = self.step(model, sample)
        tolerance = 1e-5 if dtype == torch.float32 else 0.02 * plain.abs().max()
        torch.testing.assert_close(packed, plain, atol=float(tolerance), rtol=0)

    def test_weights_that_change_are_not_missed(self):
        model, sample = build_model(), torch.randn(2, 8, 12)
        model.pack_weights()
        before = self.step(model, sample)
        with torch.no_grad():
            for parameter in model.parameters():  # an optimizer's step
                parameter.mul_(1.1)
        changed = self.step(model, sample)
        assert not any(self.packed(model)) and not torch.allclose(changed, before)
        model.pack_weights()
        close(self.step(model, sample), changed)
        for parameter in model.parameters():  # the merging of an adapter
            parameter.data += 0.01
        model.pack_weights()
        packed = self.step(model, sample)
        close(packed, self.step(copy.deepcopy(model), sample))
        assert not torch.allclose(packed, changed)

    def test_adapters_and_hooks_are_heard(self):
        model, sample = build_model(), torch.randn(2, 8, 12)
        model.pack_weights()
        before = self.step(model, sample)
        attention = model.layers[0].self_attn
        attention.v_proj = torch.nn.Sequential(attention.v_proj, torch.nn.LayerNorm(64))
        adapted = self.step(model, sample)
        assert not torch.allclose(adapted, before)
        model.pack_weights()
        close(self.step(model, sample), adapted)
        model.layers[1].mlp.down_proj.register_forward_hook(lambda module, inputs, output: 2 * output)
        model.pack_weights()
        assert not torch.allclose(self.step(model, sample), adapted)

    def test_gradients_do_not_meet_them(self):
        model = build_model()
        model.pack_weights()
        model(**build_inputs(model), block_frames=6).sample.square().mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


class TestModel:
    def test_initialisation(self):
        torch.manual_seed(0)
        model = RealTimeJazzFlowTransformer(RealTimeJazzFlowTransformerConfig(**TINY))
        for weight in (model.modulation.weight, model.head.proj.weight, model.layers[0].adaln_up.weight):
            assert not weight.any()
        assert 0.017 < model.layers[0].mlp.up_proj.weight.std() < 0.022
        inputs = build_inputs(model)
        assert not model(**inputs, block_frames=6).sample.any()

    @pytest.mark.parametrize("prediction_type", ["velocity", "codebook"])
    def test_save_and_load(self, prediction_type, tmp_path):
        model = build_model(prediction_type=prediction_type, channel_weights=tuple(range(8)))
        model.save_pretrained(tmp_path)
        loaded, info = RealTimeJazzFlowTransformer.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        assert loaded.config.channel_weights == model.config.channel_weights
        assert loaded.config.block_sizes == (6, 12, 24, 36, 48)
        inputs = build_inputs(model)
        with torch.no_grad():
            assert torch.equal(
                model(**inputs, block_frames=6).sample, loaded(**inputs, block_frames=6).sample
            )

    def test_gradient_checkpointing(self):
        model = build_model().train()
        inputs = build_inputs(model)
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable()
            model.zero_grad()
            model(**inputs, block_frames=6).sample.square().mean().backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        for first, second in zip(*gradients):
            close(first, second, 1e-6)

    def test_every_parameter_learns(self):
        for prediction_type in ("velocity", "codebook"):
            model = build_model(prediction_type=prediction_type)
            output = model(**build_inputs(model), block_frames=6)
            (
                output.sample.square().mean()
                + (0 if output.logits is None else output.logits.square().mean())
            ).backward()
            assert all(
                parameter.grad is not None and parameter.grad.any() for parameter in model.parameters()
            )

    def test_overfits_in_seconds(self):
        torch.manual_seed(0)
        config = RealTimeJazzFlowTransformerConfig(**TINY)
        model = RealTimeJazzFlowTransformer(config)
        inputs = build_inputs(model)
        noise = torch.randn_like(inputs["sample"])
        scheduler = FlowMatchScheduler()
        target = velocity_target(inputs["context"], noise)
        inputs["sample"] = scheduler.scale_noise(inputs["context"], inputs["timestep"], noise)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(60):
            loss = flow_matching_loss(model(**inputs, block_frames=6).sample, target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < 0.4 * losses[0]

    def test_codebook_learns(self):
        torch.manual_seed(0)
        config = RealTimeJazzFlowTransformerConfig(**(TINY | {"prediction_type": "codebook"}))
        model = RealTimeJazzFlowTransformer(config)
        inputs = build_inputs(model)
        codes = torch.randint(16, (2, 4, 48))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(40):
            loss = codebook_loss(model(**inputs, block_frames=6, return_sample=False).logits, codes)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0]

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
    def test_cuda_equals_cpu(self, attention):
        inputs = build_inputs(build_model())
        windows = torch.tensor([13, 40])
        with torch.no_grad():
            expected = build_model()(**inputs, block_frames=6, window_frames=windows).sample
            on_gpu = {name: tensor.cuda() for name, tensor in inputs.items()}
            model = build_model(attention=attention).cuda()
            output = model(**on_gpu, block_frames=6, window_frames=windows.cuda()).sample
            played, _ = play(model, on_gpu, 6, 20)
            close(played.cpu(), play(build_model(), inputs, 6, 20)[0], 1e-3)
        close(output.cpu(), expected, 1e-3)
