"""What the band writes down: notes and controllers in seconds, and the clock and harmony that every player
reads."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..music.chords import Chord
from ..music.lead_sheet import LeadSheet, Section
from ..music.metre import Metre
from .bars import Stops, cells, swung_in
from .grooves import Feel

if TYPE_CHECKING:
    from .phrases import PhraseMemory

EXPRESSION = 11  # MIDI controller numbers
VIBRATO = 1
SHORTEST_S = 0.04  # seconds that a note lasts at the least
PITCH_BEND = -1  # not a controller in MIDI; 8192 is two semitones up; further than that only where a `Touch` is
FULL_EXPRESSION = 112  # of EXPRESSION where nobody swells


@dataclass(frozen=True)
class Note:
    """One sounding note: start and duration in seconds, MIDI key (or drum) number, velocity 1 to 127, and what it is
    to the band: one of `NOTE_ROLES`."""

    start_s: float
    duration_s: float
    midi: int
    velocity: int
    role: str = "comp"


@dataclass(frozen=True)
class Control:
    """One controller change at `start_s` seconds; `controller` is a MIDI number or `PITCH_BEND`; `role` as of notes."""

    start_s: float
    controller: int
    value: int
    role: str = "lead"


@dataclass(frozen=True)
class Touch:
    """How the tones of a player move who plays as `expression.py` writes it.

    Attributes:
        vibrato_hz: rate. vibrato_cents: how far it goes each way where VIBRATO is at 127; it starts upwards, at the
            first VIBRATO of a note that is not 0.
    """

    vibrato_hz: float
    vibrato_cents: float


@dataclass(frozen=True)
class Take:
    """A composed performance.

    Attributes:
        lead_sheet: exactly what was played: its `beat_offset` makes t = 0 right, its sections say who sounds
        when. notes: notes per instrument, by time. controls: controller changes per instrument, by time.
        duration_s: length of the performance in seconds, lead-in included. touches: of the players whose tones move one
        by one: a line goes from control to control of the same note, and a note that has ended keeps its own.
    """

    lead_sheet: LeadSheet
    notes: dict[str, tuple[Note, ...]]
    controls: dict[str, tuple[Control, ...]] = field(default_factory=dict)
    duration_s: float = 0.0
    touches: dict[str, Touch] = field(default_factory=dict)

    def without(self, *instruments: str) -> Take:
        """The same performance with these players silent, and a lead sheet that says so."""
        return replace(
            self,
            lead_sheet=self.lead_sheet.without(*instruments),
            notes={name: notes for name, notes in self.notes.items() if name not in instruments},
            controls={name: events for name, events in self.controls.items() if name not in instruments},
            touches={name: touch for name, touch in self.touches.items() if name not in instruments},
        )


@dataclass(frozen=True)
class Harmony:
    """The chords of a sheet by beat."""

    starts: tuple[float, ...]
    ends: tuple[float, ...]
    chords: tuple[Chord, ...]

    @classmethod
    def of(cls, sheet: LeadSheet) -> Harmony:
        """Neighbouring spans of one chord become one."""
        starts: list[float] = []
        ends: list[float] = []
        chords: list[Chord] = []
        at = 0.0
        for span in sheet.spans:
            if chords and chords[-1] == span.chord:
                ends[-1] = at + span.beats
            else:
                starts.append(at)
                ends.append(at + span.beats)
                chords.append(span.chord)
            at += span.beats
        return cls(tuple(starts), tuple(ends), tuple(chords))

    def index(self, beat: float) -> int:
        return max(0, min(bisect.bisect_right(self.starts, beat + 1e-6) - 1, len(self.chords) - 1))

    def at(self, beat: float) -> Chord:
        return self.chords[self.index(beat)]

    def end(self, beat: float) -> float:
        return self.ends[self.index(beat)]

    def start(self, beat: float) -> float:
        return self.starts[self.index(beat)]

    def following(self, beat: float) -> Chord:
        """The chord after the one at `beat`; the first one after the last."""
        return self.chords[(self.index(beat) + 1) % len(self.chords)]

    def cuts(self, start: float, end: float) -> list[tuple[float, float, Chord]]:
        """The chords between two beats as (start, end, chord), cut at the edges."""
        found = []
        for index in range(self.index(start), len(self.chords)):
            first, last = max(self.starts[index], start), min(self.ends[index], end)
            if first >= end:
                break
            if last > first + 1e-6:
                found.append((first, last, self.chords[index]))
        return found


@dataclass
class Performance:
    """What the players share while they write: sheet, harmony, swing, dynamics; collects their notes.

    Beats here are notated: x.5 is the off-beat wherever swing puts it. `add` turns them into seconds.
    """

    sheet: LeadSheet
    harmony: Harmony
    rng: np.random.Generator
    lag_s: dict[str, float] = field(default_factory=dict)  # how far behind the beat each player sits
    tightness_s: float = 0.008  # standard deviation of a player's timing
    notes: dict[str, list[Note]] = field(default_factory=dict)
    controls: dict[str, list[Control]] = field(default_factory=dict)
    role: str = "comp"  # what is being written now
    feel: Feel | None = None  # the groove, where the genre is one
    phrases: PhraseMemory | None = None  # the player to whom solos lean

    @cached_property
    def stops(self) -> Stops:
        """Where the sheet has the band rest, hold or break."""
        return Stops(self.sheet)

    @property
    def in_three(self) -> bool:
        """Whether this is a waltz: three beats in most bars, and not six eighths."""
        return self.sheet.beats_per_bar == 3 and all(
            metre.unit < 8 for metre in map(Metre.parse, set(self.sheet.metres)) if metre.beats == 3
        )

    def seconds(self, beat: float, straight: bool = False) -> float:
        """Time of a notated beat; off-beats are swung unless `straight` (triplets, fills, fast runs)."""
        return float(self.sheet.time_of(beat if straight else swung_in(self.sheet, beat)))

    def cells(self, start: float, end: float) -> Iterator[tuple[float, float, int]]:
        """What players count in, between two beats: bars of up to four beats, the groups of longer ones (5/4 is 3 + 2).

        See `bars.cells`.
        """
        return cells(self.sheet, start, end)

    def add(
        self,
        instrument: str,
        beat: float,
        beats: float,
        midi: int,
        velocity: float,
        straight: bool = False,
        jitter: float = 1.0,
    ) -> None:
        """Write a note at a notated beat for `beats` (its end is swung too), humanised in time and
        loudness."""
        human = min(max(self.rng.standard_normal(), -2.0), 2.0)
        delay_s = self.lag_s.get(instrument, 0.0) + jitter * self.tightness_s * human
        loud = min(max(round(velocity + 3.0 * self.rng.standard_normal()), 8), 124)
        if (beats := self.stops.beats(instrument, beat, beats)) is not None:
            self._write(instrument, beat, beats, int(midi), loud, straight, delay_s)

    def _write(
        self, instrument: str, beat: float, beats: float, midi: int, velocity: int, straight: bool, delay_s: float
    ) -> None:
        stop = self.seconds(beat + beats, straight)
        start = max(0.0, self.seconds(beat, straight) + delay_s)
        note = Note(start, max(SHORTEST_S, stop - start), midi, velocity, self.role)
        self.notes.setdefault(instrument, []).append(note)

    def control(
        self, instrument: str, beat: float, controller: int, value: float, straight: bool = False
    ) -> None:
        low, high = (-8192, 8191) if controller == PITCH_BEND else (0, 127)
        self._write_control(instrument, beat, controller, int(min(max(value, low), high)), straight)

    def _write_control(self, instrument: str, beat: float, controller: int, value: int, straight: bool) -> None:
        event = Control(max(0.0, self.seconds(beat, straight)), controller, value, self.role)
        self.controls.setdefault(instrument, []).append(event)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def intensity(self, section: Section, beat: float) -> float:
        """How hard the band plays, 0 to 1: by role, mood, and growing through a solo."""
        base = {"intro": 0.4, "head": 0.5, "solo": 0.52, "trading": 0.68, "head_out": 0.58, "ending": 0.45}
        growth = {"solo": 0.28, "head": 0.08, "intro": 0.12, "trading": 0.08, "ending": -0.15}
        mood = {"energetic": 0.14, "intense": 0.2, "playful": 0.05, "bright": 0.06, "dark": -0.02}
        mood |= {"relaxed": -0.1, "romantic": -0.14, "melancholic": -0.12}
        part = np.clip((beat - section.start_beat) / section.beats, 0, 1)
        level = base[section.role] + growth.get(section.role, 0.0) * part + mood.get(self.sheet.mood, 0.0)
        return float(np.clip(level, 0.15, 0.98))


def pick(rng: np.random.Generator, weighted: dict) -> object:
    """One key of `weighted`, drawn by its weight."""
    keys = list(weighted)
    weights = np.array([weighted[key] for key in keys], dtype=float)
    return keys[int(rng.choice(len(keys), p=weights / weights.sum()))]
