from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from rtjazz_hf.runtime.files import atomic_folder
from rtjazz_hf.trainers.run import (
    EMA,
    EpochOrder,
    TrainConfig,
    TrainingRun,
    complete_checkpoints,
    damaged_files,
    latest_checkpoint,
    learning_rate_factor,
    load_config,
    model_card,
    parameter_groups,
    parse_config,
    step_rng,
)

pytest.importorskip("tensorboard")


@dataclass
class TinyConfig(TrainConfig):
    data: str = ""
    model: dict = field(default_factory=dict)


def tiny_config(path, **values) -> TinyConfig:
    base = {"output_dir": str(path), "max_steps": 9, "warmup_steps": 3, "save_every": 3, "log_every": 1,
            "mixed_precision": "no", "ema_decay": 0.9}  # fmt: skip
    return TinyConfig(**{**base, **values})


def make_batch(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    x = torch.from_numpy(rng.standard_normal((8, 4)).astype(np.float32))
    return {"x": x, "y": x.sum(1, keepdim=True)}


def train(config: TinyConfig, stop_after: int | None = None) -> tuple[TrainingRun, nn.Module]:
    """A training script in small; `stop_after` steps it dies in the middle of a step, as when killed."""
    torch.manual_seed(7)
    run = TrainingRun(config)
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 1))
    run.make_ema(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=1e-2)
    model, optimizer = run.prepare(model, optimizer)
    run.resume()
    for batch in run.batches(make_batch):
        if run.step == stop_after:
            break
        with run.accelerator.accumulate(model):
            loss = (model(batch["x"] + 0.1 * torch.randn(8, 4)) - batch["y"]).square().mean()
            run.backward(loss, model, optimizer)
        run.log(loss=loss)
        if run.due(2):
            torch.randn(3)  # a sample or an evaluation draws random numbers
    run.finish()
    return run, run.weights(model)


def losses(path) -> list[float]:
    return [json.loads(line)["loss"] for line in (path / "log.jsonl").read_text().splitlines()]


