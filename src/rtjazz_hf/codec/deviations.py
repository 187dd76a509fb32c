"""Where a tone stands beside its note: measured by the encoder, followed by the decoder's bank.

The frequency of what sounds in a semitone is the mean of the instantaneous frequencies of its bins, weighted by their
power. That of a bin comes of two spectra, in the window and in the window's derivative (Auger and Flandrin, 1995,
"Improving the readability of time-frequency and time-scale representations by the reassignment method"): the limit
of two spectra a few samples apart. It is analysis, nothing is learnt: how well two tones fit is no convex function of
their distance in frequency, and gradients lead astray.

Per register, the twelve pitch classes have one channel each. The partials 1, 2, 4, 8 of a tone share one, 3, 6 and 12
another, 5 and 10 a third: they stand beside the grid by the same cents, and so do a tone's vibrato and its tuning. A
chart says which pitch classes sound, so a flow finds them where it finds the notes.
"""

from __future__ import annotations

import math

import torch

from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .transforms import FLOOR, constant

LIMIT = 60.0  # cents; what lies farther off is a neighbour's
UNIT = 8.0  # cents of a latent of one before normalisation, so that it weighs in the codes as it does in the ear
QUIET = 100 * FLOOR  # power of a tone whose deviation counts half: 20 dB above what is not heard at all
SOFT = 0.12  # amplitude of a channel, beside the loudest of its register, where it counts half
SPREAD = 20.0  # cents that the bins of a note stand apart where it counts half: a tone's agree, those of noise do not


def measure_deviations(
    config: RealTimeJazzCodecConfig,
    size: int,
    first: int,
    last: int,
    spectrum: torch.Tensor,
    derived: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cents off, power, and how far apart the bins stand (standard deviation in cents), of the notes from `first` to
    before `last`: (batch, frames, notes) each.

    spectrum, derived (batch, frames, bins): of a window of `size` samples, and of its derivative.
    """
    rate, device = config.sampling_rate, spectrum.device
    near = constant("near_notes", size, first, last, rate, device=device)  # (bins, notes)
    distance = constant("near_distances", size, first, last, rate, device=device)
    bins = slice(0, len(near))
    real, imaginary = spectrum.real[..., bins], spectrum.imag[..., bins]
    power = real.square() + imaginary.square()
    # How far what sounds in a bin lies above the bin, in Hz, times its power.
    above = (derived.real[..., bins] * imaginary - derived.imag[..., bins] * real) * (rate / (2 * math.pi))
    total = power @ near
    off = (power @ distance + above @ near) / (total + 1e-20)
    square = power @ distance.square() + 2 * (above @ distance) + (above.square() / (power + 1e-20)) @ near
    spread = (square / (total + 1e-20) - off.square()).clamp(min=0).sqrt()
    note = constant("note_frequency", first, last, device=device)
    cents = 1200 * torch.log2(1 + (off / note).clamp(-0.2, 0.2))
    return cents, total, 1200 / math.log(2) * spread / note


def pool_deviations(
    config: RealTimeJazzCodecConfig, cents: torch.Tensor, power: torch.Tensor, spread: torch.Tensor
) -> torch.Tensor:
    """What was measured of the notes of all registers, (batch, frames, notes) each -> latents (batch, frames,
    num_deviations).

    What is louder counts for more; what is not heard, is no tone, or belongs to a neighbour counts for nothing.
    """
    registers, first = config.deviation_registers, config.deviation_registers[0]
    members = constant("register_members", registers, first, cents.shape[-1], device=cents.device)
    weight = power.sqrt() * (cents.abs() < LIMIT)
    total = weight @ members
    weight = weight / (1 + (spread / SPREAD) ** 4)
    mean = (weight * cents.clamp(-LIMIT, LIMIT)) @ members / (total + math.sqrt(QUIET))
    loudest = total.unflatten(-1, (-1, 12)).amax(-1).repeat_interleave(12, dim=-1)
    heard = total**4 / (total**4 + (SOFT * loudest) ** 4 + 1e-20)
    return mean * heard / UNIT


def unpool_deviations(config: RealTimeJazzCodecConfig, latents: torch.Tensor) -> torch.Tensor:
    """Latents (batch, frames, num_deviations) -> cents of every tone of the bank (batch, frames, tones)."""
    members = constant(
        "register_members", config.deviation_registers, config.lowest_note, config.num_notes, device=latents.device
    )
    cents = (UNIT * latents).clamp(-LIMIT, LIMIT) @ members.T
    return cents.repeat_interleave(config.tones_per_note, dim=-1)


__all__ = ["LIMIT", "UNIT", "measure_deviations", "pool_deviations", "unpool_deviations"]
