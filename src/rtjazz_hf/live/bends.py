"""How far tones stand beside their notes where a score moves them: written into what is played, not left to chance.

A codec of `deviation_registers` says in its last latents by how many cents the tones of a pitch class stand beside
their notes (`codec.deviations`). Where a score bends a note or lets it quiver, that is no matter of taste: the cents of
every partial follow from its key and its bend. So they are worked out as the encoder would measure them, and take the
place of what the flow drew, as far as the bent notes are what sounds in that pitch class. Where nothing is bent,
nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..codec import RealTimeJazzCodecConfig
from ..codec.deviations import LIMIT, SOFT, UNIT
from ..music.features import FRAME_RATE, LEAD_SHEET_DIM
from ..music.score_features import BENT_ROLES, LOWEST_KEY, NUM_KEYS, PITCHED_ROLES, SCORE_DIM, SCORE_SLICES

PARTIALS = 16  # of a tone, the k-th with an amplitude of 1 / k
LEAST = 1e-3  # semitones: less is no bend
VIBRATO_HZ, VIBRATO_SEMITONES = 5.3, 0.5  # where a score tells a vibrato of 1, each way: as sound fonts have it
_WIDTH = 50.0  # cents: how a partial between two notes is shared by them
_GAINS = {"lead": 1.0, "second": 0.7, "bass": 1.0, "comp": 0.5}  # of a note, beside what is told of its loudness


class ToldBends(nn.Module):
    """What a score's bends are in a codec's latents.

    Args:
        config: of a codec with `deviation_registers`.
    """

    def __init__(self, config: RealTimeJazzCodecConfig):
        super().__init__()
        self.registers = tuple(config.deviation_registers)
        self.first, self.last = self.registers[0], config.lowest_note + config.num_notes
        self.channels = slice(config.energy_dim, config.latent_dim)
        std = config.latents_std or (1.0,) * config.latent_dim
        self.register_buffer("unit", UNIT * torch.tensor(std)[self.channels], persistent=False)  # cents
        partials = torch.arange(1, PARTIALS + 1)
        self.register_buffer("above", 12 * torch.log2(partials), persistent=False)  # semitones
        self.register_buffer("amplitude", 1 / partials, persistent=False)
        amplitude, _ = self._pooled(torch.arange(LOWEST_KEY, LOWEST_KEY + NUM_KEYS, dtype=torch.float32))
        self.register_buffer("of_key", amplitude, persistent=False)  # (keys, channels)

    @classmethod
    def of(cls, config: RealTimeJazzCodecConfig, latent_dim: int, score_dim: int) -> ToldBends | None:
        """Those of a codec, for a flow of so many latents that is told so many features of notes; None where there is
        nothing to write, or nobody tells it."""
        moves = config.num_deviations and latent_dim == config.latent_dim
        return cls(config) if moves and score_dim == SCORE_DIM else None

    def _pooled(self, pitch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tones at MIDI pitches (...) -> amplitude in every channel, and amplitude times cents: (..., channels)."""
        partial = pitch[..., None] + self.above
        near = partial.round()
        note = torch.stack([near - 1, near, near + 1], dim=-1)
        cents = 100 * (partial[..., None] - note)
        weight = self.amplitude[:, None] * torch.exp(-0.5 * (cents / _WIDTH) ** 2)
        weight = weight * ((cents.abs() < LIMIT) & (note >= self.first) & (note < self.last))
        register = sum((note >= lowest).to(note) for lowest in self.registers) - 1
        channel = 12 * register.clamp(min=0) + torch.remainder(note, 12)
        place = channel.long().flatten(-2)
        zeros = weight.new_zeros(*pitch.shape, 12 * len(self.registers))
        weight, moved = weight.flatten(-2), (weight * cents).flatten(-2)
        return zeros.scatter_add(-1, place, weight), zeros.scatter_add(-1, place, moved)

    def forward(self, conditions: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (batch, frames, lead sheet and score) and each row's first frame (batch,) -> latents that the bends
        make, and how much of what sounds in each channel is bent, 0 to 1: (batch, channels, frames) each."""
        told = conditions[..., LEAD_SHEET_DIM:].float()
        frames = torch.arange(conditions.shape[1], device=conditions.device)
        # in float64, so that an hour later it still turns as evenly
        turns = (starts[:, None] + frames + 0.5).double() * (VIBRATO_HZ / FRAME_RATE)
        wave = VIBRATO_SEMITONES * torch.sin(2 * torch.pi * (turns - turns.floor())).float()[..., None]
        others, amplitude, moved = 0.0, 0.0, 0.0
        for role in PITCHED_ROLES:
            sounding = _GAINS[role] * told[..., SCORE_SLICES[f"{role}_sounding"]]
            if role in BENT_ROLES:
                bend = told[..., SCORE_SLICES[f"{role}_bend"]]  # (batch, frames, 1)
                bend = bend + wave * told[..., SCORE_SLICES[f"{role}_vibrato"]]
                bent = (bend.abs() > LEAST).to(bend)
                loud, key = (sounding * bent).max(-1)
                own, cents = self._pooled(LOWEST_KEY + key.to(bend) + bend[..., 0])
                amplitude, moved = amplitude + loud[..., None] * own, moved + loud[..., None] * cents
                sounding = sounding * (1 - bent)
            others = others + sounding @ self.of_key
        total = amplitude + others
        loudest = total.unflatten(-1, (-1, 12)).amax(-1).repeat_interleave(12, dim=-1)
        heard = total**4 / (total**4 + (SOFT * loudest) ** 4 + 1e-20)
        latents = moved / (amplitude + 1e-9) / self.unit
        return latents.transpose(-1, -2), (heard * amplitude / (total + 1e-9)).transpose(-1, -2)

    @staticmethod
    def any_in(conditions: torch.Tensor) -> bool:
        """Whether these features (batch, frames, lead sheet and score) bend anything."""
        columns = [SCORE_SLICES[f"{role}_{what}"].start for role in BENT_ROLES for what in ("bend", "vibrato")]
        return bool((conditions[..., [LEAD_SHEET_DIM + column for column in columns]].abs() > LEAST).any())

    def write(self, latents: torch.Tensor, conditions: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
        """Latents (batch, channels, frames), cues behind them or not, with the bends of these features, whose rows
        begin at frames `starts`."""
        if not self.any_in(conditions):
            return latents
        told, share = self(conditions, torch.tensor(starts, device=conditions.device))
        drawn = latents[:, self.channels]
        out = latents.clone()
        out[:, self.channels] = torch.lerp(drawn, told.to(drawn), share.to(drawn))
        return out


__all__ = ["ToldBends"]
