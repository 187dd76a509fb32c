"""What a run writes down as it goes: means of windows, samples and pictures, rates and cost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..audio import plot_spectrogram, write_audio
from ..runtime.files import told_why, whole_or_not_at_all
from .monitor import TrainingMonitor

if TYPE_CHECKING:
    from accelerate import Accelerator


class RunLog:
    """log.jsonl, machine.jsonl, samples and TensorBoard of a run.

    Attributes: `metrics` (the last values written), `pending` (sums and counts of the window in hand).
    """

    def __init__(self, accelerator: Accelerator, output_dir: Path, monitor: TrainingMonitor) -> None:
        self.accelerator, self.output_dir, self.monitor = accelerator, output_dir, monitor
        self.metrics: dict[str, float] = {}
        self.pending: dict[str, list[Any]] = {}

    def add(self, **values: torch.Tensor | float) -> None:
        """Add values to this window's means over all processes, written every log_every steps to TensorBoard and
        log.jsonl."""
        for name, value in values.items():
            value = value.detach().float().mean() if isinstance(value, torch.Tensor) else float(value)
            total = self.pending.setdefault(name, [0.0, 0])
            total[0] = total[0] + value  # stays on the device: no synchronisation until the window ends
            total[1] += 1

    def write_now(self, step: int, **values: float) -> None:
        """Write values of a step at once."""
        values = {name: float(value) for name, value in values.items()}
        self.metrics.update(values)
        self._write(step, values)

    def save_sample(self, step: int, name: str, audio: Any, lead_sheet: Any = None) -> None:
        """Keep a sound of `(2, samples)` at 48 kHz and its picture, in output_dir/samples and TensorBoard."""
        if not self.accelerator.is_main_process:
            return
        from matplotlib.image import imread

        audio = audio.detach().float().cpu().numpy() if isinstance(audio, torch.Tensor) else np.asarray(audio)
        folder = self.output_dir / "samples" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^\w-]+", "_", name)
        write_audio(folder / f"{stem}.flac", audio, overwrite=True)
        picture = plot_spectrogram(audio, folder / f"{stem}.png", lead_sheet, f"{name}, step {step}")
        writer = self.accelerator.get_tracker("tensorboard").writer
        mid = torch.from_numpy(audio).mean(0, keepdim=True).clamp(-1, 1)
        writer.add_audio(name, mid, step, sample_rate=48_000)
        self.show_picture(step, name, imread(picture)[..., :3])

    def show_picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture in TensorBoard: `(height, width)` or `(height, width, 3)`, values in [0, 1]."""
        if self.accelerator.is_main_process:
            layout = "HWC" if picture.ndim == 3 else "HW"
            writer = self.accelerator.get_tracker("tensorboard").writer
            writer.add_image(name, picture, step, dataformats=layout)

    def of_all_processes(self) -> dict[str, list[Any]]:
        """This window's sums and counts, added up over all processes; the same on each of them."""
        from accelerate.utils import gather_object

        mine = {name: [float(total), count] for name, (total, count) in self.pending.items()}
        if self.accelerator.num_processes == 1:
            return mine
        added: dict[str, list[Any]] = {}
        for part in gather_object([mine]):
            for name, (total, count) in part.items():
                before = added.get(name, [0.0, 0])
                added[name] = [before[0] + total, before[1] + count]
        return added

    def end_window(self, step: int, last_step: int, minutes_left: float | None) -> dict[str, str]:
        """Write the means since the last time, and what the run costs; what a progress bar shows of them."""
        means = {name: total / count for name, (total, count) in self.of_all_processes().items()}
        self.pending.clear()
        self.metrics.update(means)
        self._write(step, means)
        cost = self._write_machine(step, last_step, minutes_left)
        return {**{k: f"{v:.4g}" for k, v in list(means.items())[:6]}, "cost": cost}

    def _track(self, step: int, values: dict[str, float]) -> None:
        with told_why(self.output_dir, self.output_dir):  # TensorBoard names no file
            self.accelerator.log(values, step=step)

    def _write(self, step: int, values: dict[str, float]) -> None:
        self._track(step, values)
        if self.accelerator.is_main_process:
            path = self.output_dir / "log.jsonl"
            with told_why(path, path), path.open("a") as log:
                log.write(json.dumps({"step": step, **values}) + "\n")

    def _write_machine(self, step: int, last_step: int, minutes_left: float | None) -> str:
        """Rates, memory and cost, in a file of their own: what log.jsonl holds is the same in every repetition."""
        figures = {**self.monitor.window(step), "cost": self.monitor.cost}
        left = self.monitor.left(step, last_step, minutes_left)
        if left is not None:
            figures["cost_left"] = left
        self._track(step, {f"machine/{name}": value for name, value in figures.items()})
        if self.accelerator.is_main_process:
            path = self.output_dir / "machine.jsonl"
            with told_why(path, path), path.open("a") as log:
                log.write(json.dumps({"step": step, **figures}) + "\n")
        return f"{figures['cost']:.2g}+{figures.get('cost_left', 0.0):.2g} {self.monitor.unit}"

    def trim(self, step: int) -> None:
        """Forget what was logged after a checkpoint of this step: those steps are run again."""
        path = self.output_dir / "log.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            with whole_or_not_at_all(path) as partial:
                partial.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step))