class TestResume:
    @pytest.mark.parametrize("micro", [1, 2])
    def test_killed_and_resumed_equals_uninterrupted(self, tmp_path, micro):
        settings = {"gradient_accumulation_steps": micro}
        _, whole = train(tiny_config(tmp_path / "whole", **settings))
        train(tiny_config(tmp_path / "parts", **settings), stop_after=5)  # two steps past a checkpoint
        run, parts = train(tiny_config(tmp_path / "parts", **settings))
        assert run.step == 9
        assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
        assert len(losses(tmp_path / "whole")) == 9
        for mine, other in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.equal(mine, other)

    def test_a_disk_that_fills_costs_nothing_but_the_time(self, tmp_path):
        resource = pytest.importorskip("resource")
        _, whole = train(tiny_config(tmp_path / "whole"))
        train(tiny_config(tmp_path / "parts"), stop_after=4)  # past a checkpoint
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        files = (tmp_path / "parts" / "checkpoints" / "step-00000003").iterdir()
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (max(file.stat().st_size for file in files) - 100, before[1])
        )
        try:
            with pytest.raises(
                OSError, match=r"step-00000006' cannot be written: file too large; nothing of it is left"
            ):
                train(tiny_config(tmp_path / "parts"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-00000003"]
        run, parts = train(tiny_config(tmp_path / "parts"))
        assert run.step == 9 and losses(tmp_path / "whole") == losses(tmp_path / "parts")
        for mine, other in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.equal(mine, other)

    def test_log_windows_go_on_across_a_checkpoint(self, tmp_path):
        train(tiny_config(tmp_path / "whole", log_every=4, max_steps=8))
        train(tiny_config(tmp_path / "parts", log_every=4, max_steps=8), stop_after=3)
        train(tiny_config(tmp_path / "parts", log_every=4, max_steps=8))
        assert losses(tmp_path / "whole") == losses(tmp_path / "parts")

    def test_half_written_checkpoints_are_ignored_and_old_ones_dropped(self, tmp_path):
        train(tiny_config(tmp_path))
        folder = tmp_path / "checkpoints"
        assert sorted(p.name for p in folder.iterdir()) == ["step-00000006", "step-00000009"]
        (folder / ".step-00000012.partial").mkdir()
        (folder / "step-00000015").mkdir()
        assert latest_checkpoint(tmp_path).name == "step-00000009"
        assert latest_checkpoint(tmp_path / "nowhere") is None

    def test_what_kills_leave_is_cleared_away(self, tmp_path):
        """Of a checkpoint half written, of one half deleted, and before the old ones were deleted."""
        train(tiny_config(tmp_path))
        folder = tmp_path / "checkpoints"
        (folder / ".step-00000003.partial").mkdir()
        (folder / ".step-00000003.partial" / "model.safetensors").touch()
        shutil.copytree(folder / "step-00000006", folder / "step-00000003")
        train(tiny_config(tmp_path))
        assert sorted(p.name for p in folder.iterdir()) == ["step-00000006", "step-00000009"]

    def test_a_damaged_checkpoint_is_named_and_passed_over(self, tmp_path, capsys):
        train(tiny_config(tmp_path))
        before = losses(tmp_path)
        file = tmp_path / "checkpoints" / "step-00000009" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        assert damaged_files(file.parent) == ["model.safetensors"]
        run, _ = train(tiny_config(tmp_path))
        assert "step-00000009 is damaged (model.safetensors)" in capsys.readouterr().err
        assert run.checkpoint.name == "step-00000006" and losses(tmp_path) == before
        assert damaged_files(file.parent) == []  # made anew

    def test_the_best_are_kept_beside_the_newest(self, tmp_path):
        run = TrainingRun(tiny_config(tmp_path, max_steps=6, save_every=1, keep_checkpoints=1, keep_best=2))
        model = run.prepare(nn.Linear(4, 1))
        judged = iter([3.0, 1.0, float("nan"), 2.0, 4.0, 5.0])
        for batch in run.batches(make_batch):
            run.backward(model(batch["x"]).mean(), model, torch.optim.SGD(model.parameters(), lr=0.0))
            run.log_now(val_true=next(judged))
        names = [folder.name for folder in complete_checkpoints(tmp_path)]
        assert names == ["step-00000002", "step-00000004", "step-00000006"]

    def test_a_checkpoint_of_another_model_is_refused(self, tmp_path):
        train(tiny_config(tmp_path, max_steps=1, model={"width": 16}))
        with pytest.raises(ValueError, match=r"another model \(model \{'width': 16\}, now \{'width': 8\}\)"):
            TrainingRun(tiny_config(tmp_path, model={"width": 8}))
        assert TrainingRun(tiny_config(tmp_path, model={"width": 16}, learning_rate=1.0)).checkpoint

    def test_more_micro_batches_go_on_where_fewer_were(self, tmp_path):
        """As with other numbers of processes: what was seen is not seen again, and nothing is left out."""
        seen = []

        class Numbered:
            def numbered(self, number, rng):
                seen.append(number)
                return make_batch(rng)

        for steps, micro in ((2, 1), (4, 3), (6, 2)):
            run = TrainingRun(tiny_config(tmp_path, max_steps=steps, gradient_accumulation_steps=micro))
            model = nn.Linear(4, 1)
            model, optimizer = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
            run.resume()
            for batch in run.batches(Numbered()):
                with run.accelerator.accumulate(model):
                    run.backward(model(batch["x"]).mean(), model, optimizer)
        assert seen == list(range(2 * 1 + 2 * 3 + 2 * 2))

    def test_a_run_is_not_overwritten(self, tmp_path):
        train(tiny_config(tmp_path, max_steps=1))
        with pytest.raises(FileExistsError, match="holds a run"):
            TrainingRun(tiny_config(tmp_path, resume=False))

    def test_a_finished_run_does_nothing(self, tmp_path):
        train(tiny_config(tmp_path))
        run, _ = train(tiny_config(tmp_path))
        assert run.step == 9
        assert len(losses(tmp_path)) == 9


class TestStopping:
    def test_max_minutes_saves_and_ends(self, tmp_path):
        run, _ = train(tiny_config(tmp_path, max_steps=10_000, save_every=10_000, max_minutes=1e-4))
        assert 0 < run.step < 10_000
        assert latest_checkpoint(tmp_path).name == f"step-{run.step:08d}"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_an_interrupt_saves_and_ends(self, tmp_path, number):
        def interrupted(rng):
            if run.step == 2:
                signal.raise_signal(number)  # handled in this thread before it returns
            return make_batch(rng)

        run = TrainingRun(tiny_config(tmp_path))
        model = nn.Linear(4, 1)
        model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        missed = []  # where the run does not take the signal, a test fails instead of its process dying
        before = signal.signal(number, own := lambda *_: missed.append(number))
        try:
            assert len(list(run.batches(interrupted))) == 3 and not missed
            assert signal.getsignal(number) is own
        finally:
            signal.signal(number, before)
        assert latest_checkpoint(tmp_path).name == "step-00000003"

    def test_endless_nan_is_an_error(self, tmp_path):
        run = TrainingRun(tiny_config(tmp_path, max_steps=50, ema_decay=0))
        model = nn.Linear(4, 1)
        model, optimizer = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        with pytest.raises(FloatingPointError, match="10 times in a row"):
            for batch in run.batches(make_batch):
                run.backward(model(batch["x"]).mean() * float("nan"), model, optimizer)
        assert all(torch.isfinite(p).all() for p in model.parameters())
        dumps = sorted(path.name for path in (tmp_path / "bad_batches").iterdir())
        assert dumps == [f"step-{step:08d}-0.pt" for step in (7, 8, 9)]
        kept = torch.load(tmp_path / "bad_batches" / dumps[-1])
        assert torch.equal(kept["batch"]["x"], batch["x"]) and torch.isnan(kept["loss"])


class TestConfig:
    def test_yaml_and_command_line(self, tmp_path):
        (tmp_path / "tiny_mini.yaml").write_text(
            "learning_rate: 1e-3\nmodel: {layers: 2, width: 8}\nmax_steps: 5\n"
        )
        argv = [
            "--config",
            "mini",
            "--output-dir",
            "o",
            "--max-steps",
            "7",
            "--model",
            "{width: 9}",
            "--no-resume",
        ]
        config = parse_config(TinyConfig, "tiny", tmp_path, argv=argv)
        assert (config.learning_rate, config.max_steps, config.resume) == (1e-3, 7, False)
        assert config.model == {"layers": 2, "width": 9}

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"lerning_rate": 1}, "lerning_rate .did you mean learning_rate"),
            ({"max_steps": "many"}, "max_steps must be of type int, got 'many'"),
            ({"max_steps": 0}, "max_steps must be greater than 0"),
            ({"learning_rate": float("nan")}, "learning_rate"),
            ({"seed": None}, "seed may not be empty"),
            ({"resume": "yes"}, "resume must be of type bool"),
            ({"schedule": "up"}, "constant, cosine, wsd"),
            ({"decay_by": "minutes"}, "needs max_minutes"),
            ({"output_dir": ""}, "--output-dir"),
        ],
    )
    def test_bad_settings_are_named(self, values, message):
        with pytest.raises(ValueError, match=message):
            load_config(TinyConfig, None, {"output_dir": "o", **values})

    def test_bad_files(self, tmp_path, capsys):
        (tmp_path / "list.yaml").write_text("- a\n")
        (tmp_path / "broken.yaml").write_text("a: [")
        for name in ("list.yaml", "broken.yaml", "missing.yaml"):
            with pytest.raises((ValueError, FileNotFoundError), match=name):
                load_config(TinyConfig, tmp_path / name, {})
        with pytest.raises(SystemExit) as exit_info:
            parse_config(TinyConfig, "tiny", tmp_path, argv=["--config", "mini"])
        assert exit_info.value.code == 2
        assert "tiny_mini.yaml" in capsys.readouterr().err


