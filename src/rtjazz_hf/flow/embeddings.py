"""Into the flow transformer: embeddings of time, lead sheet and score, and what may come in."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_realtime_jazz_flow import RealTimeJazzFlowTransformerConfig
from .layers import scaled_linear


class FlowTimeEmbedding(nn.Module):
    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        self.width = config.time_embedding_dim
        self.linear_1 = nn.Linear(config.time_embedding_dim, config.hidden_size)
        self.linear_2 = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, timestep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        half = self.width // 2
        frequencies = torch.arange(half, device=timestep.device, dtype=torch.float32)
        frequencies = torch.exp(-math.log(10000.0) / half * frequencies)
        angles = 1000.0 * timestep.float()[..., None] * frequencies  # (..., half)
        embedding = torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype)
        return self.linear_2(F.silu(self.linear_1(embedding)))


class FlowLeadSheetEmbedding(nn.Module):
    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        # A gain of 2 gives the sparse features as loud a voice as the latents they are added to.
        self.linear_1 = scaled_linear(config.patch_size * config.lead_sheet_dim, config.hidden_size, gain=2.0)
        self.linear_2 = scaled_linear(config.hidden_size, config.hidden_size, gain=2.0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


class FlowScoreEmbedding(nn.Module):
    """Metre and notes, frame by frame with the same weights, then the frames of a token together.

    Without biases, so that a frame of zeros adds nothing; the last layer starts at zero, so that a trained model plays
    as it did until it learns to read.
    """

    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.score_dim, config.score_hidden, bias=False)
        self.linear_1.initializer_std = 0.15  # a few of hundreds of inputs are on at a time
        self.linear_2 = nn.Linear(config.patch_size * config.score_hidden, config.hidden_size, bias=False)
        self.linear_2.initializer_std = 0.0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, patch, score_dim) -> (batch, tokens, hidden)"""
        return self.linear_2(F.silu(self.linear_1(features)).flatten(-2))


def rotary_tables(
    config: RealTimeJazzFlowTransformerConfig, positions: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines `(rows, tokens, 1, head_dim / 2)` of positions `(rows, tokens)`."""
    device = positions.device
    if device.type == "mps":  # which has no float64
        positions = positions.cpu()
    half = config.head_dim // 2
    exponents = torch.arange(half, device=positions.device, dtype=torch.float64) / half
    angles = positions[..., None, None].double() / config.rope_theta**exponents
    return angles.cos().to(dtype).to(device), angles.sin().to(dtype).to(device)  # (rows, tokens, 1, half)


def check_sample(config: RealTimeJazzFlowTransformerConfig, sample: torch.Tensor) -> None:
    """Refuse, with a ValueError, what is no state of this model: `(batch, channels, frames)`."""
    if sample.ndim != 3 or sample.shape[1] != config.num_channels:
        raise ValueError(
            f"sample has shape {tuple(sample.shape)}; expected (batch, {config.num_channels}, frames)."
        )
    frames = sample.shape[-1]
    if frames < 1 or frames % config.patch_size:
        raise ValueError(
            f"sample has {frames} frames; expected a multiple of patch_size {config.patch_size}."
        )


def check_inputs(config: RealTimeJazzFlowTransformerConfig, sample, timestep, lead_sheet, style) -> tuple:
    """Timestep `(batch, blocks)`, lead sheet and style as the model takes them, zeros for none; else a ValueError."""
    check_sample(config, sample)
    batch, _, frames = sample.shape
    timestep = torch.as_tensor(timestep, device=sample.device, dtype=torch.float32)
    if timestep.ndim < 2:
        timestep = timestep.reshape(-1, 1)
    if timestep.shape[0] not in (1, batch) or (frames // config.patch_size) % timestep.shape[1]:
        raise ValueError(
            f"timestep has shape {tuple(timestep.shape)}; expected a number, ({batch},), or "
            f"({batch}, blocks) with blocks of equal size in {frames} frames."
        )
    timestep = timestep.expand(batch, -1)  # (batch, blocks)
    if lead_sheet is None and config.lead_sheet_dim:
        lead_sheet = sample.new_zeros(1, frames, config.feature_dim)
    if lead_sheet is not None and lead_sheet.shape[1:] != (frames, config.feature_dim):
        raise ValueError(
            f"lead_sheet has shape {tuple(lead_sheet.shape)}; expected "
            f"({batch}, {frames}, {config.feature_dim})."
        )
    if style is None:
        style = sample.new_zeros(1, config.style_dim)
    if style.ndim != 2 or style.shape[1] != config.style_dim:
        raise ValueError(f"style has shape {tuple(style.shape)}; expected ({batch}, {config.style_dim}).")
    return timestep, lead_sheet, style.expand(batch, -1)
