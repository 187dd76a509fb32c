"""Chord players: piano, electric piano, organ, guitar, vibraphone and pad, each with the rhythms of its
style."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..music.chords import Chord
from ..music.lead_sheet import Section
from .bars import after_bars, bars_between
from .grooves import chosen
from .harmony import guide_tones, place_voicing, voicing_tones
from .performance import Performance, pick

# Rhythms of one bar: (beat, length) in beats; a beat at 3.5 (2.5 in a waltz) anticipates the next bar's
# chord.
SWING = {
    ((0.0, 1.2), (1.5, 0.6)): 3.0,  # Charleston
    ((0.0, 1.2), (1.5, 1.6)): 2.0,
    ((0.5, 0.5), (2.0, 1.3)): 1.2,
    ((0.0, 1.6), (2.0, 1.6)): 1.4,
    ((0.0, 1.0), (2.5, 1.2)): 1.6,
    ((1.5, 1.8),): 1.0,
    ((0.0, 0.5), (1.5, 0.5), (3.0, 0.8)): 1.2,
    ((0.5, 0.4), (1.5, 0.4), (2.5, 1.0)): 0.8,
    ((0.0, 2.6), (3.5, 0.5)): 1.0,
    ((1.0, 0.5), (3.0, 0.6)): 0.8,
    ((0.0, 3.4),): 1.0,
}
BUSY = {
    ((0.0, 0.4), (1.5, 0.4), (2.5, 0.4), (3.5, 0.5)): 1.5,
    ((0.0, 0.5), (1.0, 0.4), (2.5, 0.9)): 1.2,
    ((0.5, 0.4), (1.5, 0.4), (3.0, 0.4), (3.5, 0.5)): 1.0,
    ((0.0, 1.2), (1.5, 0.4), (2.5, 0.4)): 1.5,
}
SPARSE = {
    ((0.0, 3.6),): 2.5,
    ((0.0, 1.8), (2.0, 1.8)): 2.0,
    ((0.0, 2.6), (3.0, 0.9)): 1.2,
    ((0.5, 3.0),): 0.8,
    ((0.0, 1.4), (1.5, 2.2)): 1.5,
}
BOSSA = (  # two-bar patterns
    (((0.0, 1.3), (1.5, 1.3), (3.0, 0.8)), ((0.5, 1.3), (2.0, 1.3), (3.5, 0.5))),
    (((0.0, 0.8), (1.0, 0.4), (1.5, 1.3), (3.0, 0.5)), ((0.0, 1.3), (1.5, 0.9), (2.5, 0.9))),
    (((0.0, 1.4), (1.5, 0.9), (2.5, 1.2)), ((0.0, 1.4), (1.5, 0.9), (3.0, 0.8))),
)
WALTZ = {
    ((0.0, 1.4), (1.5, 1.2)): 2.0,
    ((0.0, 2.6),): 1.2,
    ((1.0, 0.7), (2.0, 0.7)): 1.2,
    ((0.0, 0.9), (1.0, 0.6), (2.0, 0.6)): 1.0,
    ((0.0, 1.8), (2.5, 0.5)): 1.0,
    ((0.0, 0.9), (1.5, 0.5), (2.0, 0.8)): 1.0,
}
TWO = {((0.0, 0.8), (1.5, 0.4)): 1.6, ((0.0, 1.6),): 1.2, ((0.5, 1.2),): 0.8, ((0.0, 0.5), (1.0, 0.6)): 1.0}
ONE = {((0.0, 0.8),): 1.0}
FOUR = ((0.0, 0.55), (1.0, 0.45), (2.0, 0.55), (3.0, 0.45))
BACKBEAT = ((1.0, 0.3), (3.0, 0.3))


@dataclass(frozen=True)
class Hands:
    """Where a chord player's hands lie and how hard they fall."""

    low: int
    high: int
    centre: float
    velocity: float
    kinds: tuple[str, ...]
    spread_s: float = 0.004  # seconds between the notes of one chord


