"""The transformer layer of the flow: attention with QK-norm, SwiGLU, adaLN; as trained, and step by step."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rtjazz_hf.runtime.packed_linear import linear

from .configuration_realtime_jazz_flow import RealTimeJazzFlowTransformerConfig

# From this many tokens on, bfloat16 attention on a CPU is faster as two matrix products than as one flash kernel.
CPU_MATMUL_TOKENS = 24


@dataclass
class BlockAttention:
    """
    How the sequence [clean | noisy] attends: chunk by chunk, each with the keys it can reach and a mask.

    Args:
        sizes: Tokens of each chunk of the clean half, and alike of the noisy half.
        first: Of each chunk, the first clean chunk it can see.
        masks: Of each chunk, `(batch or 1, 1, 2 * size, keys)`, true where attention is allowed.
    """

    sizes: list[int]
    first: list[int]
    masks: list


class PastStates(NamedTuple):
    """
    A layer's part of a `CacheView`: `key` and `value` `(batch, heads, past + own tokens, head_dim)`, whose
    last slots wait for the block's own, and the view's mask.
    """

    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None

    def join(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of past and block; the block's own go into the slots that wait for them."""
        return join_past(self.key, key), join_past(self.value, value)


def rms_norm(hidden: torch.Tensor, eps: float) -> torch.Tensor:
    """Scale the last axis to unit mean square; the mean alone is float32, so bfloat16 stays fast on a CPU."""
    squares = (hidden.float() if hidden.dtype == torch.float16 else hidden).square()
    return hidden * torch.rsqrt(squares.mean(-1, keepdim=True, dtype=torch.float32) + eps).to(hidden.dtype)


