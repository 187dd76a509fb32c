"""Adapters learnt from recordings: the loop at a tiny size, from a folder of sounds to a pipeline that plays them."""

from __future__ import annotations

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from synthetic_takes import played
from test_training_scripts import TRAINING
from tiny_models import build_tiny_pipeline

from rtjazz_hf.adapters import attach_adapter, read_adapter
from rtjazz_hf.audio import write_audio
from rtjazz_hf.band import Score, ScoreNote
from rtjazz_hf.flow import FlowMatchScheduler
from rtjazz_hf.music.score_features import SCORE_DIM
from rtjazz_hf.trainers.adapter import (
    BestSoFar,
    LoraTrainConfig,
    StyledFlow,
    prior_loss,
    train_lora,
    waiting_time,
)
from rtjazz_hf.trainers.config import PERSONAL_SETTINGS, load_config
from rtjazz_hf.trainers.distillation import student_ends, student_path
from rtjazz_hf.trainers.flow import channel_weights

for needed in ("peft", "librosa", "accelerate", "tensorboard"):
    pytest.importorskip(needed, reason="the train and eval extras")

PLAY = {"block_frames": 12, "tempo": 120, "chords": "Dm7 | G7", "duration": 1.0, "prompt": "swing"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    build_tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index, suffix in enumerate(("wav", "flac")):
        write_audio(folder / f"{index}.{suffix}", played(seconds=32.0, seed=index))
    return folder


@pytest.fixture(scope="module")
def prepared(base, recordings, tmp_path_factory):
    """Takes and latents as a run leaves them, which other runs need not make again."""
    folder = tmp_path_factory.mktemp("prepared")
    train(base, recordings, folder, max_steps=1)
    return folder


@pytest.fixture
def out(prepared, tmp_path):
    return ready(prepared, tmp_path / "run")


def ready(prepared, folder):
    shutil.copytree(prepared / "takes", folder / "takes")
    return folder


def play(pipe):
    return pipe(**PLAY, generator=torch.Generator().manual_seed(1)).audios


def train(base, recordings, out, **options):
    settings = {
        "max_steps": 3,
        "batch_size": 2,
        "crop_frames": 144,
        "learning_rate": 0.01,
        "warmup_steps": 0,
        "num_workers": 0,
        "sample_every": 0,
        "validate_every": 0,
        "save_every": 100,
        "log_every": 1,
        "mixed_precision": "no",  # Accelerate keeps the first one of a process, and other tests train in it too
    }
    return train_lora(LoraTrainConfig(output_dir=str(out), recordings=str(recordings), base=str(base),
                                      name="tester", **{**settings, **options}))  # fmt: skip


def weights_of(out):
    from safetensors.torch import load_file

    return load_file(out / "adapter" / "adapter_model.safetensors")


def test_the_config_file_says_what_the_command_does(tmp_path):
    pytest.importorskip("yaml")
    needed = {"output_dir": "o", "recordings": "r"}
    read = load_config(LoraTrainConfig, TRAINING / "configs" / "lora_mini.yaml", needed)
    assert read == LoraTrainConfig(**needed, **PERSONAL_SETTINGS)
    (tmp_path / "mine.yaml").write_text("preset: personal\nmax_steps: 7\n")
    mine = load_config(LoraTrainConfig, tmp_path / "mine.yaml", needed)
    assert mine.max_steps == 7 and mine.max_minutes == read.max_minutes
    (tmp_path / "mine.yaml").write_text("preset: quick\n")
    with pytest.raises(ValueError, match=r"preset 'quick' in '.*mine\.yaml': choose from personal"):
        load_config(LoraTrainConfig, tmp_path / "mine.yaml", needed)


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"gradient_checkpointing": True}, {"qlora": True}])
def test_learnt_adapter_loads_and_is_heard(base, recordings, out, options):
    if options.get("qlora") and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    result = train(base, recordings, out, **options)
    assert result["steps"] == 3 and result["minutes"] > 1
    pipe = type(build_tiny_pipeline()).from_pretrained(base)
    bare = play(pipe)
    pipe.load_lora_weights(result["adapter"])
    assert not np.array_equal(play(pipe), bare)
    pipe.unload_lora_weights()
    np.testing.assert_array_equal(play(pipe), bare)


