"""The training scripts of codec and flow through `main()`, on takes of three seconds; the style encoder's are in
test_train_style."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from scripts import ROOT, load_script
from synthetic_takes import write_takes
from tiny_models import TINY_CODEC, TINY_FLOW

from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzFlowTransformer
from rtjazz_hf.corpus.crops import AudioCrops
from rtjazz_hf.corpus.dataset import load_takes

pytest.importorskip("tensorboard")
pytest.importorskip("yaml")
pytest.importorskip("matplotlib")

TRAINING = ROOT / "training"


@pytest.fixture(scope="module")
def train_codec():
    return load_script("train_codec")


@pytest.fixture(scope="module")
def train_flow():
    return load_script("train_flow")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_takes(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def parts(tiny_pipeline, corpus, train_flow, tmp_path_factory) -> Path:
    """A folder with a codec and a style encoder, as their scripts end."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_pipeline.codec.save_pretrained(folder / "codec")
    tiny_pipeline.style_encoder.save_pretrained(folder / "style")
    tiny_pipeline.tokenizer.save_pretrained(folder / "style")
    return folder


def options(**values) -> list[str]:
    """As typed: constant rates, so that a run that is stopped early is the beginning of a longer one."""
    shared = {"max_steps": 6, "warmup_steps": 2, "schedule": "constant", "log_every": 1, "save_every": 2,
              "batch_size": 2, "mixed_precision": "no", "ema_decay": 0.9, "learning_rate": 1e-3}  # fmt: skip
    typed = []
    for key, value in {**shared, **values}.items():
        value = json.dumps(value) if isinstance(value, dict) else str(value)
        typed += [f"--{key.replace('_', '-')}", value]
    return typed


def codec_options(corpus: Path, out: Path, **values) -> list[str]:
    model = {**TINY_CODEC, "codebook_size": 16}
    settings = {"data": corpus, "output_dir": out, "model": model, "crop_frames": 26, "fit_clips": 2,
                "freeze_encoder_at": 3, "adversarial_from": 1, "adversarial_warmup": 2, "discriminator_frames": 13,
                "discriminator": {"num_filters": 4, "n_ffts": [512], "periods": [3]}}  # fmt: skip
    return options(**{**settings, **values})


def flow_options(corpus: Path, parts: Path, out: Path, **values) -> list[str]:
    model = {key: value for key, value in TINY_FLOW.items() if key != "codebook_size"}
    settings = {"takes": corpus, "data": out.parent / "latents", "codec": parts / "codec", "output_dir": out,
                "style_encoder": parts / "style", "crop_frames": 72, "full_attention_rate": 0.3,
                "own_context_rate": 0.5, "context_drift": 0.2,
                "model": {**model, "patch_size": 3, **values.pop("model", {})}}  # fmt: skip
    return options(**{**settings, **values})


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same_logs(one: Path, other: Path) -> bool:
    return [list(row) for row in log(one)] == [list(row) for row in log(other)] and all(
        mine == pytest.approx(theirs, rel=1e-4) for mine, theirs in zip(log(one), log(other))
    )


def same_weights(model_class: type, one: Path, other: Path) -> bool:
    states = [model_class.from_pretrained(out / "final").state_dict() for out in (one, other)]
    return all(torch.allclose(states[0][name], value, atol=1e-5) for name, value in states[1].items())


