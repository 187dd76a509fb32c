"""Rates, memory and cost of a training run, W&B by flag, and evaluation on the way."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from test_training_run import tiny_config, train

from rtjazz_hf.trainers.monitor import TrainingMonitor, batch_sizes
from rtjazz_hf.trainers.run import TrainingRun

pytest.importorskip("tensorboard")


class Clocks:
    """Wall and cores' time, set by hand."""

    def __init__(self):
        self.wall = self.cores = 0.0

    def monitor(self, **values) -> TrainingMonitor:
        return TrainingMonitor(clock=lambda: self.wall, cpu_clock=lambda: self.cores, **values)

    def work(self, seconds: float, cores: float = 1.0) -> None:
        self.wall += seconds
        self.cores += seconds * cores


class TestMonitor:
    def test_rates_are_of_all_processes_and_of_the_window(self):
        clocks = Clocks()
        monitor = clocks.monitor(processes=2)
        clocks.work(100.0)  # reading data before the first step is nothing to a rate
        monitor.begin(10, batch_sizes(batch_size=4, crop_frames=150, patch_size=3))
        clocks.work(5.0)
        figures = monitor.window(20)
        assert figures["steps_per_second"] == pytest.approx(2.0)
        assert figures["samples_per_second"] == pytest.approx(2 * 4 * 2)
        assert figures["audio_seconds_per_second"] == pytest.approx(2 * 8 * 2)
        assert figures["tokens_per_second"] == pytest.approx(2 * 200 * 2)
        assert figures["memory_gb"] > 0 and "memory_cuda_gb" not in figures
        clocks.work(10.0)
        assert monitor.window(25)["steps_per_second"] == pytest.approx(0.5)

    def test_cost_counts_cores_that_work_and_goes_on_after_a_resume(self):
        clocks = Clocks()
        monitor = clocks.monitor(processes=2)
        monitor.earlier = 1.5
        clocks.work(1800.0, cores=3.0)
        assert monitor.cost == pytest.approx(1.5 + 2 * 1.5)
        assert "4.5 core-hours" in monitor.summary()

    def test_what_is_left_follows_the_pace(self):
        clocks = Clocks()
        monitor = clocks.monitor()
        monitor.begin(0, {})
        assert monitor.left(0, 100) is None
        clocks.work(3600.0, cores=2.0)
        assert monitor.left(25, 100) == pytest.approx(6.0)
        assert monitor.left(25, 100, minutes_left=30.0) == pytest.approx(1.0)
        assert monitor.left(100, 100) == 0.0

    def test_a_real_process_has_worked(self):
        monitor = TrainingMonitor()
        torch.randn(400, 400).matmul(torch.randn(400, 400))
        assert monitor.cost >= 0
        assert monitor.window(1)["memory_gb"] > 0.05


class TestRun:
    def test_a_run_tells_what_it_cost(self, tmp_path, capsys):
        run, _ = train(tiny_config(tmp_path, log_every=3))
        rows = [json.loads(line) for line in (tmp_path / "machine.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [3, 6, 9]
        assert all(row["steps_per_second"] > 0 and row["memory_gb"] > 0 for row in rows)
        assert [row["cost"] for row in rows] == sorted(row["cost"] for row in rows)
        assert rows[-1]["cost_left"] == 0.0
        assert "core-hours" in capsys.readouterr().out
        logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
        assert {"loss", "grad_norm", "learning_rate"} <= set(
            logged
        )  # and nothing that another machine would change
        assert not [name for name in logged if "per_second" in name or "memory" in name]
        state = json.loads((tmp_path / "checkpoints" / "step-00000009" / "state.json").read_text())
        assert 0 < state["cost"] <= run.monitor.cost

    def test_the_cost_of_earlier_parts_is_kept(self, tmp_path):
        train(tiny_config(tmp_path, max_steps=3))
        path = tmp_path / "checkpoints" / "step-00000003" / "state.json"
        state = json.loads(path.read_text())
        path.write_text(json.dumps({**state, "cost": 7.0}))
        run, _ = train(tiny_config(tmp_path))
        assert run.monitor.cost > 7.0

    @pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
    def test_wandb_that_is_missing_is_named(self, tmp_path):
        with pytest.raises(
            ImportError, match=r"wandb is not installed; run: pip install 'rtjazz-hf\[wandb\]'"
        ):
            TrainingRun(tiny_config(tmp_path, wandb=True))

    def test_wandb_offline_beside_tensorboard(self, tmp_path, monkeypatch):
        pytest.importorskip("wandb")
        monkeypatch.delenv("WANDB_MODE", raising=False)
        train(tiny_config(tmp_path, wandb=True))
        assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
        assert list((tmp_path / "logs").rglob("events.*"))
