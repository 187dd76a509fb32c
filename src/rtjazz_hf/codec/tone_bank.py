"""The decoder's bank of tones that run on for ever: one or more a note, on the note or beside it."""

from __future__ import annotations

import math

import torch

from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .transforms import constant

TURN_STEPS = 1 << 22  # of one turn: what a tone turns more than its note is counted in them
STRETCH = 32  # samples around each middle
LEAP = 4  # stretches
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

    A sample lies somewhere beside the middle of a stretch: cos(a + b) = cos a cos b - sin a sin b, of few middles and
    few distances, and the sum over tones is a product. A distance back from the middle has the same cosine and the
    sine's sign turned, so that distances ahead are enough for both. Middles are added up of two turns in the same way.
    """
    count, half = -(-length // (LEAP * STRETCH)), STRETCH // 2
    leaps, steps = torch.arange(count) * LEAP * STRETCH + half - 0.5, torch.arange(LEAP) * STRETCH
    places = torch.cat([leaps, steps]).to(a_sample)
    turns = a_sample[:, :, None] * places[:, None]
    turns[:, :, :count] += phase[:, :, None]
    # Whole turns are dropped in float64; what is left of a place, and a distance, are exact enough in float32.
    angle = turns.frac_().float() * (2 * math.pi)
    (cos_leap, cos_step), (sin_leap, sin_step) = (
        (part[:, :, :count, None], part[:, :, None, count:]) for part in (angle.cos(), angle.sin())
    )
    cosine = torch.addcmul(cos_leap * cos_step, sin_leap, sin_step, value=-1)
    sine = torch.addcmul(sin_leap * cos_step, cos_leap, sin_step)
    middles = torch.stack([cosine, sine]).flatten(3, 4)  # (2, batch, frames, middles, tones)
    ahead = (2 * math.pi * a_sample).float()[:, :, None] * (torch.arange(half, device=phase.device) + 0.5)[:, None]
    ahead = torch.stack([ahead.cos(), -ahead.sin()])[:, :, :, None]  # (2, batch, frames, 1, half a stretch, tones)
    ahead = (ahead * amplitudes.transpose(1, 2)[..., None, :]).flatten(3, 4)
    even, odd = (middles @ ahead.transpose(3, 4)).unflatten(-1, (-1, half))
    played = torch.cat([(even - odd).flip(-1), even + odd], dim=-1)  # (batch, frames, middles, channels, stretch)
    return played.permute(0, 3, 1, 2, 4).flatten(3)


def _bank(config: RealTimeJazzCodecConfig) -> tuple[int, int, int]:
    return config.lowest_note, config.num_notes, config.tones_per_note


def _phases(config: RealTimeJazzCodecConfig, frame: torch.Tensor) -> torch.Tensor:
    """Where tones on their notes are when frames (batch, frames) begin, in turns: (batch, frames, tones) float64,
    modulo one turn, so that a stream of days keeps its phase."""
    turns = constant("tone_turns", *_bank(config), config.hop_length, config.sampling_rate, device=frame.device)
    starts = constant("tone_phases", config.num_tones, device=frame.device)
    return (turns * frame[..., None] + starts) % 1.0


__all__ = ["moving_tones", "still_tones"]
