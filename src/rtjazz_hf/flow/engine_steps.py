"""
The steps of generation by another engine than torch: one graph for a noisy block and for a finished one.

A finished block is heard by the same graph with a style and a lead sheet of zeros, which add nothing: so the weights
are held once, beside those that torch keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from rtjazz_hf.runtime.graphs import ModuleEngine, NotForEngine

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
        engine: `"openvino"` or `"onnx"`. precision: `"float32"` or `"bfloat16"`.

    Raises:
        NotForEngine: The model, or what the engine makes of it, is not as it should be.
    """

    def __init__(self, model: RealTimeJazzFlowTransformer, engine: str, precision: str = "float32"):
        check_model(model)
        self._style_heads, self._style_tokens = model.config.num_style_heads, model.config.num_style_tokens
        training = model.training
        try:
            super().__init__(model, StepGraph(model).eval(), engine, _example(model), _DYNAMIC, precision)
        finally:
            model.train(training)

    def velocity(
        self, sample: torch.Tensor, conditions: FlowConditions, step: int, view: CacheView
    ) -> torch.Tensor:
        """Velocity of the noisy block `sample` at one step of its conditions."""
        inputs = {
            "sample": sample.float(),
            "lead_sheet": conditions.lead_sheet,
            "modulation": conditions.modulation[:, :, step],
            "head": conditions.head[:, step],
            "style_keys": conditions.style_keys,
            "style_values": conditions.style_values,
            **self._heard(conditions.rotary, view),
        }
        with self.run(inputs) as (velocity, *_):
            return torch.from_numpy(velocity).to(sample.dtype, copy=True)

    def hear(
        self,
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
            **self._heard(rotary, view),
        }
        with self.run(inputs) as (_, keys, values):
            for targets, own in ((view.keys, keys), (view.values, values)):
                for target, layer in zip(targets, torch.from_numpy(own).unbind(0)):
                    target[:, :, view.start :] = layer

    def _heard(self, rotary: tuple[torch.Tensor, torch.Tensor], view: CacheView) -> dict[str, torch.Tensor]:
        past_keys, past_values, mask = view.past()
        return {"cos": rotary[0], "sin": rotary[1], "mask": mask, "past_keys": past_keys, "past_values": past_values}


def _example(model: RealTimeJazzFlowTransformer) -> dict[str, torch.Tensor]:
    """Inputs of `StepGraph` for a block of two rows whose window is not full yet."""
    config = model.config
    layers, heads, width, dim = (
        config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.head_dim
    )  # fmt: skip
    rows, tokens, slots = 2, 5, 7
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
