"""Who plays what in each section of a lead sheet: the decisions of a band, and the parts they lead to."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..music.lead_sheet import LeadSheet, Section
from ..music.vocabulary import CHORD_INSTRUMENTS, KITS
from .bars import line_before
from .bass import Bassist
from .comping import Comper
from .drums import Drummer
from .grooves import feel_of
from .leaning import LeaningSoloist
from .melody import RANGES, HeadBook, Soloist, Tone, background, play_tones, second_voice
from .performance import Harmony, Performance


def find_their_feel(performance: Performance) -> None:
    """How tight the players are, how far behind the beat each of them sits, and the groove that all are in."""
    rng = performance.rng
    performance.tightness_s = float(rng.uniform(0.003, 0.01))
    performance.lag_s = {"bass": float(rng.uniform(-0.008, 0.004)), "drums": 0.0, "brushes": 0.0}
    laid_back = float(rng.uniform(0.0, 0.02))
    for name in RANGES:
        if name != "bass":
            performance.lag_s[name] = laid_back * float(rng.uniform(0.5, 1.0))
    performance.feel = feel_of(performance.sheet, rng)


# How often a solo section has a walking bass in grooves where basses walk too.
_WALKING = {"shuffle": 0.5, "gypsy": 0.3, "second_line": 0.2}


def split_ending(sheet: LeadSheet, harmony: Harmony) -> list[Section]:
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


class Players:
    """Decisions that last a whole performance, and the parts they lead to.

    Args:
        head: the tune.
        memory: what each player goes on from in the next stretch; None where every section starts anew, but for the
            soloists, who keep their place.
    """

    def __init__(self, performance: Performance, head: HeadBook, memory: dict[str, Any] | None = None):
        self.performance = performance
        rng, sheet = performance.rng, performance.sheet
        self.head = head
        self.memory = memory
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

    @staticmethod
    def fills(section: Section) -> bool:
        """Whether a section ends in a fill, which lands in the next one."""
        return any(name in KITS for name in section.instruments) and section.beats > 12

    def deciding(self, section: Section, name: str) -> None:
        """Called before a player decides how to play a section."""

    def writing(self, section: Section, name: str, start: float | None) -> None:
        """Called before a player writes, from `start` on."""

    def play(
        self, section: Section, filled: bool, start: float | None = None, stop: float | None = None
    ) -> None:
        """Write what everybody plays in a section, or between two beats of it; `filled` as of the section before."""
        held = section.role == "ending" and section.end_beat >= self.performance.sheet.num_beats - 1e-6
        drum_break = section.lead in KITS
        for name in section.instruments:
            self.deciding(section, name)
            if name in KITS:
                self._drums(section, name, held, filled, start, stop)
            elif name == "bass" and section.lead != "bass":
                style = "hold" if held else self._bass_style(section, drum_break)
                self.performance.role = "bass"
                self.writing(section, name, start)
                if self.memory is None:
                    Bassist(self.performance, section).play(style)
                else:
                    bassist = Bassist(self.performance, section, *self.memory.get("bass", ()))
                    bassist.play(style, start, stop)
                    self.memory["bass"] = [bassist.last]
            elif name in CHORD_INSTRUMENTS and (manner := self._manner(section, name, held, drum_break)):
                self._comp(section, name, manner, start, stop)
        if section.lead is not None and section.lead in RANGES:
            self._lead(section, section.lead, held, start, stop)

    def _drums(
        self, section: Section, name: str, held: bool, filled: bool, start: float | None, stop: float | None
    ) -> None:
        style = "hold" if held else "solo" if name == section.lead else self._drum_style()
        self.performance.role = "drums"
        drummer = Drummer(self.performance, section, name)
        if start is not None:  # patterns of whole bars, whatever is kept of the first
            start = max(section.start_beat, line_before(self.performance.sheet, start))
        self.writing(section, name, start)
        drummer.play(style, filled and section.start_beat > 0, start, stop)

    def _drum_style(self) -> str:
        sheet, feel = self.performance.sheet, self.performance.feel
        if feel is not None and feel.groove.drums:
            return "groove"
        if self.performance.in_three:
            return "waltz"
        if self.shuffle:
            return "shuffle"
        return sheet.genre if sheet.genre in ("bossa", "ballad", "modal") else "swing"

    def _bass_style(self, section: Section, drum_break: bool) -> str:
        sheet = self.performance.sheet
        if self.performance.feel is not None and not drum_break:
            often = _WALKING.get(sheet.genre, 0.0) if section.role == "solo" else 0.0
            return "walk" if often and self.performance.chance(often) else "groove"
        if self.performance.in_three:
            return "waltz"
        if sheet.genre == "bossa":
            return "bossa"
        if sheet.genre == "ballad" or drum_break:
            return "walk" if section.role == "solo" and self.performance.chance(0.25) else "two"
        quiet = section.role in ("head", "head_out", "intro", "ending")
        return "two" if quiet and self.two_feel_head and sheet.tempo < 210 else "walk"

    def _manner(self, section: Section, name: str, held: bool, drum_break: bool) -> str | None:
        """How a chord player plays; None: not at all."""
        sheet = self.performance.sheet
        chordal = [player for player in section.instruments if player in CHORD_INSTRUMENTS]
        others = [player for player in chordal if player != section.lead]
        if name == section.lead:
            if others or name == "synth_pad":
                return None
            return "hold" if held else "left"
        if held:
            return "hold"
        if name == "synth_pad":
            return "pad"
        if drum_break:
            return "stabs"
        if name == others[0] and self.performance.feel is not None:
            return "groove"
        if name != others[0]:
            return "four" if name == "guitar" and self.four else "sparse"
        if sheet.genre == "bossa" and sheet.beats_per_bar == 4:
            return "bossa"
        if (
            sheet.genre == "ballad"
            or (name == "organ" and self.performance.chance(0.4))
            or name == "vibraphone"
        ):
            return "sparse"
        return "four" if name == "guitar" and self.four else "comp"

    def _comp(
        self, section: Section, name: str, manner: str, start: float | None, stop: float | None
    ) -> None:
        self.performance.role = "comp"
        comper = Comper(self.performance, section, name, manner)
        known = (self.memory or {}).get(f"{name} comping")
        if known is not None:
            comper.previous = tuple(known["keys"])
            comper.kind = known.get("kind", comper.kind)
            comper.last_pattern = tuple(tuple(hit) for hit in known.get("rhythm", ()))
        self.writing(section, name, start)
        comper.play(start, stop)
        if self.memory is not None:
            self.memory[f"{name} comping"] = {
                "keys": list(comper.previous),
                "kind": comper.kind,
                "rhythm": [list(hit) for hit in comper.last_pattern],
            }

    def _lead(
        self, section: Section, lead: str, held: bool, start: float | None, stop: float | None
    ) -> None:
        performance = self.performance
        melodic = section.role in ("head", "head_out", "ending")
        self.writing(section, f"{lead} lead", start)
        if held:
            tones = background(performance, section, lead)[:1]
            tones = [dataclasses.replace(tone, beats=section.beats * 0.95, accent=0.0) for tone in tones]
        elif melodic:
            tones = self.head.tones(section, lead, start, stop)
        else:
            tones = self._solo(section, lead, start, stop)
        performance.role = "bass" if lead == "bass" else "lead"
        play_tones(performance, section, lead, tones)
        performance.role = "second"
        for name in section.instruments:
            if name in RANGES and name not in CHORD_INSTRUMENTS and name not in (lead, "bass"):
                self.writing(section, f"{name} second", start)
                if melodic or held:
                    voice = second_voice(performance, tones, name, self.unison and not held)
                else:
                    voice = self._behind(section, name, start, stop)
                play_tones(performance, section, name, voice)

    def _solo(self, section: Section, lead: str, start: float | None, stop: float | None) -> list[Tone]:
        if self.memory is None:
            return self.soloists.setdefault(lead, self._soloist(lead)).tones(section)
        soloist = self._soloist(lead)
        known = self.memory.get(f"{lead} solo", {})
        goes_on = known.get("section") == section.start_beat
        if "pitch" in known:
            soloist.pitch = min(max(known["pitch"], soloist.low), soloist.high)
            soloist.mask = known.get("mask", [])
        if goes_on:
            soloist.next = known["next"]
        tones = soloist.tones(section, start, stop, goes_on)
        self.memory[f"{lead} solo"] = {
            "pitch": soloist.pitch, "mask": soloist.mask, "next": soloist.next, "section": section.start_beat
        }  # fmt: skip
        return tones

    def _soloist(self, lead: str) -> Soloist:
        phrases = self.performance.phrases
        if phrases is None or lead == "bass":  # whose lines are no melody's
            return Soloist(self.performance, lead)
        return LeaningSoloist(self.performance, lead, phrases)

    def _behind(self, section: Section, name: str, start: float | None, stop: float | None) -> list[Tone]:
        """The line of a horn behind the soloist."""
        if self.memory is None:
            return background(self.performance, section, name)
        pitch = self.memory.get(f"{name} behind")
        tones = background(self.performance, section, name, start, stop, pitch)
        if tones:
            self.memory[f"{name} behind"] = tones[-1].midi
        return tones