def rotate(states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary embedding of `states` (batch, tokens, heads, head_dim)."""
    cos, sin = rotary  # (batch or 1, tokens, 1, head_dim / 2)
    first, second = states.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def join_past(past: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """
    Keys or values of past and block, `(batch, heads, tokens, head_dim)`: `own` goes into the slots that
    `past` has for it at its end.
    """
    tokens = own.shape[2]
    if torch.is_grad_enabled() and own.requires_grad:  # the backward pass would miss what is written over
        return torch.cat((past[:, :, :-tokens], own), dim=2)
    past[:, :, -tokens:] = own
    return past


# -- what the steps of generation do in fewer operations --------------------------------------------------


@lru_cache
def _scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)


def step_norm(hidden: torch.Tensor, eps: float) -> torch.Tensor:
    """`rms_norm` in as few operations as there are for it, without regard to gradients' speed."""
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    # A compiler would watch all of sys.modules, which grows while it does; exporters to ONNX do not know F.rms_norm.
    if not compiled and "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export():
        return rms_norm(hidden, eps)
    if hidden.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.rms_norm(hidden, (int(hidden.shape[-1]),), eps=eps)  # a number, for tracers too
    norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
    squares = torch.addcmul(_scalar(eps), norm, norm, value=1 / hidden.shape[-1])
    return hidden * squares.rsqrt().to(hidden.dtype)


def norm_weights(attentions: list[FlowAttention]) -> torch.Tensor:
    """Of the query's norm, with the attention's scaling, and the key's: `(layers, 1, 1, 2, 1, head_dim)` float32."""
    weights = [
        torch.stack((attention.q_norm.weight.float() * attention.scaling, attention.k_norm.weight.float()))
        for attention in attentions
    ]
    return torch.stack(weights)[:, None, None, :, None]


def fold_rotary(
    cos: torch.Tensor, sin: torch.Tensor, weights: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Rotary tables that hold the weights of the query's and the key's norm, and the attention's scaling.

    Args:
        cos, sin: `(rows, tokens, 1, head_dim / 2)` float32. weights: `norm_weights` of the layers.

    Returns:
        Tables for `rotate_folded`, `(layers, rows, tokens, query and key, 1, head_dim)` in `dtype`.
    """
    cos = torch.cat((cos, cos), dim=-1)[..., None, :]  # (rows, tokens, 1, 1, head_dim)
    sin = torch.cat((-sin, sin), dim=-1)[..., None, :]
    return (cos * weights).to(dtype), (sin * weights.roll(weights.shape[-1] // 2, dims=-1)).to(dtype)


def rotate_folded(states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Norm weights, scaling and rotary embedding of `states` (batch, tokens, query and key, heads, head_dim)."""
    cos, sin = rotary  # (batch or 1, tokens, 2, 1, head_dim), one layer's part of the tables
    return torch.addcmul(states * cos, states.roll(int(states.shape[-1]) // 2, dims=-1), sin)


def style_states(style_tokens: torch.Tensor, attention: FlowAttention) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Keys and values of the style tokens (rows, tokens, hidden) for a layer's `cross_step`.

    Returns:
        Two of `(rows, heads, tokens, head_dim)`; the keys hold the query norm's weight and the scaling.
    """
    states = linear(style_tokens, attention.k_proj, attention.v_proj).unflatten(-1, (2, -1, attention.head_dim))
    keys, values = states.permute(2, 0, 3, 1, 4).unbind(0)  # (rows, heads, tokens, head_dim)
    weight = attention.k_norm.weight * attention.q_norm.weight * attention.scaling  # (head_dim,)
    return step_norm(keys, attention.k_norm.eps) * weight.to(keys.dtype), values


def modulate_layers(condition: torch.Tensor, modulation: torch.Tensor, layers: nn.ModuleList) -> torch.Tensor:
    """`FlowLayer.modulate` of all layers for conditions (rows, hidden): `(layers, 7, rows, 1, hidden)`."""
    lows = linear(condition, *(layer.adaln_down for layer in layers)).chunk(len(layers), dim=-1)
    own = torch.stack([linear(low, layer.adaln_up) for low, layer in zip(lows, layers)])
    result = (modulation + own).unflatten(-1, (7, -1)).permute(0, 2, 1, 3).unsqueeze(3).contiguous()
    result[:, 1::4] += 1  # the two scales
    return result


# -- the layer ---------------------------------------------------------------------------------------------


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention written out, the transformers way: states `(batch, heads, tokens, head_dim)`."""
    scores = query @ key.transpose(2, 3)
    scores = scores if scaling == 1.0 else scores * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def scaled_linear(in_features: int, out_features: int, gain: float, bias: bool = True) -> nn.Linear:
    """A linear layer that starts with deviation `gain / sqrt(in_features)` instead of the config's."""
    linear = nn.Linear(in_features, out_features, bias=bias)
    linear.initializer_std = gain * in_features**-0.5
    return linear


class FlowRMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, self.eps) * self.weight.to(hidden.dtype)


class FlowAttention(nn.Module):
    """Attention with QK-norm: over the sequence (and the cache) with RoPE, or over style tokens without."""

    def __init__(self, config: RealTimeJazzFlowTransformerConfig, num_heads: int):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.num_key_value_groups = 1
        width = num_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.q_norm = FlowRMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = FlowRMSNorm(self.head_dim, config.rms_norm_eps)

    def keys_values(
        self, source: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, tokens, hidden) -> two of (batch, heads, tokens, head_dim)"""
        key = self.k_norm(self.k_proj(source).unflatten(-1, (-1, self.head_dim)))
        value = self.v_proj(source).unflatten(-1, (-1, self.head_dim))
        if rotary is not None:
            key = rotate(key, rotary)
        return key.transpose(1, 2), value.transpose(1, 2)

    def forward(
        self,
        hidden: torch.Tensor,  # (batch, tokens, hidden)
        source: torch.Tensor | None = None,  # (batch, style tokens, hidden)
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        past: PastStates | None = None,
        plan: BlockAttention | None = None,
    ) -> torch.Tensor:
        query = self.q_norm(self.q_proj(hidden).unflatten(-1, (-1, self.head_dim)))
        if rotary is not None:
            query = rotate(query, rotary)
        query = query.transpose(1, 2)  # (batch, heads, tokens, head_dim)
        key, value = self.keys_values(hidden if source is None else source, rotary)
        mask = None
        if past is not None:
            key, value = past.join(key, value)
            mask = past.mask
        if plan is None:
            output = self.attend(query, key, value, mask)
        else:
            output = self.attend_blocks(query, key, value, plan)
        return self.o_proj(output.flatten(2))

    def step(
        self,
        hidden: torch.Tensor,  # (batch, tokens, hidden)
        rotary: tuple[torch.Tensor, torch.Tensor],  # of `fold_rotary`, this layer's
        past: PastStates | None,
        keys_only: bool = False,
    ) -> torch.Tensor | None:
        """`forward` over past and block, to rounding; with `keys_only` it stops when `past` has heard the block."""
        states = linear(hidden, self.q_proj, self.k_proj, self.v_proj)
        states = states.unflatten(-1, (3, -1, self.head_dim))  # (batch, tokens, 3, heads, head_dim)
        rotated = rotate_folded(step_norm(states[:, :, :2], self.q_norm.eps), rotary)
        query, key, value = (
            part.transpose(1, 2) for part in (rotated[:, :, 0], rotated[:, :, 1], states[:, :, 2])
        )
        mask = None
        if past is not None:
            key, value = past.join(key, value)
            mask = past.mask
        return None if keys_only else linear(self.attend_step(query, key, value, mask), self.o_proj)

    def cross_step(self, hidden: torch.Tensor, style: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """`forward` over the style tokens, whose `style_states` are given, to rounding."""
        query = step_norm(linear(hidden, self.q_proj).unflatten(-1, (-1, self.head_dim)), self.q_norm.eps)
        return linear(self.attend_step(query.transpose(1, 2), *style, None), self.o_proj)

    def attend_step(self, query, key, value, mask) -> torch.Tensor:
        """(batch, heads, tokens, head_dim), already scaled -> (batch, tokens, heads * head_dim)"""
        implementation = self.config._attn_implementation
        if implementation == "sdpa":
            slow = query.device.type == "cpu" and query.dtype == torch.bfloat16
            if not slow or query.shape[2] < CPU_MATMUL_TOKENS or torch.compiler.is_compiling():
                output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
                return output.transpose(1, 2).flatten(2)
            implementation = "eager"
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output = attention(self, query, key, value, mask, dropout=0.0, scaling=1.0, is_causal=False)[0]
        return output.flatten(2)

    def attend(self, query, key, value, mask) -> torch.Tensor:
        """(batch, heads, tokens, head_dim) -> (batch, tokens, heads, head_dim)"""
        implementation = self.config._attn_implementation
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        return attention(self, query, key, value, mask, dropout=0.0, scaling=self.scaling, is_causal=False)[0]

    def attend_blocks(self, query, key, value, plan: BlockAttention) -> torch.Tensor:
        count = len(plan.sizes)
        if count == 1:
            return self.attend(query, key, value, plan.masks[0])
        queries, keys, values = (states.split(plan.sizes * 2, dim=2) for states in (query, key, value))
        clean, noisy = [], []
        for index, (size, first, mask) in enumerate(zip(plan.sizes, plan.first, plan.masks)):
            seen = slice(first, index + 1)
            output = self.attend(
                torch.cat((queries[index], queries[count + index]), dim=2),
                torch.cat((*keys[seen], keys[count + index]), dim=2),
                torch.cat((*values[seen], values[count + index]), dim=2),
                mask,
            )
            clean.append(output[:, :size])
            noisy.append(output[:, size:])
        return torch.cat(clean + noisy, dim=1)


class FlowMLP(nn.Module):
    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))

    def step(self, hidden: torch.Tensor) -> torch.Tensor:
        gate, up = linear(hidden, self.gate_proj, self.up_proj).chunk(2, dim=-1)
        return linear(F.silu(gate) * up, self.down_proj)


class FlowLayer(GradientCheckpointingLayer):
    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.self_attn = FlowAttention(config, config.num_attention_heads)
        self.cross_attn = FlowAttention(config, config.num_style_heads)
        self.cross_norm = FlowRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FlowMLP(config)
        self.adaln_down = nn.Linear(config.hidden_size, config.adaln_rank, bias=False)
        self.adaln_up = scaled_linear(config.adaln_rank, 7 * config.hidden_size, gain=0.0, bias=False)

    def modulate(self, condition: torch.Tensor, modulation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Shift, 1 + scale and gate of the attention, gate of the cross-attention, and the MLP's three, each
        (..., 1, hidden), of the condition (..., hidden) and what the layers share of it (..., 7 * hidden).
        """
        modulation = (modulation + self.adaln_up(self.adaln_down(condition))).unsqueeze(-2)
        shift, scale, gate, cross_gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(7, dim=-1)
        return shift, 1 + scale, gate, cross_gate, mlp_shift, 1 + mlp_scale, mlp_gate

    def forward(
        self,
        hidden: torch.Tensor,  # (batch, blocks, tokens a block, hidden)
        condition: torch.Tensor,  # (batch or 1, blocks, hidden)
        modulation: torch.Tensor,  # (batch or 1, blocks, 7 * hidden), what the layers share
        style_tokens: torch.Tensor | None,  # (batch, style tokens, hidden)
        rotary: tuple[torch.Tensor, torch.Tensor],
        past: PastStates | None = None,
        plan: BlockAttention | None = None,
        context_blocks: int = 0,
    ) -> torch.Tensor:
        batch, blocks, tokens, width = hidden.shape
        modulation = self.modulate(condition, modulation)
        shift, scale, gate, cross_gate, mlp_shift, mlp_scale, mlp_gate = modulation

        normed = torch.addcmul(shift, rms_norm(hidden, self.eps), scale)
        output = self.self_attn(normed.flatten(1, 2), rotary=rotary, past=past, plan=plan)
        hidden = torch.addcmul(hidden, gate, output.view(batch, blocks, tokens, width))

        if style_tokens is not None:  # target blocks only: the clean context has no style
            target = hidden[:, context_blocks:]
            output = self.cross_attn(self.cross_norm(target).flatten(1, 2), source=style_tokens)
            target = torch.addcmul(target, cross_gate[:, context_blocks:], output.view(target.shape))
            hidden = torch.cat((hidden[:, :context_blocks], target), dim=1) if context_blocks else target

        normed = torch.addcmul(mlp_shift, rms_norm(hidden, self.eps), mlp_scale)
        output = self.mlp(normed.flatten(1, 2))  # 8-bit layers take three axes at most
        return torch.addcmul(hidden, mlp_gate, output.view(hidden.shape))

    def step(
        self,
        hidden: torch.Tensor,  # (batch, blocks, tokens a block, hidden)
        modulation: torch.Tensor,  # (7, batch or 1, blocks, 1, hidden): what `modulate` gave
        style: tuple[torch.Tensor, torch.Tensor] | None,  # this layer's part of `style_states`
        rotary: tuple[torch.Tensor, torch.Tensor],
        past: PastStates | None,
        keys_only: bool = False,
    ) -> torch.Tensor:
        """
        `forward` with the conditions of each block prepared, to rounding: a step of generation.

        With `keys_only` nothing but the block's keys and values is computed, into `past`.
        """
        shift, scale, gate, cross_gate, mlp_shift, mlp_scale, mlp_gate = modulation.unbind(0)
        normed = torch.addcmul(shift, step_norm(hidden, self.eps), scale)
        output = self.self_attn.step(normed.flatten(1, 2), rotary, past, keys_only)
        if keys_only:
            return hidden
        hidden = torch.addcmul(hidden, gate, output.view_as(hidden))
        if style is not None:
            normed = step_norm(hidden, self.eps) * self.cross_norm.weight.to(hidden.dtype)
            output = self.cross_attn.cross_step(normed.flatten(1, 2), style)
            hidden = torch.addcmul(hidden, cross_gate, output.view_as(hidden))
        normed = torch.addcmul(mlp_shift, step_norm(hidden, self.eps), mlp_scale)
        return torch.addcmul(hidden, mlp_gate, self.mlp.step(normed.flatten(1, 2)).view_as(hidden))

    def linears(self) -> list[tuple[nn.Module, ...]]:
        """The linear layers of a step, those that read one input together."""
        own, cross, mlp = self.self_attn, self.cross_attn, self.mlp
        return [
            (own.q_proj, own.k_proj, own.v_proj), (own.o_proj,),
            (cross.q_proj,), (cross.k_proj, cross.v_proj), (cross.o_proj,),
            (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,), (self.adaln_up,),
        ]  # fmt: skip
