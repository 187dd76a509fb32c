"""What a live session was told to play, as a score."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..band import Score, ScoreNote

if TYPE_CHECKING:
    from ..music import LeadSheet
    from .session import LiveBlock


class NoteLog:
    """Notes of the blocks that were played, at one tempo, the first block's: the file keeps time with the sound,
    whatever tempi were played."""

    def __init__(self) -> None:
        self._notes: list[ScoreNote] = []
        self._sheet: LeadSheet | None = None

    def add(self, block: LiveBlock) -> None:
        self._sheet = self._sheet or block.lead_sheet
        ratio = self._sheet.tempo / block.tempo
        for note, seconds in zip(block.notes, block.note_times):
            start = self._sheet.beat_at(seconds)
            self._notes.append(dataclasses.replace(note, start=start, beats=note.beats * ratio))

    def score(self) -> Score:
        """All notes so far."""
        if self._sheet is None:
            return Score(told=())
        return Score(tuple(self._notes)).described(self._sheet)


__all__ = ["NoteLog"]