class TestParts:
    def test_learning_rate(self):
        config = TinyConfig(output_dir="o", max_steps=100, warmup_steps=10, min_learning_rate_ratio=0.1)
        factors = [learning_rate_factor(step, config) for step in range(101)]
        assert factors[0] == pytest.approx(0.1)
        assert max(factors) <= 1.0
        assert factors[100] == pytest.approx(0.1)
        config.schedule = "wsd"
        assert learning_rate_factor(79, config) == 1.0
        assert learning_rate_factor(90, config) == pytest.approx(0.55)
        assert learning_rate_factor(20, config, progress=1.0) == pytest.approx(0.1)

    def test_groups_decay_matrices_alone(self):
        model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        decays, rest = parameter_groups(model, 0.1)
        assert [p.shape for p in decays["params"]] == [(4, 4)]
        assert len(rest["params"]) == 4
        assert rest["weight_decay"] == 0.0

    def test_ema_follows_and_is_independent(self):
        model = nn.BatchNorm1d(2)
        ema = EMA(model, 0.99)
        with torch.no_grad():
            model.weight.fill_(3.0)
            model.running_mean.fill_(5.0)
        ema.update(model)
        assert torch.allclose(ema.module.weight, torch.full((2,), 2.8))  # 0.1 of the old at the first update
        assert torch.equal(ema.module.running_mean, model.running_mean)
        restored = EMA(nn.BatchNorm1d(2), 0.99)
        restored.load_state_dict(ema.state_dict())
        assert restored.updates == 1
        assert torch.equal(restored.module.weight, ema.module.weight)

    def test_step_rng_is_a_function_of_its_key(self):
        assert step_rng(1, 5).integers(1 << 40) == step_rng(1, 5).integers(1 << 40)
        assert (
            len({int(step_rng(*key).integers(1 << 40)) for key in [(1, 5), (1, 6), (2, 5), (1, 5, 1)]}) == 4
        )

    def test_an_epoch_has_every_sample_once(self):
        order = EpochOrder(7, seed=3)
        epochs = [[order[7 * epoch + place] for place in range(7)] for epoch in range(3)]
        assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1]
        again = EpochOrder(7, seed=3)  # asked in another order, as by another process
        assert [again[place] for place in (20, 3, 9)] == [epochs[2][6], epochs[0][3], epochs[1][2]]

    def test_atomic_folder_keeps_the_old_on_failure(self, tmp_path):
        with atomic_folder(tmp_path / "final") as folder:
            (folder / "a").write_text("first")
        with pytest.raises(RuntimeError), atomic_folder(tmp_path / "final") as folder:
            (folder / "a").write_text("second")
            raise RuntimeError
        assert [p.name for p in tmp_path.iterdir()] == ["final"]
        assert (tmp_path / "final" / "a").read_text() == "first"

    def test_samples_and_card(self, tmp_path):
        run = TrainingRun(tiny_config(tmp_path))
        run.save_sample("take 1", torch.randn(2, 24_000) * 0.1)
        run.finish()
        assert sorted(p.name for p in (tmp_path / "samples" / "step-00000001").iterdir()) == [
            "take_1.flac",
            "take_1.png",
        ]
        card = model_card("tiny", "A thing.", run.config, {"loss": 0.5}, "takes")
        assert "| loss | 0.5 |" in card
        assert "max_steps: 9" in card
