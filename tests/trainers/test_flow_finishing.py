"""The adversarial finish of a student: what it plays, what the discriminator learns, what the student learns from it;
and `training/finish_flow.py` through `main()`."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import load_script
from synthetic_takes import write_takes
from test_training_scripts import log, options, refused, same_logs, same_weights

from rtjazz_hf import RealTimeJazzFlowTransformer
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_filling import embed_takes, encode_takes
from rtjazz_hf.corpus.latent_store import LatentStore
from rtjazz_hf.flow import FlowDiscriminator, pairing_loss
from rtjazz_hf.trainers.adversarial import Finisher, FlowFinishConfig, Judge
from rtjazz_hf.trainers.flow import FlowBatches, channel_weights
from rtjazz_hf.trainers.run import TrainingRun

pytest.importorskip("tensorboard")
pytest.importorskip("yaml")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def parts(tiny_pipeline, tiny_folder, tmp_path_factory) -> Path:
    """A folder with the store of some takes, the tiny pipeline as teacher, and a student of two steps."""
    folder = tmp_path_factory.mktemp("parts")
    takes = load_takes(write_takes(folder / "corpus"))
    encode_takes(tiny_pipeline.codec, takes, folder / "latents", progress=False)
    embed_takes(
        tiny_pipeline.style_encoder, tiny_pipeline.tokenizer, takes, folder / "latents", progress=False
    )
    shutil.copytree(tiny_folder, folder / "pipe")
    student(tiny_pipeline).save_pretrained(folder / "student")
    return folder


def student(pipe) -> RealTimeJazzFlowTransformer:
    model = copy.deepcopy(pipe.transformer)
    model.config.distilled_steps, model.config.distilled_shift = 2, 2.0
    return model


def settings(**values) -> FlowFinishConfig:
    defaults = {"output_dir": "out", "data": "data", "codec": "codec", "teacher": "teacher", "batch_size": 2,
                "crop_frames": 72, "mixed_precision": "no", "full_attention_rate": 0.0, "style_dropout": 0.0,
                "lead_sheet_dropout": 0.0, "chord_dropout": 0.0, "notes_dropout": 0.0, "roles_dropout": 0.0,
                "ema_decay": 0.0, "schedule": "constant", "warmup_steps": 0}  # fmt: skip
    return FlowFinishConfig(**{**defaults, **values})


class Bench:
    """A student, what it plays, and a judge of it, at tiny size."""

    def __init__(self, pipe, parts: Path, out: Path, **values):
        self.config = settings(output_dir=str(out), **values)
        self.run = TrainingRun(self.config)
        self.model = student(pipe)
        self.finisher = Finisher(self.model, pipe.codec, self.config)
        self.judge = Judge(self.run, pipe.transformer, self.config)
        self.weights = channel_weights(self.model)
        self.batches = FlowBatches(LatentStore(parts / "latents"), self.config, (24,))

    def roll_out(self, seed: int = 0, block: int = 24):
        batch = self.batches(np.random.default_rng(seed))
        batch["block_frames"] = torch.tensor(block)
        torch.manual_seed(seed)
        return self.finisher.roll_out(self.model, batch)


@pytest.fixture
def bench(tiny_pipeline, parts, tmp_path):
    return lambda **values: Bench(tiny_pipeline, parts, tmp_path / "run", **values)


class TestRollOuts:
    @pytest.mark.parametrize("block", [24, 0])
    def test_ends_with_gradients_are_what_was_played(self, bench, block):
        made = bench()
        rolled = made.roll_out(block=block)
        assert rolled["made"].shape == rolled["clean"].shape == (2, 64, 72)
        ends = made.finisher.ends(made.model, rolled)
        assert ends.requires_grad and torch.allclose(ends, rolled["made"], atol=2e-4)
        assert made.finisher.keep_loss(ends, rolled, made.weights) < 1e-6  # nothing has been learnt yet

    def test_it_hears_itself_and_not_the_take(self, bench):
        made = bench()
        batch = made.batches(np.random.default_rng(0))
        batch["block_frames"] = torch.tensor(24)
        played = []
        for change in (0.0, 1.0):
            torch.manual_seed(0)
            played.append(
                made.finisher.roll_out(made.model, {**batch, "latents": batch["latents"] + change})["made"]
            )
        assert torch.equal(*played)

    def test_steps_of_its_own_or_others(self, bench):
        made = bench(steps=1, least_noise=0.5)
        assert (made.finisher.steps, made.finisher.steps_before, made.finisher.shift) == (1, 2, 2.0)
        rolled = made.roll_out()
        share = rolled["noise"].std((1, 2))
        assert (share < 1).all() and (share > 0.45).all()
        assert (
            made.finisher.keep_loss(rolled["made"], rolled, made.weights) > 1e-4
        )  # two steps lead elsewhere


class TestDiscriminator:
    def test_hears_both_ways_and_leaves_the_teacher_alone(self, tiny_pipeline):
        teacher = tiny_pipeline.transformer
        before = copy.deepcopy(teacher.state_dict())
        judge = FlowDiscriminator(teacher, layers=[1, 2], width=8)
        given = torch.randn(1, 64, 36), torch.rand(1), torch.randn(1, 36, 115), torch.randn(1, 512)
        logits = judge(*given)
        assert logits.shape == (1, 2, 36)
        late = given[0].clone()
        late[..., -1] += 1
        assert (judge(late, *given[1:])[..., 0] != logits[..., 0]).all()
        logits.sum().backward()
        assert all(weight.grad is not None for weight in judge.parameters())
        assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
        assert all(weight.grad is None for weight in teacher.parameters())
        assert len(FlowDiscriminator(teacher, layers=[1]).body.layers) == 1
        with pytest.raises(ValueError, match=r"layers is \[3\]; give some of 1 to 2"):
            FlowDiscriminator(teacher, layers=[3])

    def test_pairing_loss_is_of_differences(self):
        one, other = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
        assert pairing_loss(one, one).item() == pytest.approx(np.log(2))
        assert torch.allclose(pairing_loss(one + 5, other + 5), pairing_loss(one, other), atol=1e-5)
        assert pairing_loss(one + 9, one) < 0.01 < 8 < pairing_loss(one, one + 9)

    def test_learns_to_tell_noise_from_takes(self, bench):
        made = bench(discriminator_learning_rate=3e-3, body_learning_rate=1e-3, contrastive_weight=0.0)
        apart = []
        for step in range(16):
            rolled = made.roll_out(step)
            made.judge.learn(rolled, torch.randn_like(rolled["clean"]))
            with torch.no_grad():
                take, fake, _ = made.judge.logits(rolled, torch.randn_like(rolled["clean"]))
            apart.append(pairing_loss(take, fake).item())
        assert np.mean(apart[-4:]) < 0.5 * np.mean(apart[:2])

    def test_only_the_contrastive_loss_makes_it_mind_conditions(self, bench):
        """Takes beside themselves: nothing but the conditions can be learnt from."""
        found = {}
        for weight in (1.0, 0.0):
            made = bench(discriminator_learning_rate=3e-3, body_learning_rate=1e-3, contrastive_weight=weight)
            rolled = made.roll_out(0)
            for _ in range(12):
                made.judge.learn(rolled, rolled["clean"])
            torch.manual_seed(0)
            with torch.no_grad():
                take, _, wrong = made.judge.logits(rolled, rolled["made"])
            found[weight] = pairing_loss(take, wrong).item()
        assert found[1.0] < 0.5 < 0.6 < found[0.0]


class TestStudent:
    def test_its_loss_falls_beside_a_judge_that_stands_still(self, bench):
        made = bench(discriminator_learning_rate=3e-3, body_learning_rate=1e-3)
        rolled = made.roll_out(0)
        for _ in range(10):
            made.judge.learn(rolled, rolled["made"])
        optimizer = torch.optim.Adam(made.model.parameters(), lr=1e-3)
        adversarial, keep = [], []
        for _ in range(8):
            ends = made.finisher.ends(made.model, rolled)
            torch.manual_seed(1)
            losses = made.judge.loss(rolled, ends), made.finisher.keep_loss(ends, rolled, made.weights)
            losses[0].backward()
            assert all(
                weight.grad is None for weight in made.judge.discriminator.parameters()
            )  # it learns alone
            optimizer.step()
            optimizer.zero_grad()
            adversarial.append(losses[0].item())
            keep.append(losses[1].item())
        assert adversarial[-1] < adversarial[0] and keep[-1] > keep[0]

    def test_validation_changes_nothing(self, bench):
        made = bench()
        before = copy.deepcopy(made.model.state_dict())
        measures = made.finisher.validate(made.model, made.judge, made.batches, made.weights, count=1)
        assert set(measures) == {"val_apart", "val_fitting", "val_keep", "val_deviation"}
        assert 0 <= measures["val_apart"] <= 1 and measures["val_keep"] < 1e-6
        assert all(torch.equal(before[name], value) for name, value in made.model.state_dict().items())


def finish_options(parts: Path, out: Path, **values) -> list[str]:
    named = {"data": parts / "latents", "codec": parts / "pipe", "teacher": parts / "pipe", "output_dir": out,
             "init_from": parts / "student", "crop_frames": 72, "full_attention_rate": 0.3, "head_start": 1,
             "discriminator": {"width": 8}}  # fmt: skip
    return options(**{**named, **values})


class TestScript:
    def test_stopped_and_resumed_equals_uninterrupted(self, parts, tmp_path):
        script, whole, again = load_script("finish_flow"), tmp_path / "whole", tmp_path / "again"
        script.main(finish_options(parts, whole, max_steps=4, validate_every=2, sample_every=4))
        for stop in (2, 4):
            script.main(finish_options(parts, again, max_steps=stop, validate_every=2))
        assert same_logs(again, whole)
        assert same_weights(RealTimeJazzFlowTransformer, again, whole)
        rows = [row for row in log(whole) if "pairing" in row]
        assert [("loss" in row, row["step"]) for row in rows] == [
            (False, 1),
            (True, 2),
            (True, 3),
            (True, 4),
        ]
        assert {"contrast", "apart", "fitting", "grad_norm_discriminator"} <= set(rows[0])
        assert {"adversarial", "keep", "grad_norm"} <= set(rows[1])
        model = RealTimeJazzFlowTransformer.from_pretrained(whole / "final")
        assert model.config.sampling_defaults == {
            "num_inference_steps": 2,
            "guidance_scale": 1.0,
            "shift": 2.0,
        }
        assert "2 steps, shift 2 and guidance_scale 1" in (whole / "final" / "README.md").read_text()
        assert (whole / "samples" / "step-00000004" / "sample_0.flac").is_file()

    def test_bad_input_is_one_line(self, parts, tmp_path, capsys):
        script, out = load_script("finish_flow"), tmp_path / "x"
        for values, said in (
            ({"teacher": ""}, "--teacher"),
            ({"teacher": tmp_path / "nowhere"}, "nowhere"),
            ({"init_from": "none"}, "was not distilled"),
            ({"batch_size": 1}, "batch_size is 1"),
            ({"keep_weight": -1}, "keep_weight is -1"),
            ({"keep_span": 100}, "keep_span is 100"),
            ({"least_noise": 0}, "least_noise is 0"),
            ({"body_learning_rate": 0}, "body_learning_rate is 0"),
            ({"block_sizes": [7]}, "block_sizes has 7"),
        ):
            assert said in refused(script, finish_options(parts, out, **values), capsys)
        assert not out.exists()
        for values in ({"layers": [9]}, {"depth": 1}):
            assert "layers" in refused(
                script, finish_options(parts, out, discriminator=values), capsys
            ) or "depth" in str(values)
