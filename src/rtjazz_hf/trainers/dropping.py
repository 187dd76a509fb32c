"""What a flow's training tells of a take, and at which times: conditions dropped at random, times drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..flow.losses import drop_rows, sample_timesteps
from ..music import LEAD_SHEET_DIM, without_chords
from ..music.score_features import NOTE_ROLES, without_notes

if TYPE_CHECKING:
    from .flow import FlowTrainConfig

_NOTES_GO_WITH_CHORDS = 0.7  # share of the rows without chords


def drop_conditions(sheet: torch.Tensor, config: FlowTrainConfig) -> torch.Tensor:
    """Conditions `(batch, frames, features)` as training tells them: rows without chords, without the notes of some or
    all roles, without anything.

    Most rows that lose their chords lose their notes with them: that is what guidance compares with.
    """
    rows = len(sheet)
    no_chords = torch.rand(rows, 1, 1).to(sheet) < config.chord_dropout
    sheet = torch.where(no_chords, without_chords(sheet), sheet)
    if sheet.shape[-1] > LEAD_SHEET_DIM:
        draw = torch.rand(rows, 1, 1).to(sheet)
        nothing = draw < config.notes_dropout
        nothing = nothing | (no_chords & (torch.rand(rows, 1, 1).to(sheet) < _NOTES_GO_WITH_CHORDS))
        some = draw < config.notes_dropout + config.roles_dropout
        score = sheet[..., LEAD_SHEET_DIM:]
        for role in NOTE_ROLES:
            lost = nothing | (some & (torch.rand(rows, 1, 1).to(sheet) < 0.5))
            score = torch.where(lost, without_notes(score, [role]), score)
        sheet = torch.cat([sheet[..., :LEAD_SHEET_DIM], score], dim=-1)
    return drop_rows(sheet, config.lead_sheet_dropout)


def draw_times(shape: Sequence[int], config: FlowTrainConfig) -> torch.Tensor:
    """Times to train at; a share of them is nearer to noise."""
    mean: float | torch.Tensor = config.time_mean
    if config.noisy_rate:
        mean = torch.where(torch.rand(tuple(shape)) < config.noisy_rate, config.noisy_mean, config.time_mean)
    return sample_timesteps(shape, config.time_distribution, mean=mean)


__all__ = ["draw_times", "drop_conditions"]
