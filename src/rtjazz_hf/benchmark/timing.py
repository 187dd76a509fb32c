"""Clocks, percentiles, threads and peaks of memory: what all measurements share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


def synchronize(device: torch.device | str) -> None:
    """Wait for the work that `device` was given; a CPU has done it already."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(call: Callable[[], Any], device: torch.device | str) -> tuple[float, Any]:
    """Seconds that the call took, work on a GPU included, and what it gave."""
    synchronize(device)
    begun = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - begun, result


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: the 50th, 95th and 99th percentile."""
    p50, p95, p99 = (1000 * float(value) for value in np.percentile(seconds, (50, 95, 99)))
    return {"ms_p50": p50, "ms_p95": p95, "ms_p99": p99}


def block_figures(seconds: Sequence[float], duration: float) -> dict[str, Any]:
    """Figures of blocks that each play for `duration` seconds and took so many seconds to make.

    "under_runs" are blocks that took longer to make than they play: each is a gap for a listener who has one
    block in hand.
    """
    return {
        "blocks": len(seconds),
        "real_time_factor": float(np.mean(seconds)) / duration,
        **percentiles_ms(seconds),
        "ms_max": 1000 * max(seconds),
        "duration_ms": 1000 * duration,
        "under_runs": sum(value > duration for value in seconds),
    }


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Torch's threads while it runs; `None` leaves them."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory(device: torch.device | str) -> dict[str, float]:
    """Most that this process has held so far, in MB: "host" (libraries included), and "gpu" on CUDA."""
    peaks = {"host": _peak_host_bytes() / 1e6}
    if torch.device(device).type == "cuda":
        peaks["gpu"] = torch.cuda.max_memory_allocated(device) / 1e6
    return peaks


def _peak_host_bytes() -> float:
    # `ru_maxrss` of a Linux process starts at the size of the one that started it; VmHWM is its own.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024.0 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else 1024.0 * peak
