"""How the steps of generation are made fast: packed weights, compiled steps, another engine than torch, and two passes
in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rtjazz_hf.runtime.graphs import make_engine, unless_stale
from rtjazz_hf.runtime.offload import follows_offload
from rtjazz_hf.runtime.packed_linear import drop_stale, pack, unpack

from .block_plan import view_of
from .cache import FlowCache
from .called_steps import are_replaced
from .conditions import CalledConditions, FlowConditions
from .embeddings import check_sample
from .engine_steps import EngineSteps
from .head import FlowTransformerOutput
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
        weights (half of it in bfloat16, a quarter in 8 bits), in place of that of `pack_weights`.

        Args:
            engine: `"openvino"` (the extra `fast`), `"onnx"` (ONNX Runtime, the extra `onnx`), `"torch"`, or `"auto"`:
                OpenVINO where it is installed, takes the model (more than a million weights) and no GPU is to be had,
                else torch.
            precision: `"float32"`, or with OpenVINO `"bfloat16"` or `"int8"` (layers multiply in 8 bits, each weight
                row and every 128 inputs with a scale of their own): faster on a CPU that has instructions for it, where
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
        """In what the steps are computed: "float32", "bfloat16", "float16" or "int8"."""
        return str(self.dtype).removeprefix("torch.") if self._engine is None else self._engine.precision

    def _usable_engine(self, cache: FlowCache | None, dtype: torch.dtype) -> EngineSteps | None:
        usable = cache is not None and dtype == torch.float32 and not torch.is_grad_enabled()
        return self._engine if usable and not torch.compiler.is_compiling() else None

    @torch.no_grad()
    @follows_offload
    def append_and_forward(
        self,
        clean: torch.Tensor,
        sample: torch.Tensor,
        cache: FlowCache,
        conditions: FlowConditions | CalledConditions,
        heard: FlowConditions | CalledConditions | None = None,
    ) -> FlowTransformerOutput:
        """
        `append_to_cache(clean, cache, heard)`, then `forward(sample, conditions=conditions, cache=cache)`, the first
        step of the next block, to rounding: in one pass, which reads the weights once, where that can be and pays
        (blocks of one size without guidance, by torch, not compiled, no module that has to be called; graphs of
        OpenVINO take as long for both, since sizes change from pass to pass).

        Args:
            clean: `(batch, channels, frames)`, the block as it was played.
            sample: `(rows, channels, frames)`, the next one.
            cache: Changed in place.
            conditions: Of the next block, prepared with `ahead` frames of `clean`. heard: Of the finished one.

        Raises:
            ValueError: Shapes that do not fit together.
        """
        check_sample(self.config, clean)
        check_sample(self.config, sample)
        if (
            not isinstance(conditions, FlowConditions)
            or clean.shape != sample.shape
            or len(clean) != cache.batch_size
            or self._fixed_shapes
            or self._usable_engine(cache, conditions.head.dtype) is not None
            or "flash" in (self.config._attn_implementation or "")
        ):
            self.append_to_cache(clean, cache, heard)
            return self.forward(sample, conditions=conditions, cache=cache)
        rows, frames = clean.shape[0], clean.shape[-1]
        conditions.check(rows, frames, tuple(position + frames for position in cache.positions))
        dtype = conditions.head.dtype
        given = conditions.of_both(self._heard_rotary(clean, cache, dtype, heard))
        view = view_of(self.config, cache, clean, dtype, False, blocks=2)
        velocity, logits = self._denoise_step(
            self, sample=torch.cat((clean.to(sample.dtype), sample), dim=-1), timestep=conditions.timesteps[0], **given,
            mask=view.mask, keys=view.keys, values=view.values,
        )  # fmt: skip
        cache.advance(view)
        return FlowTransformerOutput(sample=velocity, logits=logits)

    def _heard_rotary(self, clean: torch.Tensor, cache: FlowCache, dtype: torch.dtype, conditions: object):
        """The rotary tables of a finished block: those of its steps, where `conditions` are of them."""
        rows, frames = clean.shape[0], clean.shape[-1]
        if isinstance(conditions, FlowConditions) and conditions.are_of(frames, cache.positions):
            return tuple(table[:, :rows] for table in conditions.rotary)  # with guidance there are more rows
        return self._folded_rotary(frames, cache, rows, dtype)

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
        downs = [layer.adaln_down for layer in self.layers]
        return [(self.input_proj,), *groups, (self.head.proj,), (self.modulation,), tuple(downs)]


__all__ = ["FastStepsMixin"]
