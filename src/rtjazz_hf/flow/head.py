"""Out of the flow transformer: the velocity, or logits of the codebooks and the velocity that they mean."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from rtjazz_hf.runtime.packed_linear import linear

from .configuration_realtime_jazz_flow import RealTimeJazzFlowTransformerConfig
from .layers import rms_norm, scaled_linear, step_norm
from .losses import labelled_loss

# 1 - t is kept above this in the codebook head's division; a schedule never gets closer to 1 than 1/steps.
MIN_TIME_LEFT = 1e-3


@dataclass
class FlowTransformerOutput(ModelOutput):
    """
    Args:
        loss: Of the labels, where they were given: a float32 scalar.
        sample: Velocity `(batch, channels, frames)` in the input's type; `None` if it was not asked for.
        logits: Of a codebook model, `(batch, codebooks, frames, codebook_size)`; else `None`.
    """

    loss: torch.FloatTensor | None = None
    sample: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None

    def finished(self, labels: torch.Tensor | None, return_dict: bool):
        """With the loss of `labels`, if there are any; as a tuple unless `return_dict`."""
        output = self
        if labels is not None:
            loss = labelled_loss(self.sample, self.logits, labels)
            output = FlowTransformerOutput(loss=loss, sample=self.sample, logits=self.logits)
        return output if return_dict else output.to_tuple()


class FlowHead(nn.Module):
    """Velocity of each channel, or logits of each codebook level (and velocity of the cue channels)."""

    def __init__(self, config: RealTimeJazzFlowTransformerConfig):
        super().__init__()
        self.config = config
        self.eps = config.rms_norm_eps
        self.modulation = scaled_linear(config.hidden_size, 2 * config.hidden_size, gain=0.0)
        if config.prediction_type == "codebook":
            self.num_logits = config.num_codebooks * config.codebook_size
            outputs = self.num_logits + config.cue_channels
            codebooks = torch.zeros(config.num_codebooks, config.codebook_size, config.latent_dim)
            self.register_buffer("codebooks", codebooks)
            self.register_buffer("latents_offset", torch.zeros(config.latent_dim))
        else:
            outputs = config.num_channels
        self.proj = scaled_linear(config.hidden_size, config.patch_size * outputs, gain=0.0)

    @torch.no_grad()
    def set_codebooks(
        self, codebooks: torch.Tensor, latents_offset: torch.Tensor | None, prediction_levels: int
    ) -> None:
        """See `RealTimeJazzFlowTransformer.set_codebooks`."""
        if prediction_levels:
            raise ValueError(
                f"this codec's codes depend on the frames before (prediction_levels={prediction_levels}), which a "
                "codebook model cannot follow yet; use prediction_type='velocity', or a codec with "
                "prediction_levels=0."
            )
        if self.config.prediction_type != "codebook":
            raise ValueError("This model predicts velocity; codebooks need prediction_type='codebook'.")
        if codebooks.shape != self.codebooks.shape:
            raise ValueError(
                f"codebooks has shape {tuple(codebooks.shape)}; the config asks for "
                f"{tuple(self.codebooks.shape)}."
            )
        self.codebooks.copy_(codebooks.detach())
        if latents_offset is not None:
            self.latents_offset.copy_(latents_offset.detach())

    def modulate(self, condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift and 1 + scale, each (..., 1, hidden), of the condition (..., hidden)."""
        shift, scale = self.modulation(condition).unsqueeze(-2).chunk(2, dim=-1)
        return shift, 1 + scale

    def forward(self, hidden, modulation, sample, timestep, return_sample: bool) -> FlowTransformerOutput:
        """`hidden` (batch, blocks, tokens, hidden), `modulation` of `modulate`, `timestep` (batch, blocks)"""
        output = self.proj(torch.addcmul(modulation[0], rms_norm(hidden, self.eps), modulation[1]))
        velocity, logits = self.velocity(output.flatten(1, 2), sample, timestep, return_sample)
        return FlowTransformerOutput(sample=velocity, logits=logits)

    def step(self, hidden, modulation, sample, timestep, return_sample: bool) -> tuple:
        """Velocity and logits of one block, as `forward` to rounding: `hidden` (batch, tokens, hidden)."""
        normed = torch.addcmul(modulation[0], step_norm(hidden, self.eps), modulation[1])
        return self.velocity(linear(normed, self.proj), sample, timestep, return_sample)

    def velocity(self, output, sample, timestep, return_sample: bool) -> tuple:
        """`output` of the projection (batch, tokens, patch * outputs) -> velocity or None, logits or None"""
        output = output.unflatten(-1, (self.config.patch_size, -1)).flatten(1, 2)  # (batch, frames, outputs)
        if self.config.prediction_type == "velocity":
            return output.transpose(1, 2).to(sample.dtype), None

        logits = output[..., : self.num_logits].unflatten(-1, (self.config.num_codebooks, -1)).transpose(1, 2)
        velocity = None
        if return_sample:
            expected = self.latents_offset.float()[None, :, None]
            for level in range(self.config.num_codebooks):
                vectors = logits[:, level].float().softmax(-1) @ self.codebooks[level].float()
                expected = expected + vectors.transpose(1, 2)  # (batch, latent_dim, frames)
            left = (1 - timestep.float()).clamp_min(MIN_TIME_LEFT)
            left = left.repeat_interleave(sample.shape[-1] // left.shape[1], dim=1)  # (batch, frames)
            velocity = (expected - sample[:, : self.config.latent_dim].float()) / left[:, None]
            cues = output[..., self.num_logits :].transpose(1, 2)
            velocity = torch.cat((velocity, cues.float()), dim=1).to(sample.dtype)
        return velocity, logits
