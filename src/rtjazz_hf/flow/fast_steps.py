"""How the steps of generation are made fast: packed weights, compiled steps, or another engine than torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rtjazz_hf.runtime.graphs import make_engine, unless_stale
from rtjazz_hf.runtime.packed_linear import drop_stale, pack, unpack

from .cache import FlowCache
from .called_steps import are_replaced
from .engine_steps import EngineSteps
from .steps import compiled_steps, denoise_step, hear_step


class FastStepsMixin:
    """For `RealTimeJazzFlowTransformer`: what its steps are computed by."""

    def _set_plain_steps(self) -> None:
        self._denoise_step, self._hear_step = denoise_step, hear_step  # `compile` puts others in their place
        self._fixed_shapes = False
        self._engine: EngineSteps | None = None  # `use_engine` makes it

    def compile(self, *, backend: str = "inductor", mode: str | None = None, **kwargs: Any) -> None:
        """
        Compile the steps of generation: `forward` with `conditions`, and `append_to_cache`.

        Takes what `torch.compile` takes. Shapes stay the same while the cache fills, so the compiler runs for
        the first block, when the window is full, and whenever block size, rows or window change. Packed
        weights are for steps that are not compiled. Training is compiled with `torch.compile(transformer)`.

        Args:
            backend: `"inductor"`; `"cudagraphs"` replays the steps as they are as CUDA graphs; `"eager"` undoes it.
            mode: As for `torch.compile`; `"reduce-overhead"` replays the compiled steps as CUDA graphs.

        Raises:
            ValueError: CUDA graphs were asked for on another device.
        """
        self._denoise_step, self._hear_step = compiled_steps(self.device, backend, mode, **kwargs)
        self._fixed_shapes = backend != "eager"
        self._engine = None

    def use_engine(self, engine: str = "auto", precision: str = "auto") -> str:
        """
        Choose what computes the steps of generation (`forward` with `conditions` and a cache, `append_to_cache`).

        Another engine than torch gets a graph of the model as it is now. When weights change, or hooks come, the
        model goes on with torch and warns; call this again for a new graph. It takes the memory of the layers'
        weights (half of it in bfloat16), in place of that of `pack_weights`.

        Args:
            engine: `"openvino"` (the extra `fast`), `"onnx"` (ONNX Runtime, the extra `onnx`), `"torch"`, or `"auto"`:
                OpenVINO where it is installed, takes the model (more than a million weights) and no GPU is to be had,
                else torch.
            precision: `"float32"`, or with OpenVINO `"bfloat16"`: faster on a CPU that has instructions for it, where
                `"auto"` chooses it.

        Returns:
            What computes the steps from now on, as `engine`. A model that the engine does not take (weights in 16, 8
            or 4 bits, on a GPU, with hooks or an adapter in training, of codebooks) is played by torch, with a
            warning that says why.

        Raises:
            ValueError: An unknown engine or precision.
            ImportError: The engine was asked for by its name and is not installed.
        """
        self._engine, made = None, make_engine(EngineSteps, self, engine, precision)
        if made is not None:
            self.compile(backend="eager")
            for layers in self._step_linears():
                unpack(*layers)
            self._engine = made
        else:
            self.pack_weights()
        return self.engine

    @property
    def engine(self) -> str:
        """What computes the steps: `"torch"`, or what `use_engine` chose."""
        return "torch" if self._engine is None else self._engine.engine

    @property
    def engine_precision(self) -> str:
        """In what the steps are computed: "float32", "bfloat16" or "float16"."""
        return str(self.dtype).removeprefix("torch.") if self._engine is None else self._engine.precision

    def _usable_engine(self, cache: FlowCache | None, dtype: torch.dtype) -> EngineSteps | None:
        usable = cache is not None and dtype == torch.float32 and not torch.is_grad_enabled()
        return self._engine if usable and not torch.compiler.is_compiling() else None

    def pack_weights(self) -> None:
        """
        Copy the weights of a step into the layout that a CPU multiplies fastest; `forward` with `conditions`
        and `append_to_cache` use the copies while gradients are off.

        Takes as much memory as the layers' weights; with another engine, which has a copy, it does nothing. Weights
        that have changed are seen and not used; call it
        again to pack them anew. The one change it cannot see by itself is an edit through `weight.data`: call it
        after that too. Does nothing on other devices, for compiled steps, and where torch has no such layout.
        """
        self._engine = unless_stale(self._engine, self, exact=True)
        if self._fixed_shapes or self._engine is not None:
            return
        for layers in self._step_linears():
            pack(*layers)

    def _drop_stale_weights(self, stamp: list | None = None) -> None:
        self._engine = unless_stale(self._engine, self, stamp)
        if self._engine is not None:
            return
        for layers in self._step_linears():
            drop_stale(*layers)

    def _step_linears(self) -> list[tuple[nn.Module, ...]]:
        if are_replaced(self.layers):
            return []
        groups = [group for layer in self.layers for group in layer.linears()]
        styles = [
            each for layer in self.layers for each in (layer.cross_attn.k_proj, layer.cross_attn.v_proj)
        ]
        downs = [layer.adaln_down for layer in self.layers]
        return [(self.input_proj,), *groups, (self.head.proj,), (self.modulation,), tuple(styles), tuple(downs)]


__all__ = ["FastStepsMixin"]
