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

from rtjazz_hf.audio import write_audio
from rtjazz_hf.lora_training import PERSONAL_SETTINGS, BestSoFar, LoraTrainConfig, train_lora

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
        write_audio(folder / f"{index}.{suffix}", played(seed=index))
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


def test_the_config_file_says_what_the_command_does():
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load((TRAINING / "configs" / "lora_mini.yaml").read_text()) == PERSONAL_SETTINGS


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


def test_distilled_base_is_judged_by_what_it_makes_in_its_own_steps(recordings, prepared, tmp_path):
    student = build_tiny_pipeline()
    student.transformer.config.distilled_steps, student.transformer.config.distilled_shift = 2, 2.0
    student.save_pretrained(tmp_path / "student")
    out = ready(prepared, tmp_path / "run")
    result = train(tmp_path / "student", recordings, out, max_steps=30, learning_rate=3e-3)
    assert result["improved"]
    pipe = type(student).from_pretrained(tmp_path / "student")
    pipe.load_lora_weights(result["adapter"])
    assert np.isfinite(play(pipe)).all()


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