def same_tensors(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine = one.state_dict()
    return all(torch.equal(mine[name], tensor) for name, tensor in other.state_dict().items())


class TestCodec:
    @pytest.fixture(scope="class")
    def whole(self, train_codec, corpus, tmp_path_factory) -> Path:
        out = tmp_path_factory.mktemp("codec") / "run"
        train_codec.main(codec_options(corpus, out, sample_every=6))
        return out

    def test_ends_with_a_codec_that_loads_and_has_codes(self, whole):
        codec, info = RealTimeJazzCodec.from_pretrained(whole / "final", output_loading_info=True)
        assert not any(info.values())
        assert codec.quantizer.is_initialized and codec.config.codebook_size == 16
        assert "freeze_encoder_at: 3" in (whole / "final" / "README.md").read_text()
        assert codec.encode(torch.zeros(1, 2, 6400)).codes.shape == (1, 4, 10)

    def test_latents_are_fixed_from_freeze_encoder_at_on(self, whole):
        steps = [whole / "checkpoints" / f"step-{step:08d}" for step in (4, 6)]
        early, late = (torch.load(step / "custom_checkpoint_0.pkl")["module"] for step in steps)
        same = {name for name in early if torch.equal(early[name], late[name])}
        assert {name for name in early if name.startswith(("encoder.", "quantizer."))} <= same
        assert not {name for name in early if name.startswith("decoder.")} <= same

    def test_latents_are_normalised(self, whole, corpus, train_codec):
        codec = RealTimeJazzCodec.from_pretrained(whole / "final")
        clips = AudioCrops(load_takes(corpus, "train"), 26).clips(2)
        latents = torch.cat([codec.encode(clip, return_codes=False).latents[0] for clip in clips], dim=1)
        assert latents.mean(1).abs().max() < 0.01
        assert (latents.std(1) - 1).abs().max() < 0.01

    def test_logs_and_samples(self, whole):
        assert [row["step"] for row in log(whole) if "spectral" in row] == [1, 2, 3, 4, 5, 6]
        assert any("test_mel_0" in row for row in log(whole))
        samples = {path.name for path in (whole / "samples" / "step-00000006").iterdir()}
        assert {"original_0.flac", "round_trip_0.flac", "round_trip_0.png"} <= samples
        assert list((whole / "logs").rglob("events.*"))

    def test_stopped_and_resumed_equals_uninterrupted(self, whole, train_codec, corpus, tmp_path):
        for stop in (2, 3, 5, 6):  # before, at and after freeze_encoder_at
            train_codec.main(codec_options(corpus, tmp_path, sample_every=6, max_steps=stop))
        assert same_logs(tmp_path, whole)
        assert same_weights(RealTimeJazzCodec, tmp_path, whole)

    @pytest.mark.slow  # the style encoder's script is killed in every run of the suite
    def test_killed_in_mid_run_and_resumed_equals_uninterrupted(self, whole, train_codec, corpus, tmp_path):
        """kill -9 between two checkpoints: discriminators, balancer and averages go on as if nothing had been."""
        typed = codec_options(corpus, tmp_path, sample_every=6)
        command = [sys.executable, str(TRAINING / "train_codec.py"), *typed]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "checkpoints" / "step-00000002").is_dir():
            time.sleep(0.05)
        process.kill()
        process.wait()
        train_codec.main(typed)
        assert same_logs(tmp_path, whole)
        assert same_weights(RealTimeJazzCodec, tmp_path, whole)

    def test_discriminators_learn_and_every_loss_is_logged(self, whole):
        rows = [row for row in log(whole) if "spectral" in row]
        assert not any(
            "adversarial" in row for row in rows[:2]
        )  # their weights rise from the step after the first
        assert all({"adversarial", "feature", "pull_feature", "grad_norm"} <= set(row) for row in rows[2:])
        assert any("grad_norm_discriminator" in row for row in rows)

    def test_starts_from_a_codec_and_fits_its_codes_anew(self, whole, train_codec, corpus, tmp_path):
        start = RealTimeJazzCodec.from_pretrained(whole / "final")
        train_codec.main(codec_options(corpus, tmp_path / "a", init_from=whole / "final", max_steps=4))
        anew = RealTimeJazzCodec.from_pretrained(tmp_path / "a" / "final")
        assert anew.config.latents_mean != start.config.latents_mean
        assert not torch.equal(anew.codebooks, start.codebooks)
        frozen = codec_options(
            corpus, tmp_path / "b", init_from=whole / "final", max_steps=2, freeze_encoder_at=0,
            model={"level_memory": 2}, loss_weights={"mel": 1.0, "low": 1.0, "partials": 1.0},
        )  # fmt: skip
        train_codec.main(frozen)
        kept = RealTimeJazzCodec.from_pretrained(tmp_path / "b" / "final")
        assert kept.config.latents_mean == start.config.latents_mean
        assert torch.equal(kept.codebooks, start.codebooks)
        assert same_tensors(kept.encoder, start.encoder) and not same_tensors(kept.decoder, start.decoder)
        assert kept.decoder.level_past.any()