def test_the_waiting_time_is_told():
    config = LoraTrainConfig(output_dir="o", recordings="r", **PERSONAL_SETTINGS)  # 1,500 steps, 50 minutes
    assert waiting_time(1.2, 5, 2.0, config).startswith("1.20 s a step: about 30 minutes more, until max_steps (1500)")
    assert "about 48 minutes more, until max_minutes (50)" in waiting_time(6.0, 5, 2.0, config)


def test_what_was_heard_goes_beside_the_adapter(base, recordings, out):
    line = [ScoreNote(beat / 2, 0.4, 60 + 2 * (beat % 2), 80, "piano", "lead") for beat in range(40)]
    for label in out.glob("takes/takes/*/label.json"):
        label.with_name("score.json").write_text(json.dumps(Score(tuple(line), told=("lead",)).to_dict()))
    adapter = read_adapter(train(base, recordings, out, max_steps=1)["adapter"])
    assert sum(adapter.phrases.beats) == 40 and adapter.phrases.intervals[14] == 20


def test_distilled_base_is_judged_by_what_it_makes_in_its_own_steps(recordings, prepared, tmp_path):
    student = build_tiny_pipeline()
    student.transformer.config.distilled_steps, student.transformer.config.distilled_shift = 2, 2.0
    student.save_pretrained(tmp_path / "student")
    out = ready(prepared, tmp_path / "run")
    result = train(tmp_path / "student", recordings, out, max_steps=16, learning_rate=5e-3)
    assert result["improved"]
    pipe = type(student).from_pretrained(tmp_path / "student")
    pipe.load_lora_weights(result["adapter"])
    assert np.isfinite(play(pipe)).all()


@pytest.mark.parametrize("steps", [None, 2])
def test_a_base_that_is_told_notes(recordings, prepared, tmp_path, steps):
    base, transformer = build_tiny_pipeline(), build_tiny_pipeline(score_dim=SCORE_DIM).transformer
    transformer.config.distilled_steps, transformer.config.distilled_shift = steps, 2.0
    type(base)(**{**base.components, "transformer": transformer}).save_pretrained(tmp_path / "base")
    options = {"max_steps": 1, "transcribe": False, "sample_every": int(steps is not None)}  # samples are played once
    result = train(tmp_path / "base", recordings, ready(prepared, tmp_path / "run"), **options)
    assert np.isfinite(list(result["after"].values())).all() and "val_untold" in result["after"]
    assert ("val_true_noisy" in result["after"]) == (steps is None)  # a student has its own times


def test_gradient_checkpointing_learns_the_same(base, recordings, prepared, tmp_path):
    train(base, recordings, ready(prepared, tmp_path / "a"))
    train(base, recordings, ready(prepared, tmp_path / "b"), gradient_checkpointing=True)
    one, other = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_resumed_run_ends_as_one_that_was_not_stopped(base, recordings, prepared, tmp_path):
    whole = train(
        base,
        recordings,
        ready(prepared, tmp_path / "whole"),
        max_steps=4,
        validate_every=2,
        schedule="constant",
    )
    train(
        base,
        recordings,
        ready(prepared, tmp_path / "parts"),
        max_steps=2,
        validate_every=2,
        schedule="constant",
    )
    parts = train(base, recordings, tmp_path / "parts", max_steps=4, validate_every=2, schedule="constant")
    assert parts["before"] == whole["before"] and parts["after"] == whole["after"]
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_stops_when_nothing_is_gained(base, recordings, out, capsys):
    result = train(base, recordings, out, max_steps=20, validate_every=1, patience=2, learning_rate=1e-20)
    assert result["steps"] == 3  # the first is the best, and two are no better
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    best = min(line["val_true"] for line in logged if "val_true" in line)
    assert result["after"]["val_true"] == pytest.approx(best)
    assert not result["improved"] and "listen before you use it" in capsys.readouterr().out


