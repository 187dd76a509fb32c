"""Which machine a figure is of."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil
import torch


def describe_hardware(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Names and sizes of CPU, memory and GPU, versions, torch's threads, and the load average.

    A load average of more than a little before a benchmark means that others use the machine: ratios between
    what ran interleaved hold, seconds do not.
    """
    import diffusers
    import transformers

    device = torch.device(device)
    gpu = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        gpu = {
            "name": properties.name,
            "memory_gb": properties.total_memory / 1e9,
            "cuda": torch.version.cuda,
        }
    elif device.type == "mps":
        gpu = {"name": "Apple GPU", "memory_gb": None, "cuda": None}
    return {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "gpu": gpu,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "load_average": load_average(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "diffusers": diffusers.__version__,
    }


def load_average() -> float | None:
    """Processes that wanted to run in the last minute, where the system counts them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def cpu_name() -> str:
    """The processor's name as its maker sells it, or what Python knows of it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        if answer:
            return answer
    return platform.processor() or platform.machine()


def hardware_line(hardware: dict[str, Any]) -> str:
    """One line for people."""
    parts = [
        hardware["cpu"],
        f"{hardware['cores']} cores, {hardware['logical_cores']} logical, {hardware['cpu_capability']}",
        f"{hardware['memory_gb']:.0f} GB",
    ]
    if hardware["gpu"]:
        memory = hardware["gpu"]["memory_gb"]
        parts.append(hardware["gpu"]["name"] + (f", {memory:.0f} GB" if memory else ""))
    parts.append(f"torch {hardware['torch']}, {hardware['threads']} threads")
    if hardware["load_average"] is not None:
        parts.append(f"load average {hardware['load_average']:.1f} before the start")
    return "; ".join(parts)
