"""
The steps of generation by another engine than torch: one graph for a noisy block and for a finished one.

A finished block is heard by the same graph with a style and a lead sheet of zeros, which add nothing: so the weights
are held once, beside those that torch keeps. OpenVINO takes a third less time where all sizes are fixed: so it gets a
graph of one row, one block and a full window, in which shorter ones are padded, and another graph only once there is
something larger.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from rtjazz_hf.runtime.graphs import ModuleEngine, NotForEngine
from rtjazz_hf.runtime.precision import int8_is_fast

from .steps import run_step

if TYPE_CHECKING:
    from .cache import CacheView
    from .conditions import FlowConditions
    from .modeling_realtime_jazz_flow import RealTimeJazzFlowTransformer

# Axes that change from call to call: rows of a batch, tokens of a block, slots of the past.
_DYNAMIC = {
    "sample": (0, 2), "lead_sheet": (0, 1), "modulation": (2,), "head": (1,), "style_keys": (1,),
    "style_values": (1,), "cos": (1, 2), "sin": (1, 2), "mask": (0, 3), "past_keys": (1, 3), "past_values": (1, 3),
}  # fmt: skip

_WHOLE = ("input_proj", "head")  # the first and the last layer: little work, and most of what 8 bits lose


class _GraphPast:
    """As `PastStates`, without writing into anything."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor):
        self.key, self.value, self.mask = key, value, mask

    def join(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.own = (key, value)
        return torch.cat((self.key, key), dim=2), torch.cat((self.value, value), dim=2)


class StepGraph(nn.Module):
    """A pass of the transformer over one block, tensors in and out."""

    def __init__(self, model: RealTimeJazzFlowTransformer):
        super().__init__()
        self.model = model

    def forward(
        self, sample, lead_sheet, modulation, head, style_keys, style_values, cos, sin, mask, past_keys, past_values
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
        """
        As of `denoise_step`; past_keys, past_values `(layers, rows, heads, slots, head_dim)`, mask
        `(rows or 1, 1, 1, slots + tokens)` bool -> velocity, the block's keys and values `(layers, rows, heads,
        tokens, head_dim)`
        """
        pasts = [_GraphPast(*states, mask) for states in zip(past_keys.unbind(0), past_values.unbind(0))]
        conditions = (lead_sheet, modulation, head, style_keys, style_values, cos, sin)
        velocity, _ = run_step(self.model, sample, sample, *conditions, pasts)
        return (velocity, *(torch.stack(own) for own in zip(*(past.own for past in pasts))))


def check_model(model: RealTimeJazzFlowTransformer) -> None:
    """
    Refuse a model that is more, or other, than the network that a graph is made of.

    Raises:
        NotForEngine: Says what it is.
    """
    config = model.config
    if config.prediction_type != "velocity":
        raise NotForEngine(f"prediction_type is {config.prediction_type!r}; engines take 'velocity'")
    if not config.lead_sheet_dim:
        raise NotForEngine("lead_sheet_dim is 0; engines take models with a lead sheet")
    if config._attn_implementation not in ("sdpa", "eager"):
        raise NotForEngine(f"attn_implementation is {config._attn_implementation!r}; engines take 'sdpa' and 'eager'")
    for layer in (layer for group in model._step_linears() for layer in group):
        if type(layer) is not nn.Linear:
            raise NotForEngine(
                f"a layer is {type(layer).__name__}, not Linear (an adapter in training, or weights in 8 or 4 bits)"
            )


class EngineSteps(ModuleEngine):
    """
    The steps of generation of one model, by an engine.

    Args:
        engine: `"openvino"` or `"onnx"`. precision: `"float32"`, `"bfloat16"` or `"int8"`.

    Raises:
        NotForEngine: The model, or what the engine makes of it, is not as it should be.
    """

    def __init__(self, model: RealTimeJazzFlowTransformer, engine: str, precision: str = "float32"):
        check_model(model)
        config = model.config
        self._style_heads, self._style_tokens, self._patch = (
            config.num_style_heads, config.num_style_tokens, config.patch_size
        )  # fmt: skip
        # Tokens of a block and slots of the past, where sizes are fixed.
        self._sizes = (config.block_frames // self._patch, max(1, config.window_frames // self._patch))
        self._any_sizes: Any = None  # a graph
        self._lock = threading.Lock()
        if engine != "openvino":
            self._sizes = (0, 0)
        example = _example(model, 1, *self._sizes) if all(self._sizes) else _example(model)
        with _evaluating(model) as graph:
            sizes = {} if all(self._sizes) else _DYNAMIC
            super().__init__(model, graph, engine, example, sizes, precision, whole=_WHOLE)

    @classmethod
    def quick_precisions(cls) -> list[str]:
        """As of `ModuleEngine`, and 8 bits."""
        return [*["int8"] * int8_is_fast(), *super().quick_precisions()]

    def velocity(
        self,
        model: RealTimeJazzFlowTransformer,
        sample: torch.Tensor,
        conditions: FlowConditions,
        step: int,
        view: CacheView,
    ) -> torch.Tensor:
        """Velocity of the noisy block `sample` at one step of its conditions."""
        inputs = {
            "sample": sample.float(),
            "lead_sheet": conditions.lead_sheet,
            "modulation": conditions.modulation[:, :, step],
            "head": conditions.head[:, step],
            "style_keys": conditions.style_keys,
            "style_values": conditions.style_values,
        }
        (velocity,) = self._pass(model, inputs, conditions.rotary, view, slice(0, 1))
        return velocity.to(sample.dtype)

    def hear(
        self,
        model: RealTimeJazzFlowTransformer,
        clean: torch.Tensor,
        modulation: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        view: CacheView,
    ) -> None:
        """Write the keys and values of the finished block `clean` into the view's tensors."""
        rows, width = clean.shape[0], modulation.shape[-1]
        silent = clean.new_zeros(len(view.keys), rows, self._style_heads, self._style_tokens, view.keys[0].shape[-1])
        inputs = {
            "sample": clean.float(),
            "lead_sheet": clean.new_zeros(1, view.tokens, width),
            "modulation": modulation,
            "head": clean.new_zeros(2, 1, 1, width),  # nothing hears its output
            "style_keys": silent,
            "style_values": silent,
        }
        for targets, own in zip((view.keys, view.values), self._pass(model, inputs, rotary, view, slice(1, 3))):
            for target, layer in zip(targets, own.unbind(0)):
                target[:, :, view.start :] = layer

    def _pass(
        self,
        model: RealTimeJazzFlowTransformer,
        inputs: dict[str, torch.Tensor],
        rotary: tuple[torch.Tensor, torch.Tensor],
        view: CacheView,
        wanted: slice,
    ) -> list[torch.Tensor]:
        """What `StepGraph` gives, as far as it is wanted: velocity, keys, values."""
        tokens, slots = self._sizes
        rows = inputs["sample"].shape[0]
        # Guidance has two rows, and then the graph that is there for one does not take longer for each.
        fits = rows <= 2 and view.tokens <= tokens and view.start <= slots
        past_keys, past_values, mask = view.past(slots if fits else 1)
        inputs |= {"cos": rotary[0], "sin": rotary[1], "mask": mask, "past_keys": past_keys, "past_values": past_values}
        if not fits:
            with self.run(inputs, self._graph_of_any_sizes(model)) as results:
                return [torch.from_numpy(result).clone() for result in results[wanted]]
        played = []
        for row in range(rows):
            with self.run(_padded(_of_row(inputs, row), tokens, self._patch)) as results:
                velocity, keys, values = map(torch.from_numpy, results)
                own = velocity[..., : view.frames], keys[:, :, :, : view.tokens], values[:, :, :, : view.tokens]
                played.append([each.clone() for each in own[wanted]])
        axes = (0, 1, 1)[wanted]  # of the rows
        return [torch.cat(parts, dim=axis) for axis, parts in zip(axes, zip(*played))]

    def _graph_of_any_sizes(self, model: RealTimeJazzFlowTransformer) -> Any:
        if not all(self._sizes):
            return self._graph
        with self._lock:
            if self._any_sizes is None:
                with _evaluating(model) as graph:
                    self._any_sizes = self.make_graph(graph, _example(model), _DYNAMIC)
        return self._any_sizes


@contextmanager
def _evaluating(model: RealTimeJazzFlowTransformer) -> Iterator[StepGraph]:
    """The graph of a model as it plays; the model is left as it was."""
    training = model.training
    try:
        yield StepGraph(model).eval()
    finally:
        model.train(training)


# Axis of each input that counts the rows, and the one that counts the block's own tokens (frames in the sample).
_ROW_AXIS = {
    "sample": 0, "lead_sheet": 0, "modulation": 2, "head": 1, "style_keys": 1, "style_values": 1, "cos": 1, "sin": 1,
    "mask": 0, "past_keys": 1, "past_values": 1,
}  # fmt: skip
_TOKEN_AXIS = {"sample": 2, "lead_sheet": 1, "cos": 2, "sin": 2, "mask": 3}


def _of_row(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One row of inputs whose rows may all share one."""
    return {
        name: tensor if tensor.shape[axis] == 1 else tensor.narrow(axis, row, 1)
        for (name, axis) in _ROW_AXIS.items()
        for tensor in (inputs[name],)
    }


def _padded(inputs: dict[str, torch.Tensor], tokens: int, patch: int) -> dict[str, torch.Tensor]:
    """Inputs of so many tokens, of which nobody attends to those that are added."""
    missing = tokens - inputs["cos"].shape[2]
    if not missing:
        return inputs
    padded = dict(inputs)
    for name, axis in _TOKEN_AXIS.items():
        count = missing * patch if name == "sample" else missing
        padded[name] = F.pad(inputs[name], (0, 0) * (inputs[name].ndim - 1 - axis) + (0, count))
    return padded


def _example(
    model: RealTimeJazzFlowTransformer, rows: int = 2, tokens: int = 5, slots: int = 7
) -> dict[str, torch.Tensor]:
    """Inputs of `StepGraph` for a block whose window is not full yet."""
    config = model.config
    layers, heads, width, dim = (
        config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.head_dim
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(shape, generator=draw)

    mask = torch.ones(1, 1, 1, slots + tokens, dtype=torch.bool)
    mask[..., 2:slots] = False
    style = (layers, rows, config.num_style_heads, config.num_style_tokens, dim)
    past = (layers, rows, heads, slots, dim)
    modulation = noise(layers, 7, rows, 1, width, scale=0.5)
    modulation[:, 1::4] += 1  # the two scales
    return {
        "sample": noise(rows, config.num_channels, tokens * config.patch_size),
        "lead_sheet": noise(rows, tokens, width),
        "modulation": modulation,
        "head": noise(2, rows, 1, width),
        "style_keys": noise(*style, scale=dim**-0.5),
        "style_values": noise(*style),
        "cos": noise(layers, 1, tokens, 2, 1, dim, scale=dim**-0.25),
        "sin": noise(layers, 1, tokens, 2, 1, dim, scale=dim**-0.25),
        "mask": mask,
        "past_keys": noise(*past),
        "past_values": noise(*past),
    }


__all__ = ["EngineSteps", "StepGraph", "check_model"]
