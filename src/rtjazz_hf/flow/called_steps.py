"""
The steps of generation with every module called as such, for whoever hangs something on one: forward hooks,
Accelerate's and diffusers' offloading, layers that are compiled or replaced.

The fast steps (`steps.py`) read weights past the modules that hold them and would play on as if nothing were there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from rtjazz_hf.runtime.offload import modules_inside, wants_calls

from .block_plan import view_of
from .embeddings import rotary_tables
from .layers import FlowAttention, FlowLayer, FlowMLP, FlowRMSNorm, PastStates

if TYPE_CHECKING:
    import torch

    from .cache import FlowCache
    from .modeling_realtime_jazz_flow import RealTimeJazzFlowTransformer


def has_to_be_called(model: RealTimeJazzFlowTransformer) -> bool:
    """Whether a module inside `model` does more, or other, than the fast steps would do for it."""
    # the model itself is called in any case
    return wants_calls(modules_inside(model)[1:]) or are_replaced(model.layers)


def are_replaced(layers: Iterable[nn.Module]) -> bool:
    """Whether one of the layers, or a part of it, is of another class than the model was made with."""
    return any(
        type(layer) is not FlowLayer
        or type(layer.mlp) is not FlowMLP
        or type(layer.cross_norm) is not FlowRMSNorm
        or any(type(each) is not FlowAttention for each in (layer.self_attn, layer.cross_attn))
        for layer in layers
    )


def hear_called(model: RealTimeJazzFlowTransformer, clean: torch.Tensor, cache: FlowCache) -> None:
    """Write the keys and values of the clean block `(batch, channels, frames)` into the cache, by calls alone."""
    hidden = model._embed(clean)[:, None]  # (batch, 1 block, tokens, hidden)
    condition = model._clean_condition(clean)
    modulation = model.modulation(condition)
    view = view_of(model.config, cache, clean, hidden.dtype, model._fixed_shapes)
    positions = model._positions(clean.shape[-1], cache, clean.shape[0])
    rotary = rotary_tables(model.config, positions, hidden.dtype)
    for index, layer in enumerate(model.layers):
        past = PastStates(view.keys[index], view.values[index], view.mask)
        hidden = layer(hidden, condition, modulation, None, rotary, past=past)
    cache.advance(view)


__all__ = ["are_replaced", "has_to_be_called", "hear_called"]