class TestFlow:
    @pytest.fixture(scope="class", params=["velocity", "codebook"])
    def whole(self, request, train_flow, corpus, parts, tmp_path_factory) -> Path:
        out = tmp_path_factory.mktemp(request.param) / "run"
        values = {"validate_every": 3, "sample_every": 6, "model": {"prediction_type": request.param}}
        train_flow.main(flow_options(corpus, parts, out, **values))
        return out

    def test_ends_with_a_transformer_that_loads(self, whole, parts):
        model, info = RealTimeJazzFlowTransformer.from_pretrained(whole / "final", output_loading_info=True)
        assert not any(info.values())
        codec = RealTimeJazzCodec.from_pretrained(parts / "codec")
        weights = torch.tensor(codec.config.latents_std)
        assert torch.allclose(torch.tensor(model.config.channel_weights), weights / weights.mean())
        if model.config.prediction_type == "codebook":
            assert torch.allclose(model.head.codebooks, codec.codebooks)
        assert "2 takes" in (whole / "final" / "README.md").read_text()

    def test_logs_and_samples(self, whole):
        assert [row["step"] for row in log(whole) if "loss" in row] == [1, 2, 3, 4, 5, 6]
        validations = [row for row in log(whole) if "val_true" in row]
        assert [row["step"] for row in validations] == [3, 6]
        assert {"val_true", "val_rotated", "val_none"} <= set(validations[0])
        # float32 even where the model runs in 16 bit: the three differ late in the digits
        assert validations[-1]["val_true"] != validations[-1]["val_none"]
        samples = {path.name for path in (whole / "samples" / "step-00000006").iterdir()}
        assert samples == {"sample_0.flac", "sample_0.png"}

    def test_stopped_and_resumed_equals_uninterrupted(self, whole, train_flow, corpus, parts):
        again = whole.with_name("again")
        kind = RealTimeJazzFlowTransformer.from_pretrained(whole / "final").config.prediction_type
        for stop in (3, 6):
            values = {"validate_every": 3, "max_steps": stop, "model": {"prediction_type": kind}}
            train_flow.main(flow_options(corpus, parts, again, **values))
        assert same_logs(again, whole)
        assert same_weights(RealTimeJazzFlowTransformer, again, whole)


