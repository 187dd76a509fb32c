"""
The inner loop of generation as functions of tensors alone, so that they can be compiled or captured whole.

Everything else that a step needs (checks, views of the cache) happens outside, in Python, once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from rtjazz_hf.runtime.packed_linear import linear

from .layers import PastStates

if TYPE_CHECKING:
    from .modeling_realtime_jazz_flow import RealTimeJazzFlowTransformer

# A graph holds on to the buffers of the cache it was captured with.
MAX_GRAPHS = 8


def denoise_step(
    model: RealTimeJazzFlowTransformer,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    lead_sheet: torch.Tensor | None,
    modulation: torch.Tensor,
    head: torch.Tensor,
    style_keys: torch.Tensor,
    style_values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor | None,
    keys: list[torch.Tensor] | None,
    values: list[torch.Tensor] | None,
    return_sample: bool = True,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """
    Velocity (and logits) of the noisy block `sample`; one step's part of `FlowConditions` and a view's tensors.

    Args:
        sample: With a finished block before it where `modulation` is of two; lead_sheet, cos and sin are of both then.
        modulation: `(layers, 7, rows, blocks, hidden)`. head: `(2, rows, 1, hidden)`.
        keys, values, mask: Of a `CacheView`, written into; `None` without a cache.
    """
    pasts = None if keys is None else [PastStates(*states, mask) for states in zip(keys, values)]
    conditions = (lead_sheet, modulation, head, style_keys, style_values, cos, sin)
    return run_step(model, sample, timestep, *conditions, pasts, return_sample)


def run_step(
    model: RealTimeJazzFlowTransformer,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    lead_sheet: torch.Tensor | None,
    modulation: torch.Tensor,
    head: torch.Tensor,
    style_keys: torch.Tensor,
    style_values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    pasts: list[PastStates] | None,
    return_sample: bool = True,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """`denoise_step` against anything that joins the past of a layer with the block's own keys and values."""
    hidden = linear(model._patches(sample), model.input_proj)
    if lead_sheet is not None:
        hidden = hidden + lead_sheet
    hidden, modulation = in_blocks(hidden, modulation)
    for index, layer in enumerate(model.layers):
        style = (style_keys[index], style_values[index])
        past = None if pasts is None else pasts[index]
        hidden = layer.step(hidden, modulation[index], style, (cos[index], sin[index]), past)
    noisy = hidden[:, -1]  # (rows, tokens, hidden)
    sample = sample[..., -noisy.shape[1] * model.config.patch_size :]
    return model.head.step(noisy, head, sample, timestep, return_sample)


def in_blocks(hidden: torch.Tensor, modulation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (rows, tokens, hidden) and modulation (layers, 7, rows, blocks, hidden) as `FlowLayer.step` wants them."""
    return hidden.reshape(hidden.shape[0], modulation.shape[-2], -1, hidden.shape[2]), modulation.unsqueeze(-2)


def hear_step(
    model: RealTimeJazzFlowTransformer,
    sample: torch.Tensor,
    modulation: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor | None,
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
) -> tuple:
    """Write the keys and values of the clean block `sample` into the view's tensors; returns nothing of use."""
    hidden, modulation = in_blocks(linear(model._patches(sample), model.input_proj), modulation)
    for index, layer in enumerate(model.layers):
        past = PastStates(keys[index], values[index], mask)
        last = index + 1 == len(model.layers)  # nothing hears its output
        hidden = layer.step(hidden, modulation[index], None, (cos[index], sin[index]), past, keys_only=last)
    return ()


class CudaGraphs:
    """
    A function of tensors, captured as a CUDA graph for every set of shapes and of cache buffers.

    Calls of one graph overwrite each other's memory: what is returned is a copy.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.graphs: OrderedDict[tuple, tuple] = OrderedDict()
        self.lock = threading.Lock()  # sessions of several threads share one model

    def __call__(
        self,
        model: RealTimeJazzFlowTransformer,
        *,
        keys: list[torch.Tensor] | None,
        values: list[torch.Tensor] | None,
        **inputs: Any,
    ) -> tuple:
        if torch.is_grad_enabled():
            return self.function(model, keys=keys, values=values, **inputs)
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        others = {name: value for name, value in inputs.items() if name not in tensors}
        # The graph keeps the buffers and the model alive, so their address says which they are.
        key = (
            id(model),  # models with adapters share most weights
            model.input_proj.weight.data_ptr(),
            None if keys is None else (keys[0].data_ptr(), keys[0].shape),
            *((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()),
            *others.items(),
        )
        with self.lock:
            if key not in self.graphs:
                while len(self.graphs) >= MAX_GRAPHS:
                    self.graphs.popitem(last=False)
                self.graphs[key] = self._capture(model, keys, values, tensors, others)
            self.graphs.move_to_end(key)
            graph, placed, outputs, *_ = self.graphs[key]
            for name, tensor in tensors.items():
                placed[name].copy_(tensor)
            graph.replay()
            return tuple(None if output is None else output.clone() for output in outputs)

    def _capture(self, model, keys, values, tensors, others) -> tuple:
        placed = {name: tensor.clone() for name, tensor in tensors.items()}
        arguments = {"keys": keys, "values": values, **placed, **others}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries allocate and choose their kernels before the capture
                self.function(model, **arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(model, **arguments)
        return graph, placed, outputs, (keys, values), model

    def __deepcopy__(self, memo: dict) -> CudaGraphs:
        return CudaGraphs(self.function)


def compiled_steps(
    device: torch.device, backend: str, mode: str | None, **kwargs: Any
) -> list[Callable[..., Any]]:
    """`denoise_step` and `hear_step` as `RealTimeJazzFlowTransformer.compile` is asked to make them."""
    graphs = backend == "cudagraphs" or mode == "reduce-overhead"
    if graphs and device.type != "cuda":
        raise ValueError(
            f"backend {backend!r} and mode {mode!r} need CUDA graphs; the model is on {device}. Use "
            "backend='inductor' without this mode, or move the model to a CUDA device first."
        )
    steps = [denoise_step, hear_step]
    if backend not in ("eager", "cudagraphs"):
        options = {"dynamic": False, "backend": backend, "mode": None if graphs else mode} | kwargs
        steps = [torch.compile(step, **options) for step in steps]
    if graphs:
        steps = [CudaGraphs(step) for step in steps]
    return steps


__all__ = ["CudaGraphs", "compiled_steps", "denoise_step", "hear_step", "run_step"]
