"""Which engine computes the flow's steps on a CPU, and whether it is to be had: known without importing any."""

from __future__ import annotations

import importlib.util

ENGINES = ("auto", "torch", "openvino", "onnx")
PRECISIONS = ("float32", "bfloat16")
_PACKAGES = {"openvino": ("openvino", "fast"), "onnx": ("onnxruntime", "onnx")}  # engine: package, extra


def check_engine(engine: str, precision: str = "float32") -> None:
    """
    Refuse an engine that there is not, that is not installed, or that does not compute in this precision.

    Raises:
        ValueError: An unknown engine or precision, or a pair that does not go together.
        ImportError: The engine is not installed; says how it is.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r}: choose from {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"engine_precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    needed = "openvino" if precision == "bfloat16" and engine == "auto" else engine
    if not is_installed(needed):
        package, extra = _PACKAGES[needed]
        raise ImportError(
            f"engine {needed!r} needs {package}, which is not installed: pip install 'rtjazz-hf[{extra}]', or choose "
            "engine='torch'"
        )
    if precision == "bfloat16" and engine in ("torch", "onnx"):
        other = "load the weights with dtype='bfloat16'" if engine == "torch" else "engine_precision='float32'"
        raise ValueError(f"engine {engine!r} has no precision 'bfloat16': choose engine='openvino', or {other}")


def is_installed(engine: str) -> bool:
    """Whether an engine's package is there; torch is."""
    return engine not in _PACKAGES or importlib.util.find_spec(_PACKAGES[engine][0]) is not None


__all__ = ["ENGINES", "PRECISIONS", "check_engine", "is_installed"]
