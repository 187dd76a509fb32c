"""What the student learns from: paths of the guided teacher, cut at the student's steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from synthetic_takes import write_takes

from rtjazz_hf import FlowMatchScheduler
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_filling import embed_takes, encode_takes
from rtjazz_hf.corpus.latent_store import LatentStore
from rtjazz_hf.flow import apply_guidance
from rtjazz_hf.music import without_chords
from rtjazz_hf.runtime.precision import bfloat16_is_fast
from rtjazz_hf.trainers.distillation import (
    Distiller,
    FlowDistillConfig,
    distill_losses,
    load_flow,
    student_ends,
)
from rtjazz_hf.trainers.flow import FlowBatches, batch_conditions, channel_weights, play_takes


@pytest.fixture(scope="module")
def store(tiny_pipeline, tmp_path_factory) -> LatentStore:
    folder = tmp_path_factory.mktemp("distill")
    takes = load_takes(write_takes(folder / "corpus"))
    encode_takes(tiny_pipeline.codec, takes, folder / "latents", progress=False)
    embed_takes(
        tiny_pipeline.style_encoder, tiny_pipeline.tokenizer, takes, folder / "latents", progress=False
    )
    return LatentStore(folder / "latents")


def settings(**values) -> FlowDistillConfig:
    defaults = {"output_dir": "out", "data": "data", "codec": "codec", "teacher": "teacher", "batch_size": 2,
                "crop_frames": 72, "mixed_precision": "no", "full_attention_rate": 0.0, "context_noise": 0.0,
                "style_dropout": 0.0, "lead_sheet_dropout": 0.0, "chord_dropout": 0.0, "steps": 2,
                "teacher_steps": 4, "guidance_scale": 2.0, "shift": 2.0, "student_path_rate": 0.0,
                "rollout_rate": 0.0}  # fmt: skip
    return FlowDistillConfig(**{**defaults, **values})


def prepare(pipe, store, block: int = 24, **values):
    """Distiller, a batch in blocks of a size, and the pairs; the student's weights are moved a little."""
    config = settings(**values)
    distiller = Distiller(pipe.transformer, pipe.codec, config)
    torch.manual_seed(0)
    student = copy.deepcopy(pipe.transformer)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    batch = FlowBatches(store, config, student.config.block_sizes)(np.random.default_rng(0))
    batch["block_frames"] = torch.tensor(block)
    torch.manual_seed(1)
    return distiller, student, batch, distiller.make_pairs(student, batch)


def guided_velocity(model, pairs: dict, scale: float) -> torch.Tensor:
    """Of the block-causal training pass: what the cached path of the engine must agree with."""
    block = int(pairs["block_frames"])
    how = {}
    if block:
        how = {
            "context": pairs["context"],
            "block_frames": block,
            "window_frames": int(pairs["window_frames"]),
        }
    rows = [
        model(pairs["sample"], pairs["timestep"], sheet, pairs["style"], **how).sample
        for sheet in (pairs["lead_sheet"], without_chords(pairs["lead_sheet"]))
    ]
    cut = [row.unflatten(-1, (-1, block or row.shape[-1])).transpose(1, 2).flatten(0, 1) for row in rows]  # per block
    guided = apply_guidance(*cut, scale)
    return guided.unflatten(0, (len(rows[0]), -1)).transpose(1, 2).flatten(2)


class TestStudentEnds:
    @pytest.mark.parametrize("block", [24, 0])
    def test_are_where_the_engine_plays_to(self, tiny_pipeline, store, block):
        """With a window as long as the crop, block by block with a cache as in one pass."""
        distiller, student, batch, _ = prepare(tiny_pipeline, store, block)
        batch["window_frames"] = torch.tensor(distiller.window_frames)
        clean, how = batch["latents"], batch_conditions(batch)
        torch.manual_seed(3)
        ends = student_ends(student, clean, 2, 2.0, **how)
        assert ends.shape == (2, *clean.shape) and ends.requires_grad
        torch.manual_seed(3)
        noise = torch.randn(2 * len(clean), *clean.shape[1:]).unflatten(0, (2, -1))
        played = [
            distiller.play_in_context(
                student, batch | {"block_frames": torch.tensor(block or 72)}, one, 2, 1.0
            )
            for one in noise
        ]
        assert torch.allclose(ends, torch.stack(played), atol=2e-4)