def test_a_run_that_began_before_notes_goes_on_without(train_flow, corpus, parts, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "old"
    for folder, steps in ((whole, 2), (out, 1)):
        train_flow.main([*flow_options(corpus, parts, folder, max_steps=steps, noisy_rate=0.0), "--no-score"])
    for file in (out / "checkpoints").glob("*/state.json"):
        state = json.loads(file.read_text())
        del state["config"]["score"], state["config"]["noisy_rate"]
        file.write_text(json.dumps(state))
    train_flow.main(flow_options(corpus, parts, out, max_steps=2, noisy_rate=1.0))
    assert RealTimeJazzFlowTransformer.from_pretrained(out / "final").config.score_dim == 0
    assert same_weights(RealTimeJazzFlowTransformer, out, whole)


class TestLatents:
    def test_parts_fill_the_store_that_training_uses(self, train_flow, corpus, parts, tmp_path, capsys):
        typed = ["--takes", str(corpus), "--codec", str(parts / "codec"), "--style-encoder", str(parts / "style"),
                 "--data", str(tmp_path / "latents"), "--quiet"]  # fmt: skip
        for part in ("0/2", "1/2"):
            load_script("prepare_latents").main([*typed, "--part", part])
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").rglob("*.*")}
        assert len(before) == 3 * 3 + 2
        train_flow.main(flow_options(corpus, parts, tmp_path / "run", max_steps=1))
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").rglob("*.*")} == before
        capsys.readouterr()
        load_script("prepare_latents").main([*typed, "--styles", "other", "--verify"])
        assert "3 takes" in (said := capsys.readouterr().out) and "6 files agree" in said
        run = flow_options(
            "none", parts, tmp_path / "other", data=tmp_path / "latents", styles="other", max_steps=1
        )
        train_flow.main(run)

    def test_the_loader_is_measured(self, train_flow, corpus, parts, tmp_path, capsys):
        train_flow.main(flow_options(corpus, parts, tmp_path / "run", max_steps=1))
        script = load_script("measure_loader")
        capsys.readouterr()
        script.main(
            flow_options("none", parts, tmp_path / "loader", gigabytes=0.001, shard_takes=1, max_steps=10)
        )
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["takes"] == told["shards"] == 2 and len(told["stream"]["memory_mb"]) == 5
        assert told["stream"]["gigabytes"] >= 0.001 and told["training"]["steps"] == 3
        turns = script.InTurns(None, [], 0)
        assert [turns.from_shards(number) for number in range(4)] == [True, False, False, True]
        typed = flow_options("none", parts, tmp_path / "more", gigabytes=1, data=tmp_path / "latents")
        assert "less than the 1 of --gigabytes" in refused(script, typed, capsys)

    def test_bad_parts(self, tmp_path, capsys):
        typed = ["--takes", "a", "--codec", "b", "--style-encoder", "c", "--data", "d"]
        for part in ("2/2", "1", "0/0", "-1/2", "a/b"):
            assert "is no part" in refused(load_script("prepare_latents"), [*typed, f"--part={part}"], capsys)


def refused(script, typed: list[str], capsys) -> str:
    """The last line that a script says before it ends with status 2."""
    with pytest.raises(SystemExit) as exit_info:
        script.main(typed)
    assert exit_info.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


class TestBadInput:
    @pytest.mark.parametrize(
        "name", ["train_codec", "train_flow", "train_style", "prepare_corpus", "prepare_latents"]
    )
    def test_help(self, name, capsys):
        with pytest.raises(SystemExit) as exit_info:
            load_script(name).main(["--help"])
        assert exit_info.value.code == 0
        assert f"python training/{name}.py" in (shown := capsys.readouterr().out) or f"{name}.py" in shown

    def test_unknown_keys_are_named_with_their_neighbours(
        self, train_codec, train_flow, corpus, parts, tmp_path, capsys
    ):
        typo = tmp_path / "typo.yaml"
        typo.write_text("batch_sizes: 3\n")
        said = refused(train_codec, ["--config", str(typo), *codec_options(corpus, tmp_path / "a")], capsys)
        assert "batch_size?" in said
        typed = codec_options(corpus, tmp_path / "b", model={"encoder_layer": 1})
        assert "encoder_layers?" in refused(train_codec, typed, capsys)
        typed = flow_options(corpus, parts, tmp_path / "c", model={"hiden_size": 64})
        assert "hidden_size?" in refused(train_flow, typed, capsys)
        typed = flow_options(corpus, parts, tmp_path / "d", model={"hidden_size": 65})
        assert "multiple of 64" in refused(train_flow, typed, capsys)

    def test_missing_folders_are_one_line(self, train_codec, train_flow, corpus, parts, tmp_path, capsys):
        nowhere = tmp_path / "nowhere"
        assert str(nowhere) in refused(train_codec, codec_options(nowhere, tmp_path / "a"), capsys)
        assert "--data" in refused(train_codec, codec_options("", tmp_path / "a"), capsys)
        assert str(nowhere) in refused(train_flow, flow_options(nowhere, parts, tmp_path / "a"), capsys)
        assert str(nowhere) in refused(train_flow, flow_options(corpus, nowhere, tmp_path / "a"), capsys)
        typed = flow_options("none", parts, tmp_path / "a", data=nowhere)
        assert "no latent store" in refused(train_flow, typed, capsys)
        style = load_script("train_style")
        assert str(nowhere) in refused(style, options(data=nowhere, output_dir=tmp_path / "a"), capsys)

    def test_crops_longer_than_every_take(self, train_codec, train_flow, corpus, parts, tmp_path, capsys):
        typed = codec_options(corpus, tmp_path / "a", crop_frames=9000)
        assert "9000 frames" in refused(train_codec, typed, capsys)
        typed = flow_options(corpus, parts, tmp_path / "a", crop_frames=9000)
        assert "crop_frames=9000" in refused(train_flow, typed, capsys)
        typed = flow_options(corpus, parts, tmp_path / "a", crop_frames=75)
        assert "multiple" in refused(train_flow, typed, capsys)

    def test_latents_of_another_codec(self, train_codec, train_flow, corpus, parts, tmp_path, capsys):
        train_flow.main(flow_options(corpus, parts, tmp_path / "a", max_steps=1))
        codec = RealTimeJazzCodec.from_pretrained(parts / "codec")
        with torch.no_grad():
            next(codec.encoder.parameters()).add_(1.0)
        codec.save_pretrained(tmp_path / "codec")
        typed = flow_options("none", parts, tmp_path / "b", codec=tmp_path / "codec")
        assert "another codec" in refused(train_flow, typed, capsys)
        typed = flow_options("none", parts, tmp_path / "b", model={"prediction_type": "codebook"})
        assert "holds no codes" in refused(train_flow, typed, capsys)


class TestEvaluationOnTheWay:
    """`evaluate_every`: the package's own evaluation of held-out takes while a run goes on."""

    @pytest.mark.slow
    def test_flow(self, train_flow, corpus, parts, tmp_path):
        pytest.importorskip("librosa")
        values = {"evaluate_every": 2, "evaluate_takes": 1, "evaluate_seconds": 2.5, "max_steps": 4}
        train_flow.main(flow_options(corpus, parts, tmp_path / "run", **values))
        told = [row for row in log(tmp_path / "run") if "eval_sane" in row]
        assert [row["step"] for row in told] == [2, 4] and "eval_band_error_db" in told[0]
        for step in (2, 4):
            folder = tmp_path / "run" / "evaluation" / f"step-{step:08d}"
            report = json.loads((folder / "report.json").read_text())
            assert len(report["charts"]["charts"]) == 1 and list((folder / "clips").glob("*.flac"))
        plain = tmp_path / "plain"
        train_flow.main(flow_options(corpus, parts, plain, data=tmp_path / "latents", max_steps=4))
        losses = [[row["loss"] for row in log(out) if "loss" in row] for out in (tmp_path / "run", plain)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # who looks changes nothing

    @pytest.mark.slow
    def test_codec(self, train_codec, corpus, tmp_path):
        pytest.importorskip("librosa")
        values = {"evaluate_every": 2, "evaluate_takes": 1, "evaluate_seconds": 2.5}
        train_codec.main(codec_options(corpus, tmp_path / "run", **values))
        told = [row for row in log(tmp_path / "run") if "eval_unquantised_pitch" in row]
        assert [row["step"] for row in told] == [2, 4, 6]
        assert ["eval_codes_mel_db" in row for row in told] == [
            False,
            True,
            True,
        ]  # codes come with the freeze

    def test_what_it_needs_is_asked_for(self, train_flow, corpus, parts, tmp_path, capsys):
        typed = flow_options(corpus, parts, tmp_path / "run", evaluate_every=2)
        place = typed.index("--takes")
        with pytest.raises(SystemExit) as stop:
            train_flow.main(typed[:place] + typed[place + 2 :])
        assert stop.value.code == 2 and "--takes and --style-encoder" in capsys.readouterr().err
