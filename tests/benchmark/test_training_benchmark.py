"""`rtjazz benchmark --train` at tiny sizes: figures hang together, recipes follow from counts. Nothing about speed."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from tiny_models import TINY_CODEC, TINY_FLOW

from rtjazz_hf import cli
from rtjazz_hf.benchmark import TrainingSettings, run_training_benchmark
from rtjazz_hf.benchmark.recipes import RECIPES, SETTINGS, Recipe, compute_recipe, plan_training
from rtjazz_hf.benchmark.report import tables, to_markdown, to_text
from rtjazz_hf.trainers.adapter import LoraTrainConfig
from rtjazz_hf.trainers.config import load_config

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
FLOW = {key: value for key, value in TINY_FLOW.items() if key != "codebook_size"} | {"patch_size": 3}
TINY = {
    "codec": {"model": {**TINY_CODEC, "codebook_size": 16}, "batch_size": 2, "crop_frames": 26,
              "discriminator": {"num_filters": 4, "n_ffts": [512], "periods": [3]}, "discriminator_frames": 13,
              "max_steps": 10, "adversarial_from": 2, "adversarial_warmup": 1, "freeze_encoder_at": 6},
    "flow": {"model": FLOW, "batch_size": 2, "crop_frames": 72, "window_frames": 72},
    "lora": {"model": FLOW, "batch_size": 2, "crop_frames": 72},
}  # fmt: skip


class TestSettings:
    @pytest.mark.parametrize(("part", "size"), [case for case in SETTINGS if case[0] != "lora"])
    def test_are_those_of_the_configs(self, part, size):
        yaml = pytest.importorskip("yaml")
        written = yaml.safe_load((CONFIGS / f"{part}_{size}.yaml").read_text())
        for key, value in SETTINGS[part, size].items():
            assert written[key] == value, key
        shaping = (
            "quantize_from",
            "full_attention_rate",
            "discriminator_every",
            "discriminator_frames",
            "window_frames",
        )
        assert not [key for key in shaping if key in written and key not in SETTINGS[part, size]]

    def test_adapters_are_those_of_their_config(self):
        config = load_config(
            LoraTrainConfig, CONFIGS / "lora_mini.yaml", {"output_dir": "o", "recordings": "r", "data": "d"}
        )
        for size in ("mini", "base"):
            for key in ("max_steps", "batch_size", "crop_frames"):
                assert SETTINGS["lora", size][key] == getattr(config, key), key

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"parts": ("voice",)}, "parts voice: choose from codec"),
            ({"parts": ()}, "parts none"),
            ({"sizes": ("mini", "mini")}, "each once"),
            ({"batch_size": 0}, "batch_size 0"),
            ({"dtype": "float16"}, "float32 or bfloat16"),
            ({"steps": 0}, "steps 0"),
            ({"threads": 0}, "threads 0"),
            ({"device": "cuda:1"}, "device cuda:1"),
        ],
    )
    def test_what_cannot_be_is_named(self, values, words):
        with pytest.raises(ValueError, match=words):
            TrainingSettings(**values)

    def test_a_cpu_gets_small_batches_of_base(self):
        cases = {case.name: case.config["values"] for case in plan_training(TrainingSettings())}
        assert cases["flow base"]["batch_size"] == 1
        assert cases["flow mini"]["batch_size"] == SETTINGS["flow", "mini"]["batch_size"]
        asked = plan_training(TrainingSettings(batch_size=3, dtype="float32"))
        assert {case.config["values"]["batch_size"] for case in asked} == {3}
        assert {case.dtype for case in asked} == {"float32"}


class TestRecipes:
    FIGURES = {"flops_per_sample": 1e12, "state_bytes": 2e9, "activation_bytes_per_sample": 1e9}

    def test_hours_follow_from_the_count(self):
        recipe = Recipe("flow", "base", RECIPES[0].gpu, 8, 32, 2, 1000, 10.0)
        found = compute_recipe(recipe, self.FIGURES)
        seconds = 32 * 2 * 1000 * 1e12 / (0.3 * recipe.gpu.flops)
        assert found["hours"]["0.3"] == pytest.approx(seconds / 3600)
        assert found["hours"]["0.1"] == pytest.approx(3 * seconds / 3600)
        assert found["gpu_hours"]["0.3"] == pytest.approx(8 * seconds / 3600)
        assert found["memory_gb"] == pytest.approx(34.0) and found["fits"]
        twice = compute_recipe(dataclasses.replace(recipe, batch_size=64, accumulate=1), self.FIGURES)
        assert twice["hours"] == found["hours"] and not twice["fits"]

    def test_those_of_the_published_sizes_are_there(self):
        gpus = {(recipe.part, recipe.size, recipe.gpus): recipe.asked_hours for recipe in RECIPES}
        assert gpus["codec", "base", 4] == 7 * 24 and gpus["flow", "base", 8] == 14 * 24
        assert any(math.isinf(hours) for hours in gpus.values())


class TestMeasured:
    @pytest.fixture(scope="class")
    def report(self):
        pytest.importorskip("tensorboard")
        pytest.importorskip("peft")
        settings = TrainingSettings(sizes=("mini",), dtype="float32", threads=1, steps=1, overrides=TINY)
        return run_training_benchmark(settings)

    def test_every_part_is_measured(self, report):
        assert not [each["failed"] for each in report["cases"] if "failed" in each]
        assert [each["case"]["name"] for each in report["cases"]] == ["codec mini", "flow mini", "lora mini"]
        for each in report["cases"]:
            assert sum(kind["share"] for kind in each["kinds"].values()) == pytest.approx(1.0)
            assert each["tokens_per_second"] == pytest.approx(
                each["samples_per_second"]
                * each["crop_frames"]
                / (1 if "codec" in each["case"]["name"] else 3)
            )
            assert (
                each["flops_per_sample"] > 2 * each["parameters"]
                and each["activation_bytes_per_sample"] > 1000
            )
            assert each["peak_memory_mb"]["host"] > 100

    def test_kinds_are_the_phases_of_a_training(self, report):
        codec, flow, lora = report["cases"]
        assert [round(kind["share"], 3) for kind in codec["kinds"].values()] == [0.2, 0.4, 0.4]
        assert set(flow["kinds"]) == {"full attention", "blocks", "blocks, own context"}
        assert lora["trained_parameters"] < 0.5 * lora["parameters"]
        assert flow["trained_parameters"] == flow["parameters"]

    def test_only_recipes_of_what_was_measured_are_computed(self, report):
        assert {row["recipe"].split(",")[0] for row in report["recipes"]} == {"codec mini", "flow mini"}
        titles = [title for title, _, _ in tables(report)]
        assert titles == ["Training, measured here", "Recipes, computed from counted FLOPs and not run"]
        for text in (to_text(report), to_markdown(report)):
            assert "not run" in text and "flow mini, 1 x RTX 3060 8 GB" in text
        json.dumps(report, allow_nan=False)


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--train", "--minutes", "1"], "--train and --minutes"),
            (["--train", "--profile"], "--train and --profile"),
            (["--train", "--models", "huge"], "sizes huge"),
            (["--train", "--batch-size", "0"], "batch_size 0"),
            (["--train", "--dtype", "float32", "bfloat16"], "several of --dtype"),
            (["--train", "--out", "no/folder"], "parent"),
            (["--parts", "codec"], "give --train too"),
        ],
    )
    def test_refusals(self, arguments, words, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("rtjazz_hf.benchmark.run._run_group", lambda *_: pytest.fail("work began"))
        assert cli.main(["benchmark", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err

    def test_a_report_is_written(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("rtjazz_hf.benchmark.run._run_group", lambda *_: [])
        assert cli.main(["benchmark", "--train", "--models", "mini", "--out", "report", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["recipes"] == []
        assert {file.name for file in (tmp_path / "report").iterdir()} == {"training.json", "training.md"}
