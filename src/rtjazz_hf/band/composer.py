"""Whole takes for the corpus: a lead sheet, played once."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..music.lead_sheet import LeadSheet
from .melody import HeadBook
from .performance import Harmony, Note, Performance, Take
from .players import Players, find_their_feel, split_ending

MAX_LEAD_IN_S = 0.3


def compose(lead_sheet: LeadSheet, rng: np.random.Generator) -> Take:
    """Play a lead sheet once, from its first beat to its last.

    Everybody whom a section names plays in it and nobody else; the bass sounds the chord's bass note where the
    chord changes; the take begins with 0 to 0.3 s of silence, which the returned sheet's `beat_offset`
    accounts for.

    Args:
        lead_sheet: any sheet; its own `beat_offset` is replaced.
        rng: the one source of chance: the same sheet and state give the same take.
    """
    lead_in = float(rng.uniform(0.0, MAX_LEAD_IN_S))
    sheet = dataclasses.replace(lead_sheet, beat_offset=-lead_in * lead_sheet.tempo / 60.0)
    performance = Performance(sheet, Harmony.of(sheet), rng)
    find_their_feel(performance)
    players, filled = Players(performance, HeadBook(performance)), False
    for section in split_ending(sheet, performance.harmony):
        players.play(section, filled)
        filled = players.fills(section)
    duration = lead_in + sheet.num_beats * 60.0 / sheet.tempo
    notes = {name: _settle(written, duration) for name, written in performance.notes.items()}
    controls = {
        name: tuple(
            sorted((event for event in events if event.start_s < duration), key=lambda event: event.start_s)
        )
        for name, events in performance.controls.items()
    }
    return Take(sheet, notes, controls, duration)


def _settle(notes: list[Note], duration: float) -> tuple[Note, ...]:
    """Notes in order of time, none beyond the end, none that runs into its own repetition."""
    ordered = sorted(
        (note for note in notes if note.start_s < duration - 0.02), key=lambda note: (note.start_s, note.midi)
    )
    following: dict[int, float] = {}
    settled: list[Note] = []
    for note in reversed(ordered):
        stop = min(note.start_s + note.duration_s, duration, following.get(note.midi, np.inf) - 0.004)
        following[note.midi] = note.start_s
        if stop - note.start_s > 0.01:
            settled.append(dataclasses.replace(note, duration_s=stop - note.start_s))
    return tuple(reversed(settled))
