"""What a live session hands out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..audio import FRAME_RATE
from ..band import ScoreNote
from ..music import Chord, LeadSheet


@dataclass(frozen=True)
class LiveBlock:
    """One block of sound, and where in the music it starts.

    Attributes:
        audio: float32 `(2, samples)` at 48 kHz.
        start: time of its first sample since the session's start, in seconds.
        bar: bars of the session, 1 for the first, counted on through every change; beat: beat in the bar, 1.0 for the
            downbeat.
        chart_bar: the same bar as the chart counts, 1 for its top, on through its loops.
        chorus: which time round the chart that was asked for is played, from 1; None where the band leader wrote the
            tune, or a lead sheet was given.
        chord: the chord that sounds at the start.
        tempo: beats per minute.
        latents: float32 `(latent_dim, frames)`, as the codec's decoder took them.
        seconds: time it took to make.
        lead_sheet: what it follows.
        notes: what was told to be played and begins in the block, beats as of `lead_sheet`; see `note_times`.
    """

    audio: np.ndarray
    start: float
    bar: int
    beat: float
    chord: Chord
    tempo: float
    latents: np.ndarray
    seconds: float
    lead_sheet: LeadSheet
    notes: tuple[ScoreNote, ...] = ()
    chart_bar: int = 1
    chorus: int | None = None

    @property
    def chords(self) -> tuple[tuple[float, Chord], ...]:
        """Its chords, each after the seconds from the block's start at which it begins; the first is `chord`."""
        found = [(0.0, self.chord)]
        for begin, _, chord in self.lead_sheet.chord_segments(self.start, self.duration):
            if chord != found[-1][1] and begin > self.start:
                found.append((begin - self.start, chord))
        return tuple(found)

    @property
    def note_times(self) -> tuple[float, ...]:
        """When the notes begin, in seconds since the session's start."""
        return tuple(float(self.lead_sheet.time_of(note.start)) for note in self.notes)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.latents.shape[-1] / FRAME_RATE
