"""What a training run costs the machine: rates, memory, and core- or GPU-hours so far and left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import psutil
import torch

from ..audio import FRAME_RATE


def batch_sizes(batch_size: int, crop_frames: int, patch_size: int = 1) -> dict[str, float]:
    """What one micro-batch of one process holds: `samples` (crops), `audio_seconds`, and `tokens` (of `patch_size`
    frames each; those that are learnt from, not their context)."""
    frames = batch_size * crop_frames
    return {"samples": batch_size, "audio_seconds": frames / FRAME_RATE, "tokens": frames / patch_size}


class TrainingMonitor:
    """Stop-watch and scales of one call of a run.

    Rates are of wall time, so a window in which the run was validated or saved shows lower ones. On a CPU the cost is
    in core-hours, time that cores have really worked, data workers included; on a GPU in GPU-hours, wall time of
    every device. All processes of a run are taken to do as much as this one.

    Args:
        device: of the run. processes: that share it.
        clock, cpu_clock: seconds of wall and of cores' time; the machine's own by default.

    Attributes:
        earlier: cost of the calls before this one, in hours. peak_gb: most memory that was seen.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] | None = None,
    ) -> None:
        self.device, self.processes = torch.device(device), processes
        self.unit = "GPU-hours" if self.device.type == "cuda" else "core-hours"
        self.earlier = self.peak_gb = 0.0
        self._process = psutil.Process()
        self._clock = clock
        self._work = clock if self.device.type == "cuda" else (cpu_clock or self._core_seconds)
        self._made = self._work()
        self.begin(0, {})

    def begin(self, step: int, sizes: Mapping[str, float]) -> None:
        """Training begins at `step`; `sizes` is what one process learns from in a step, by name."""
        self.sizes = dict(sizes)
        self._first = self._window = (step, self._clock())
        self._first_work = self._work()

    def window(self, step: int) -> dict[str, float]:
        """Figures since the last call, at whose end `step` steps are done: `steps_per_second`, each size
        `..._per_second` of all processes, `memory_gb` (resident, of this process) and, on CUDA, `memory_cuda_gb`
        (most that was allocated so far)."""
        now = self._clock()
        rate = (step - self._window[0]) / max(now - self._window[1], 1e-9)
        self._window = (step, now)
        figures = {"steps_per_second": rate}
        figures |= {
            f"{name}_per_second": rate * size * self.processes for name, size in self.sizes.items() if size
        }
        figures["memory_gb"] = self._process.memory_info().rss / 1e9
        self.peak_gb = max(self.peak_gb, figures["memory_gb"])
        if self.device.type == "cuda":
            figures["memory_cuda_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
            self.peak_gb = figures["memory_cuda_gb"]
        return figures

    @property
    def cost(self) -> float:
        """Core- or GPU-hours so far, those of earlier calls included."""
        return self.earlier + (self._work() - self._made) * self.processes / 3600

    def left(self, step: int, max_steps: int, minutes_left: float | None = None) -> float | None:
        """Hours of the same kind until `max_steps`, or until the minutes are over; None before anything is known."""
        done, seconds = step - self._first[0], self._clock() - self._first[1]
        if done <= 0 or seconds <= 0:
            return None
        wall = seconds / done * max(0, max_steps - step)
        if minutes_left is not None:
            wall = min(wall, 60 * max(0.0, minutes_left))
        return wall * (self._work() - self._first_work) / seconds * self.processes / 3600

    def summary(self) -> str:
        """The line that a run ends with."""
        what = "GPU memory" if self.device.type == "cuda" else "memory"
        peak = f"; {what} up to {self.peak_gb:.1f} GB a process" if self.peak_gb else ""
        return f"cost: {self.cost:.3g} {self.unit}{peak}"

    def _core_seconds(self) -> float:
        """Time of cores that this process and its children have used, those that have ended included."""
        own = self._process.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in self._process.children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.Error:  # it ended meanwhile
                continue
            total += times.user + times.system
        return total


__all__ = ["TrainingMonitor", "batch_sizes"]
