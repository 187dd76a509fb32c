"""How fast: pipelines, codec and peers on the same machine in the same minutes, and where a block's time goes."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "BenchmarkSettings": "settings",
    "benchmark_codec": "codec",
    "describe_hardware": "hardware",
    "encodec_48khz_config": "codec",
    "run_benchmark": "run",
    "run_profile": "run",
    "run_training_benchmark": "run",
    "TrainingSettings": "recipes",
}

__all__ = [
    "BenchmarkSettings",
    "TrainingSettings",
    "benchmark_codec",
    "describe_hardware",
    "encodec_48khz_config",
    "run_benchmark",
    "run_profile",
    "run_training_benchmark",
]


def __getattr__(name: str) -> Any:
    # On first use: the settings are read by `rtjazz benchmark --help`, which does without torch.
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