class TestPairs:
    @pytest.mark.parametrize("block", [24, 0])
    @torch.no_grad()
    def test_with_as_many_steps_as_the_teacher_targets_are_its_guided_velocity(
        self, tiny_pipeline, store, block
    ):
        *_, pairs = prepare(tiny_pipeline, store, block, steps=4)
        assert pairs["sample"].shape == pairs["target"].shape == (4 * 2, 64, 72)
        expected = guided_velocity(tiny_pipeline.transformer, pairs, 2.0)
        assert torch.allclose(pairs["target"], expected, atol=2e-4)
        plain = guided_velocity(tiny_pipeline.transformer, pairs, 1.0)
        assert not torch.allclose(pairs["target"], plain, atol=1e-2)

    @torch.no_grad()
    def test_teacher_paths_are_cut_at_the_grid(self, tiny_pipeline, store):
        distiller, _, batch, pairs = prepare(tiny_pipeline, store)
        assert distiller.grid == pytest.approx([0, 1 / 3, 1])
        starts, targets = (pairs[name].unflatten(0, (2, 2)) for name in ("sample", "target"))
        assert torch.allclose(starts[1], starts[0] + distiller.grid[1] * targets[0], atol=1e-5)
        assert torch.equal(pairs["timestep"], torch.tensor([0, 0, distiller.grid[1], distiller.grid[1]]))
        assert torch.equal(pairs["context"][:2], batch["latents"])
        # a path's end is where the engine plays to from the same noise
        end = starts[1] + (1 - distiller.grid[1]) * targets[1]
        played = distiller.play_in_context(tiny_pipeline.transformer, batch, starts[0], 4, 2.0)
        assert torch.allclose(end, played, atol=1e-4)

    @torch.no_grad()
    def test_student_paths_follow_its_own_steps(self, tiny_pipeline, store):
        distiller, student, _, pairs = prepare(tiny_pipeline, store, student_path_rate=1.0, rollout_rate=1.0)
        starts, targets = (pairs[name].unflatten(0, (2, 2)) for name in ("sample", "target"))
        own = guided_velocity(student, pairs, 1.0).unflatten(0, (2, 2))
        assert torch.allclose(starts[1], starts[0] + distiller.grid[1] * own[0], atol=1e-4)
        assert not torch.allclose(own, targets, atol=1e-2)
        # and its streams hear what it made
        end = starts[1] + (1 - distiller.grid[1]) * own[1]
        assert torch.allclose(pairs["context"][:2], end, atol=1e-4)

    def test_streams_begin_with_less_noise(self, tiny_pipeline, store):
        whole, less = (prepare(tiny_pipeline, store, least_noise=least)[3] for least in (1.0, 0.5))
        rows = len(whole["sample"]) // 2
        share = less["sample"][:rows].std((1, 2)) / whole["sample"][:rows].std((1, 2))
        assert (share < 1).all() and (share > 0.5).all() and share[0] != share[1]

    def test_same_seed_same_pairs_and_conditions_are_dropped(self, tiny_pipeline, store):
        values = {"style_dropout": 1.0, "chord_dropout": 1.0, "context_noise": 0.2}
        distiller, student, batch, pairs = prepare(tiny_pipeline, store, **values)
        torch.manual_seed(1)
        again = distiller.make_pairs(student, batch)
        assert all(torch.equal(pairs[name], again[name]) for name in pairs)
        assert not pairs["style"].any()
        assert torch.equal(pairs["lead_sheet"], without_chords(pairs["lead_sheet"]))
        assert not torch.equal(pairs["context"][:2], batch["latents"])


class TestLearning:
    def test_the_student_comes_nearer_to_the_teacher(self, tiny_pipeline, store):
        distiller, student, _, _ = prepare(tiny_pipeline, store, student_path_rate=0.5, rollout_rate=0.5)
        batches = FlowBatches(store, distiller.config, student.config.block_sizes)
        weights = channel_weights(student)
        before = distiller.validate(student, batches, weights, count=1)
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
        for step in range(12):
            pairs = distiller.make_pairs(student, batches(np.random.default_rng(step)))
            losses = distill_losses(student, pairs, weights, 2)
            assert losses.shape == (2,)
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        after = distiller.validate(student, batches, weights, count=1)
        assert after["val_end"] < before["val_end"]
        assert after["val_teacher_end"] == before["val_teacher_end"]

    def test_a_perfect_student_has_no_error(self, tiny_pipeline, store):
        distiller, _, _, pairs = prepare(tiny_pipeline, store, steps=4, guidance_scale=1.0)
        teacher, weights = tiny_pipeline.transformer, channel_weights(tiny_pipeline.transformer)
        with torch.no_grad():
            assert distill_losses(teacher, pairs, weights, 4).max() < 1e-6
        measures = distiller.validate(teacher, FlowBatches(store, distiller.config, (24,)), weights, count=1)
        assert measures["val_end"] < 1e-8
        assert measures["val_deviation"] == pytest.approx(measures["val_teacher_deviation"])

    def test_16_bit_players_leave_the_teacher_as_it_was(self, tiny_pipeline, store):
        distiller, student, _, pairs = prepare(tiny_pipeline, store, mixed_precision="bf16")
        fast = torch.bfloat16 if bfloat16_is_fast() else torch.float32
        assert distiller.teacher.dtype == distiller.player.dtype == fast
        assert tiny_pipeline.transformer.dtype == student.dtype == torch.float32
        assert pairs["target"].dtype == torch.float32


