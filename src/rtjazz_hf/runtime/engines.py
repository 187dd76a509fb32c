"""Which engine computes the flow's steps on a CPU, and whether it is to be had: known without importing any."""

from __future__ import annotations

import importlib.util

ENGINES = ("auto", "torch", "openvino", "onnx")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")
_PACKAGES = {"openvino": ("openvino", "fast"), "onnx": ("onnxruntime", "onnx")}  # engine: package, extra


def check_engine(engine: str, precision: str = "auto") -> None:
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
    rounds = precision in ("bfloat16", "int8")
    needed = "openvino" if rounds and engine == "auto" else engine
    if not is_installed(needed):
        package, extra = _PACKAGES[needed]
        raise ImportError(
            f"engine {needed!r} needs {package}, which is not installed: pip install 'rtjazz-hf[{extra}]', or choose "
            "engine='torch'"
        )
    if rounds and engine in ("torch", "onnx"):
        by_torch = {"bfloat16": "load the weights with dtype='bfloat16'", "int8": "hold them so: pipe.quantize('int8')"}
        other = by_torch[precision] if engine == "torch" else "engine_precision='float32'"
        raise ValueError(f"engine {engine!r} has no precision {precision!r}: choose engine='openvino', or {other}")


def is_installed(engine: str) -> bool:
    """Whether an engine's package is there; torch is."""
    return engine not in _PACKAGES or importlib.util.find_spec(_PACKAGES[engine][0]) is not None


class EngineMixin:
    """Of a pipeline: the engine of its `transformer` and its `codec`."""

    def use_engine(self, engine: str = "auto", precision: str = "auto") -> str:
        """Choose what computes the flow's steps and the decoder's network from the next block on; see
        `RealTimeJazzFlowTransformer.use_engine`.

        OpenVINO (`pip install 'rtjazz-hf[fast]'`) takes less time than torch. Where the CPU has instructions for it,
        it multiplies the flow's weights in 8 bits (VNNI) or in bfloat16, and the decoder's in bfloat16, which takes
        less still and changes the latents by about 1%; `precision` says otherwise. A decoder is never in 8 bits,
        and "auto" leaves one in float32 to torch, which takes no longer for it. A mix of adapters is played by torch.

        Returns:
            "openvino", "onnx" or "torch": what computes them.

        Raises:
            ValueError: an unknown engine or precision. ImportError: the engine is not installed.
        """
        chosen = self.transformer.use_engine(engine, precision)
        if engine == "auto" and self.transformer.engine_precision == "float32":
            precision = "float32"
        self.codec.use_engine(engine, precision)
        return chosen

    @property
    def engine(self) -> str:
        """What computes the flow's steps: "torch", "openvino" or "onnx"."""
        return self.transformer.engine


__all__ = ["ENGINES", "PRECISIONS", "EngineMixin", "check_engine", "is_installed"]
