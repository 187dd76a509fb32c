"""The band: who plays what in each section of a lead sheet."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..music.lead_sheet import LeadSheet, Section
from ..music.vocabulary import CHORD_INSTRUMENTS, KITS
from .bass import play_bass
from .comping import play_chords
from .drums import play_drums
from .melody import RANGES, HeadBook, Soloist, background, play_tones, second_voice
from .performance import Harmony, Note, Performance, Take

MAX_LEAD_IN_S = 0.3


def compose(lead_sheet: LeadSheet, rng: np.random.Generator) -> Take:
    """Play a lead sheet once, from its first beat to its last.

    Everybody whom a section names plays in it and nobody else; the bass has the chord's bass note where the
    chord changes; the take begins with 0 to 0.3 s of silence, which the returned sheet's `beat_offset`
    accounts for.

    Args:
        lead_sheet: any sheet; its own `beat_offset` is replaced.
        rng: the one source of chance: the same sheet and state give the same take.
    """
    lead_in = float(rng.uniform(0.0, MAX_LEAD_IN_S))
    sheet = dataclasses.replace(lead_sheet, beat_offset=-lead_in * lead_sheet.tempo / 60.0)
    performance = Performance(sheet, Harmony.of(sheet), rng)
    performance.tightness_s = float(rng.uniform(0.003, 0.01))
    performance.lag_s = {"bass": float(rng.uniform(-0.008, 0.004)), "drums": 0.0, "brushes": 0.0}
    laid_back = float(rng.uniform(0.0, 0.02))
    for name in RANGES:
        if name != "bass":
            performance.lag_s[name] = laid_back * float(rng.uniform(0.5, 1.0))
    band = _Band(performance)
    for section in _split_ending(sheet, performance.harmony):
        band.play(section)
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


def _split_ending(sheet: LeadSheet, harmony: Harmony) -> list[Section]:
    """The sections; of an ending, the last chord becomes a section of its own, which is held."""
    sections: list[Section] = []
    for section in sheet.sections:
        last = harmony.start(section.end_beat - 0.01)
        if section.role == "ending" and section.start_beat + 1e-6 < last:
            first = dataclasses.replace(section, beats=last - section.start_beat)
            sections += [first, dataclasses.replace(section, start_beat=last, beats=section.end_beat - last)]
        else:
            sections.append(section)
    return sections


class _Band:
    """Decisions that last a whole take, and the parts they lead to."""

    def __init__(self, performance: Performance):
        self.performance = performance
        rng, sheet = performance.rng, performance.sheet
        self.head = HeadBook(performance)
        self.soloists: dict[str, Soloist] = {}
        self.unison = bool(rng.random() < 0.4)
        self.two_feel_head = bool(
            rng.random() < {"swing": 0.5, "cool": 0.4, "blues": 0.2}.get(sheet.genre, 0.1)
        )
        self.shuffle = sheet.genre == "blues" and sheet.swing > 0.5 and rng.random() < 0.4
        self.four = (
            sheet.genre in ("swing", "blues", "rhythm_changes")
            and 90 < sheet.tempo < 230
            and rng.random() < 0.5
        )
        self.filled = False

    def play(self, section: Section) -> None:
        held = section.role == "ending" and section.end_beat >= self.performance.sheet.num_beats - 1e-6
        lead = section.lead
        drum_break = lead in KITS
        for name in section.instruments:
            if name in KITS:
                self.performance.role = "drums"
                style = "hold" if held else "solo" if drum_break and name == lead else self._drum_style()
                play_drums(
                    self.performance, section, name, style, crash=self.filled and section.start_beat > 0
                )
            elif name == "bass" and lead != "bass":
                self.performance.role = "bass"
                play_bass(
                    self.performance, section, "hold" if held else self._bass_style(section, drum_break)
                )
            elif name in CHORD_INSTRUMENTS:
                self.performance.role = "comp"
                self._comp(section, name, held, drum_break)
        self.filled = any(name in KITS for name in section.instruments) and section.beats > 12
        if lead is not None and lead in RANGES:
            self._lead(section, lead, held)

    def _drum_style(self) -> str:
        sheet = self.performance.sheet
        if sheet.beats_per_bar == 3:
            return "waltz"
        if self.shuffle:
            return "shuffle"
        return sheet.genre if sheet.genre in ("bossa", "ballad", "modal") else "swing"

    def _bass_style(self, section: Section, drum_break: bool) -> str:
        sheet = self.performance.sheet
        if sheet.beats_per_bar == 3:
            return "waltz"
        if sheet.genre == "bossa":
            return "bossa"
        if sheet.genre == "ballad" or drum_break:
            return "walk" if section.role == "solo" and self.performance.chance(0.25) else "two"
        quiet = section.role in ("head", "head_out", "intro", "ending")
        return "two" if quiet and self.two_feel_head and sheet.tempo < 210 else "walk"

    def _comp(self, section: Section, name: str, held: bool, drum_break: bool) -> None:
        sheet = self.performance.sheet
        chordal = [player for player in section.instruments if player in CHORD_INSTRUMENTS]
        others = [player for player in chordal if player != section.lead]
        if name == section.lead:
            if others or name == "synth_pad":
                return
            manner = "hold" if held else "left"
        elif held:
            manner = "hold"
        elif name == "synth_pad":
            manner = "pad"
        elif drum_break:
            manner = "stabs"
        elif name != others[0]:
            manner = "four" if name == "guitar" and self.four else "sparse"
        elif sheet.genre == "bossa" and sheet.beats_per_bar == 4:
            manner = "bossa"
        elif (
            sheet.genre == "ballad"
            or (name == "organ" and self.performance.chance(0.4))
            or name == "vibraphone"
        ):
            manner = "sparse"
        elif name == "guitar" and self.four:
            manner = "four"
        else:
            manner = "comp"
        play_chords(self.performance, section, name, manner)

    def _lead(self, section: Section, lead: str, held: bool) -> None:
        performance = self.performance
        melodic = section.role in ("head", "head_out", "ending")
        if held:
            tones = background(performance, section, lead)[:1]
            tones = [dataclasses.replace(tone, beats=section.beats * 0.95, accent=0.0) for tone in tones]
        elif melodic:
            tones = self.head.tones(section, lead)
        else:
            soloist = self.soloists.setdefault(lead, Soloist(performance, lead))
            tones = soloist.tones(section)
        performance.role = "bass" if lead == "bass" else "lead"
        play_tones(performance, section, lead, tones)
        performance.role = "second"
        for name in section.instruments:
            if name in RANGES and name not in CHORD_INSTRUMENTS and name not in (lead, "bass"):
                if melodic or held:
                    voice = second_voice(performance, tones, name, self.unison and not held)
                else:
                    voice = background(performance, section, name)
                play_tones(performance, section, name, voice)
