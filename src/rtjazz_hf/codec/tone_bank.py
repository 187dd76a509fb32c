"""The decoder's bank of tones that run on for ever: one or more a note, on the note or beside it."""

from __future__ import annotations

import math

import torch

from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .transforms import constant

TURN_STEPS = 1 << 22  # of one turn: what a tone turns more than its note is counted in them
TURN_BLOCK = 32  # samples between the coarse places of a frame
CHUNK_FRAMES = 64


def still_tones(config: RealTimeJazzCodecConfig, amplitudes: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """Amplitudes (batch, channels, frames, tones) at frames (batch, frames) of the stream -> frames of samples, of
    tones that stand on their notes."""
    device = amplitudes.device
    angle = (2 * math.pi * _phases(config, frame)).float()[:, None]  # (batch, 1, frames, tones)
    basis = constant(
        "tone_basis", config.hop_length, config.overlap, *_bank(config), config.sampling_rate, device=device
    )
    return torch.cat([amplitudes * angle.cos(), amplitudes * angle.sin()], dim=-1) @ basis


def moving_tones(
    config: RealTimeJazzCodecConfig,
    amplitudes: torch.Tensor,
    cents: torch.Tensor,
    frame: torch.Tensor,
    turned: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of tones that stand `cents` (batch, frames, tones) beside their notes, each frame by its own.

    `turned` (batch, tones), int64: what each has turned more than its note until now, in steps, less whole turns; it
    comes back as it is after these frames. Whole numbers add up to the same however a stream is cut.
    """
    hop, device = config.hop_length, amplitudes.device
    turns = constant("tone_turns", *_bank(config), hop, config.sampling_rate, device=device)  # a frame
    more = (turns * (torch.exp2(cents.double() / 1200) - 1) * TURN_STEPS).round().long()
    after = turned[:, None] + more.cumsum(1)
    phase = _phases(config, frame) + (after - more) / TURN_STEPS
    a_sample = (turns + more / TURN_STEPS) / hop
    length = hop + config.overlap
    pieces = (part.split(CHUNK_FRAMES, dim=-2) for part in (amplitudes, phase, a_sample))
    played = [_play(*piece, length)[..., :length] for piece in zip(*pieces)]  # cosines of hours are not held at once
    return torch.cat(played, dim=2), after[:, -1] % TURN_STEPS


def _play(amplitudes: torch.Tensor, phase: torch.Tensor, a_sample: torch.Tensor, length: int) -> torch.Tensor:
    """Amplitudes (batch, channels, frames, tones), turns at the start of frames and turns a sample (batch, frames,
    tones) -> (batch, channels, frames, at least `length` samples).

    cos(a + b) of a coarse place in the frame and a fine one: few cosines, and the sum over tones is a product. Sines
    are cosines a quarter of a turn away, so that one call makes both.
    """
    coarse, fine = (torch.arange(0, *stop, device=phase.device) for stop in ((length, TURN_BLOCK), (TURN_BLOCK,)))
    # Whole turns are dropped in float64; what is left of a coarse place, and a fine one, are exact enough in float32.
    turns = torch.addcmul(phase[:, :, None], a_sample[:, :, None], coarse[:, None].double()).frac_().float()
    left = torch.cat([turns, turns + 0.25], dim=-1).mul_(2 * math.pi).cos_()  # cosines, then negative sines
    loud = torch.cat([amplitudes, amplitudes], dim=-1).transpose(1, 2)  # (batch, frames, channels, 2 tones)
    left = (left[:, :, None] * loud[..., None, :]).flatten(2, 3)  # (batch, frames, channels and places, 2 tones)
    step = (2 * math.pi * a_sample).float()
    quarter = step.new_tensor([0.0, -math.pi / 2]).repeat_interleave(step.shape[-1])
    right = torch.addcmul(quarter, torch.cat([step, step], dim=-1)[:, :, None], fine[:, None].float()).cos_()
    played = (left @ right.transpose(2, 3)).unflatten(2, (amplitudes.shape[1], -1))
    return played.flatten(3).transpose(1, 2)


def _bank(config: RealTimeJazzCodecConfig) -> tuple[int, int, int]:
    return config.lowest_note, config.num_notes, config.tones_per_note


def _phases(config: RealTimeJazzCodecConfig, frame: torch.Tensor) -> torch.Tensor:
    """Where tones on their notes are when frames (batch, frames) begin, in turns: (batch, frames, tones) float64,
    modulo one turn, so that a stream of days keeps its phase."""
    turns = constant("tone_turns", *_bank(config), config.hop_length, config.sampling_rate, device=frame.device)
    starts = constant("tone_phases", config.num_tones, device=frame.device)
    return (turns * frame[..., None] + starts) % 1.0


__all__ = ["moving_tones", "still_tones"]