def test_best_so_far_is_put_back():
    model, kept = torch.nn.Linear(2, 2), BestSoFar()
    kept.before = {"val_true": 2.0}
    assert kept.take({"val_true": 1.0}, model)
    best = model.weight.detach().clone()
    torch.nn.init.zeros_(model.weight)
    assert not kept.take({"val_true": 1.5}, model) and kept.waited == 1 and kept.improved
    again = BestSoFar()
    again.load_state_dict(kept.state_dict())
    again.put_back(model)
    assert torch.equal(model.weight, best)


class TestPrior:
    """The term that holds an adapter to its base under charts that were not played."""

    @pytest.fixture(params=[(None, 12), (None, 0), (2, 12)], ids=["blocks", "full attention", "distilled"])
    def case(self, request):
        steps, block = request.param
        flow = build_tiny_pipeline().transformer
        flow.config.distilled_steps, flow.config.distilled_shift = steps, 2.0
        attach_adapter(flow, rank=2, alpha=4.0)
        torch.manual_seed(0)
        config, rows, frames = flow.config, 6, 72
        batch = {"latents": torch.randn(rows, config.latent_dim, frames), "block_frames": torch.tensor(block),
                 "lead_sheet": torch.rand(rows, frames, config.lead_sheet_dim),
                 "window_frames": torch.full((rows,), 24),
                 "style": torch.nn.functional.normalize(torch.randn(rows, config.style_dim), dim=-1)}  # fmt: skip
        settings = LoraTrainConfig(recordings="r", output_dir="o")
        return StyledFlow(flow, batch["style"][0]), batch, settings, channel_weights(flow)

    def test_an_adapter_that_does_nothing_pays_for_its_call_alone(self, case):
        model, batch, *rest = case
        loss = prior_loss(model, batch, *rest)
        loss.backward()
        assert loss > 0 and model.style.grad.abs().sum() > 0
        batch["style"] = batch["style"][:1].expand(6, -1)  # the learnt style is that of every take
        assert prior_loss(model, batch, *rest) < 1e-10

    def test_a_style_is_called_alone_and_beside_words(self, case):
        model = case[0]
        words = torch.nn.functional.normalize(torch.randn(5, len(model.style)), dim=-1)
        beside = StyledFlow(model.transformer, model.style, words)
        alone = model.embedding().expand(4, -1)
        assert torch.equal(model.called(4, 1.0), alone) and torch.equal(beside.called(4, 0.0), alone)
        expected = torch.nn.functional.normalize(words + model.embedding(), dim=-1)
        distance = torch.cdist(beside.called(40, 1.0), expected)
        assert distance.min(-1).values.max() < 1e-2 and len(set(distance.argmin(-1).tolist())) > 1
        half = (beside.called(200, 0.5) == model.embedding()).all(-1).float().mean()
        assert 0.3 < half < 0.7

    def test_the_adapter_is_back_after_a_fault(self, case):
        model, batch, *rest = case
        with pytest.raises(ValueError, match="style has shape"):
            prior_loss(model, {**batch, "style": batch["style"][:, :3]}, *rest)
        assert not any(layer.disable_adapters for layer in model.modules() if hasattr(layer, "lora_A"))


def test_students_path_leads_where_the_student_ends():
    flow = build_tiny_pipeline().transformer.eval()
    clean = torch.randn(2, flow.config.latent_dim, 24, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    ends = student_ends(flow, clean, 3, 2.0, makings=1)[0]
    torch.manual_seed(1)
    path = list(student_path(flow, torch.randn(clean.shape), 3, 2.0))
    scheduler = FlowMatchScheduler(shift=2.0)
    scheduler.set_timesteps(3)
    assert [float(times[0]) for _, times, _ in path] == scheduler.timesteps.tolist()
    sample, times, velocity = path[-1]
    torch.testing.assert_close(ends, sample + (1 - times[0]) * velocity)
