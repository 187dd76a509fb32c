"""What the band at play is made of: players whose dice are their own, and what they write before it is played."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any, NamedTuple

import numpy as np

from ..music.lead_sheet import LeadSheet, Section
from .melody import RANGES, HeadBook, Tone
from .performance import Performance
from .players import Players, find_their_feel
from .score import KIND_OF_CONTROLLER

NEAR = 1e-6  # beats
_TUNE_RANGE = (57, 80)  # MIDI keys in which a tune is thought of; whoever has it plays it in an octave of theirs
_CHORUSES = ("head", "solo", "solo", "solo")  # of a chart that goes round and round


class WrittenNote(NamedTuple):
    """A note as written: notated beats, from the sheet's first bar line and counted on through its loops."""

    beat: float
    beats: float
    straight: bool
    delay_s: float
    midi: int
    velocity: int
    player: str
    role: str


class WrittenControl(NamedTuple):
    beat: float
    straight: bool
    kind: str
    value: float
    player: str
    role: str


class Sketch(Performance):
    """A performance that keeps what is written in notated beats, so that tempo and swing may still change."""

    def begin(self, first: float, base: float) -> None:
        """Write from `first` on, in beats of a pass that starts at beat `base`."""
        self.first, self.base = first, base
        self.written: list[WrittenNote] = []
        self.events: list[WrittenControl] = []

    def _write(self, instrument, beat, beats, midi, velocity, straight, delay_s) -> None:
        if beat >= self.first - NEAR:
            note = WrittenNote(
                self.base + float(beat), float(beats), straight, float(delay_s), midi, velocity, instrument, self.role
            )
            self.written.append(note)

    def _write_control(self, instrument, beat, controller, value, straight) -> None:
        if beat >= self.first - NEAR:
            kind, unit = KIND_OF_CONTROLLER[controller]
            at = self.base + float(beat)
            self.events.append(WrittenControl(at, straight, kind, value * unit, instrument, self.role))


class Theme(HeadBook):
    """A tune that is the same wherever it is met: each phrase follows from the seed and its chords alone."""

    def __init__(self, performance: Performance, seed: int):
        self.seed = seed
        super().__init__(performance)

    def phrase(self, name: tuple, start: float, stop: float, lead: str) -> list[Tone]:
        low, high = RANGES[lead]
        octaves = round(((low + high) - sum(_TUNE_RANGE)) / 24)
        key = (name, octaves)
        if key not in self.phrases:
            kept, self.performance.rng = self.performance.rng, dice(self.seed, f"phrase {name}")
            tones = self.write(start, stop, *_TUNE_RANGE)
            self.performance.rng = kept
            self.phrases[key] = [dataclasses.replace(tone, midi=tone.midi + 12 * octaves) for tone in tones]
        return self.phrases[key]


class Ensemble(Players):
    """Players of whom each has dice of their own, thrown anew for every section and every few bars: what one plays
    does not depend on who else does."""

    def __init__(self, sketch: Sketch, seed: int, memory: dict[str, Any]):
        self.seed = seed
        sketch.rng = dice(seed, "decisions")
        find_their_feel(sketch)
        super().__init__(sketch, Theme(sketch, seed), memory)

    def deciding(self, section: Section, name: str) -> None:
        self.performance.rng = dice(self.seed, f"section {self.performance.base + section.start_beat:.3f} {name}")

    def writing(self, section: Section, name: str, start: float | None) -> None:
        self.performance.rng = dice(self.seed, f"bars {self.performance.base + start:.3f} {name}")


def dice(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def in_choruses(sheet: LeadSheet) -> LeadSheet:
    """A looping sheet that is one head, as a band plays it: head and solos by turns, of 16 bars or so at the least."""
    if not sheet.loops or [section.role for section in sheet.sections] != ["head"]:
        return sheet
    section, turns = sheet.sections[0], max(1, round(16 / sheet.num_bars))
    beats = turns * sheet.num_beats
    sections = tuple(
        dataclasses.replace(section, role=role, start_beat=index * beats, beats=beats)
        for index, role in enumerate(_CHORUSES)
    )
    turns *= len(_CHORUSES)
    return dataclasses.replace(sheet, spans=sheet.spans * turns, sections=sections, metres=sheet.metres * turns)


def settled(written: list[WrittenNote], tempo: float) -> list[WrittenNote]:
    """The notes, of which none runs into its own repetition."""
    following: dict[tuple[str, int], WrittenNote] = {}
    kept = []
    for note in sorted(written, reverse=True):
        after = following.get((note.player, note.midi))
        following[note.player, note.midi] = note
        if after is not None:
            room = after.beat - note.beat + (min(0.0, after.delay_s) - 0.004) * tempo / 60.0
            if room < 0.02:
                continue
            note = note._replace(beats=min(note.beats, room))
        kept.append(note)
    return kept[::-1]