class TestPlaying:
    @torch.no_grad()
    def test_a_distilled_flow_plays_as_it_was_taught_and_takes_guidance_too(self, tiny_pipeline, store):
        model = copy.deepcopy(tiny_pipeline.transformer)
        model.config.distilled_steps, model.config.distilled_shift = 2, 2.0
        rows = []
        model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
        codec, takes = tiny_pipeline.codec, store.takes[:1]
        own = play_takes(model, codec, takes, seconds=0.4)
        assert rows == [1, 1]  # two steps of one row
        assert np.array_equal(
            own, play_takes(model, codec, takes, 0.4, steps=2, guidance_scale=1.0, shift=2.0)
        )
        assert not np.array_equal(own, play_takes(model, codec, takes, 0.4, shift=1.0))
        rows.clear()
        pushed = play_takes(model, codec, takes, seconds=0.4, guidance_scale=1.5)
        assert rows == [2, 2] and not np.array_equal(own, pushed)

    def test_defaults_of_a_flow(self, tiny_pipeline):
        config = copy.deepcopy(tiny_pipeline.transformer.config)
        assert config.sampling_defaults == {"num_inference_steps": 8, "guidance_scale": 2.0, "shift": 1.0}
        config.distilled_steps, config.distilled_shift = 4, 2.0
        assert config.sampling_defaults == {"num_inference_steps": 4, "guidance_scale": 1.0, "shift": 2.0}
        FlowMatchScheduler(shift=config.sampling_defaults["shift"])


class TestBadInput:
    def test_settings(self):
        for values, said in (
            ({"teacher": ""}, "--teacher"),
            ({"model": {"hidden_size": 64}}, "teacher's sizes"),
            ({"rollout_rate": 1.5}, "rollout_rate is 1.5"),
            ({"student_path_rate": -0.1}, "from 0 to 1"),
            ({"steps": 0}, "at least 1"),
            ({"shift": 0.0}, "shift is 0"),
            ({"least_noise": 0.0}, "least_noise is 0"),
            ({"guidance_scale": -1.0}, "guidance_scale is -1"),
        ):
            with pytest.raises(ValueError, match=said):
                settings(**values)

    def test_steps_that_do_not_fit_the_teacher(self, tiny_pipeline):
        with pytest.raises(ValueError, match=r"steps is 3; it must divide the teacher's 4"):
            Distiller(tiny_pipeline.transformer, tiny_pipeline.codec, settings(steps=3))
        with pytest.raises(ValueError, match="block_sizes has 7; the teacher plays"):
            Distiller(tiny_pipeline.transformer, tiny_pipeline.codec, settings(block_sizes=[7, 24]))
        distilled = copy.deepcopy(tiny_pipeline.transformer)
        distilled.config.distilled_steps, distilled.config.distilled_shift = 4, 2.0
        for values in ({"teacher_steps": 8}, {"shift": 1.0}):
            with pytest.raises(ValueError, match="distilled to 4 steps of shift 2"):
                Distiller(distilled, tiny_pipeline.codec, settings(**values))
        own = settings(teacher_steps=None, guidance_scale=None, shift=None)
        distiller = Distiller(distilled, tiny_pipeline.codec, own)
        assert (distiller.teacher_steps, distiller.guidance_scale, distiller.shift) == (4, 1.0, 2.0)

    def test_flows_of_other_latents(self, tiny_folder):
        assert load_flow(str(tiny_folder), 64).config.num_channels == 64
        with pytest.raises(ValueError, match="makes 64 channels, the store holds 128"):
            load_flow(str(tiny_folder), 128)
        with pytest.raises(OSError):
            load_flow(str(tiny_folder / "nowhere"), 64)