HANDS = {
    "piano": Hands(50, 76, 62, 62, ("rootless", "full", "full", "shell"), 0.003),
    "electric_piano": Hands(50, 77, 63, 64, ("rootless", "full", "full"), 0.003),
    "organ": Hands(50, 76, 62, 66, ("full", "rootless"), 0.002),
    "guitar": Hands(50, 74, 61, 66, ("rootless", "full", "rooted"), 0.011),
    "vibraphone": Hands(55, 79, 66, 62, ("rootless", "shell", "full"), 0.003),
    "synth_pad": Hands(50, 76, 62, 58, ("full",), 0.006),
}


class Comper:
    """A chord player in a section.

    Args:
        manner: "comp" (the style's rhythms), "groove" (the performance's own), "busy", "sparse", "bossa", "waltz",
            "four" (a guitar's four to the bar), "backbeat", "pad" (held), "stabs" (first beat of a chord, short),
            "left" (a soloing pianist's left hand), "hold" (let ring to the end).

    Attributes:
        previous: the keys struck last, from which the next voicing moves as little as may be. kind: of voicing.
        last_pattern: the rhythm played last.
    """

    def __init__(self, performance: Performance, section: Section, instrument: str, manner: str):
        self.performance = performance
        self.section = section
        self.instrument = instrument
        self.manner = manner
        self.hands = HANDS[instrument]
        self.previous: tuple[int, ...] = ()
        alone = "bass" not in section.instruments
        kinds = ("rooted", "full") if alone else self.hands.kinds
        self.kind: str = kinds[int(self.rng.integers(len(kinds)))]
        self.bossa = BOSSA[int(self.rng.integers(len(BOSSA)))]
        self.last_pattern: tuple = ()

    @property
    def rng(self) -> np.random.Generator:
        return self.performance.rng

    def play(self, start: float | None = None, stop: float | None = None) -> None:
        """Write the section, or what lies between two beats of it."""
        section, sheet = self.section, self.performance.sheet
        start = section.start_beat if start is None else start
        stop = section.end_beat if stop is None else stop
        if self.manner in ("pad", "hold"):
            for first, last, chord in self.performance.harmony.cuts(start, stop):
                at = first
                while at < last - 1e-6:  # struck again every two bars, or a held piano chord has died away
                    until = min(last, after_bars(sheet, at, 2))
                    self._strike(at, (until - at) * 0.97, chord, -6)
                    at = until
            return
        for first, last, kind in self.performance.stops.stretches(start, stop):
            if kind == "hold":
                for at, end, chord in self.performance.harmony.cuts(first, last):
                    self._strike(at, end - at, chord, 0)
            if kind == "play" and self.manner == "groove":
                self._groove(first, last)
                continue
            for at, end, size in self.performance.cells(first, last) if kind == "play" else ():
                self._bar(at, end, size, bars_between(sheet, section.start_beat, at))

    def _bar(self, start: float, end: float, size: int, count: int) -> None:
        harmony = self.performance.harmony
        hits: dict[float, tuple[float, Chord]] = {}
        for offset, length in self._pattern(start, count, size):
            beat = start + offset
            if beat >= end:
                continue
            bar_end = beat + 0.5 >= end - 1e-6 and offset % 1
            ahead = bar_end and end < self.section.end_beat - 1e-6
            chord = harmony.at(end if ahead else beat)
            limit = end + 1.0 if ahead else harmony.end(beat)
            # A chord that changes on the next half beat is anticipated too, as pianists do.
            if not ahead and offset % 1 and limit - beat <= 0.5 + 1e-6 and limit < self.section.end_beat:
                chord, limit = harmony.at(limit), harmony.end(limit)
            hits[beat] = (min(length, max(0.35, limit - beat - 0.05)), chord)
        anticipated = {id(chord) for _, chord in hits.values()}
        for first, last, chord in harmony.cuts(start, end):  # every chord is heard once at the least
            told = any(first - 0.51 <= beat < last and struck == chord for beat, (_, struck) in hits.items())
            if not told and (last - first >= 1.0) and id(chord) not in anticipated:
                hits[first] = (min(1.0, (last - first) * 0.8), chord)
        for beat in sorted(hits):
            length, chord = hits[beat]
            self._strike(beat, length, chord, 5 if beat % 1 else 0)

    def _groove(self, start: float, end: float) -> None:
        """Rows of the performance's groove, four bars each; the chord of an anticipation is the coming one."""
        harmony, section = self.performance.harmony, self.section
        feel, sheet = self.performance.feel, self.performance.sheet
        while start < end - 1e-6:
            stop = min(end, after_bars(sheet, start, 4))
            row = chosen(feel.groove.comp, self.rng)
            hits: dict[float, tuple[float, Chord, str, bool]] = {}
            for beat, length, mark, straight in feel.strokes(row, sheet, start, stop):
                chord, change = harmony.at(beat), harmony.end(beat)
                early = change - beat <= max(0.5, feel.step) + 1e-6 and beat + length >= change - 1e-6
                if early and change < section.end_beat - 1e-6 and abs(beat - harmony.start(beat)) > 1e-6:
                    chord, change = harmony.at(change), harmony.end(change)
                hits[beat] = (max(0.2, min(length, change - beat) * 0.92), chord, mark, straight)
            for first, last, chord in harmony.cuts(start, stop):  # every chord is heard once at the least
                told = any(first - 0.51 <= beat < last and hit[1] == chord for beat, hit in hits.items())
                if not told and last - first >= 1.0:
                    hits[first] = (min(1.0, (last - first) * 0.8), chord, "x", False)
            for beat in sorted(hits):
                length, chord, mark, straight = hits[beat]
                accent = {"X": 8.0, "o": -14.0}.get(mark, 5.0 if beat % 1 else 0.0)
                self._strike(beat, length, chord, accent, mark, straight)
            start = stop

    def _pattern(self, start: float, count: int, size: int) -> tuple:
        """The rhythm of a cell of `size` beats."""
        manner = self.manner
        if manner == "bossa" and size == 4:
            return self.bossa[count % 2]
        if manner == "four":
            return tuple((beat, length) for beat, length in FOUR if beat < size)
        if manner == "backbeat":
            return BACKBEAT
        if manner == "stabs":
            return ((0.0, 0.5),)
        table: dict = {"busy": BUSY, "sparse": SPARSE, "left": SPARSE}.get(manner, SWING)
        if size < 3:
            table = TWO if size == 2 else ONE
        elif size == 3:
            table = WALTZ
        elif manner == "comp":
            hard = self.performance.intensity(self.section, start)
            if self.performance.chance(max(0.0, hard - 0.55) * 0.8):
                table = BUSY
            elif self.performance.chance(0.22):
                table = SPARSE
        if self.last_pattern in table and self.performance.chance(0.35):  # riff for a while
            return self.last_pattern
        self.last_pattern = pick(self.rng, table)
        return self.last_pattern

    def _strike(
        self, beat: float, beats: float, chord: Chord, accent: float, mark: str = "x", straight: bool = False
    ) -> None:
        if chord.root is None:
            return
        hands = self.hands
        if self.performance.chance(0.08):
            self.kind = hands.kinds[int(self.rng.integers(len(hands.kinds)))]
        kind = "shell" if self.manner == "left" and self.performance.chance(0.4) else self.kind
        if "bass" not in self.section.instruments:
            kind = "rooted"
        low, high, centre = (48, 67, 56.0) if self.manner == "left" else (hands.low, hands.high, hands.centre)
        keys = place_voicing(voicing_tones(chord, kind), low, high, self.previous, centre)
        self.previous = keys
        if mark == "8":  # of a montuno: the lowest of the hand in octaves, and what lies between them
            keys = (keys[0], keys[0] + 12)
        elif mark == "i" and len(keys) > 2:
            keys = keys[1:]
        velocity = hands.velocity + 30 * (self.performance.intensity(self.section, beat) - 0.5) + accent
        guides = guide_tones(chord)
        spread = hands.spread_s * self.performance.sheet.tempo / 60.0
        for order, key in enumerate(keys):
            loud = velocity + (3 if key % 12 in guides else 0) + (2 if order == len(keys) - 1 else 0)
            self.performance.add(self.instrument, beat + order * spread, beats, key, loud, straight, jitter=0.4)
        if "bass" not in self.section.instruments and chord.bass is not None and self.manner != "left":
            root = 36 + (chord.bass - 36) % 12
            self.performance.add(self.instrument, beat, beats, root, velocity - 4, straight)
