"""A soloist who leans to a player: of a few phrases that could come next, the one most like theirs is played."""

from __future__ import annotations

import math

import numpy as np

from ..music.lead_sheet import Section
from .bars import notated_in
from .harmony import chord_scale, guide_tones, strong_tones
from .melody import Soloist, Tone
from .performance import Performance
from .phrases import BEATS, LENGTHS, PLACES, WIDEST, PhraseMemory

_OWN, _REMEMBERED = 2, 4  # phrases in the band's own manner, and in the player's, of which one is chosen


class LeaningSoloist(Soloist):
    """Improvised lines that lean to a player's intervals, rhythms and places in the bar.

    Range, chord tones on what is long or strong, and the scale of the chord elsewhere are as of every soloist. The
    player's own manner is a walk: the next length, and the next key of those that the chord allows, by their shares.
    """

    def __init__(self, performance: Performance, lead: str, phrases: PhraseMemory):
        super().__init__(performance, lead)
        self.phrases = phrases

    def phrase(self, section: Section, at: float, hard: float) -> list[Tone]:
        pitch, mask, found = self.pitch, self.mask, []
        self._beats = super().phrase_beats()  # one for all: of a short phrase there is less to compare
        for index in range(_OWN + _REMEMBERED):
            self.pitch, self.mask = pitch, mask
            tones = super().phrase(section, at, hard) if index < _OWN else self._remembered(section, at)
            if tones:
                found.append((self._unlike(tones), index, tones, self.pitch, self.mask))
        if not found:
            self.pitch, self.mask = pitch, mask
            return []
        _, _, tones, self.pitch, self.mask = min(found, key=lambda each: each[:2])
        return tones

    def phrase_beats(self) -> float:
        return self._beats

    def _unlike(self, tones: list[Tone]) -> float:
        sheet = self.performance.sheet
        notes = [(notated_in(sheet, t.beat) if t.straight else t.beat, t.midi) for t in tones]
        return self.phrases.distance(PhraseMemory.of_lines([(sheet, notes)]))

    def _remembered(self, section: Section, at: float) -> list[Tone]:
        """A phrase in the player's own manner."""
        harmony, tones = self.performance.harmony, []
        stop = min(at + self.phrase_beats(), section.end_beat)
        while at < stop - 0.2:
            chord = harmony.at(at)
            if chord.root is None:
                break
            length = self._length(at, stop)
            changes = abs(at - harmony.start(at)) < 1e-6
            if changes and self.lead != "bass":
                pool = guide_tones(chord) + strong_tones(chord)
            else:
                pool = strong_tones(chord) if length >= 1.0 or at % 2 < 1e-6 else chord_scale(chord)
            self.pitch = key = self._key(pool)
            room = max(0.25, harmony.end(at) - at)
            tones.append(Tone(at, min(length, stop - at, room), key, 3.0 if at % 1 > 1e-6 else 0.0))
            at += length
        return tones

    def _length(self, at: float, stop: float) -> float:
        """Beats to the next note: by how often the player has it, and is found where it leads."""
        shares, sheet = self.phrases.shares, self.performance.sheet
        weights = shares["lengths"].copy()
        for index, length in enumerate(LENGTHS):
            lands = at + length
            part = lands - math.floor(lands + 1e-6)
            place = next((i for i, each in enumerate(PLACES) if abs(each - part) < 1e-3), None)
            beat = min(int(sheet.bar_at(lands + 1e-6)[1]), BEATS - 1)
            weights[index] *= 0.0 if place is None else shares["places"][place] * shares["beats"][beat]
        if not weights.any():
            return max(0.25, math.ceil(at + 1e-6) - at)
        return LENGTHS[int(self.rng.choice(len(LENGTHS), p=weights / weights.sum()))]

    def _key(self, pool: tuple[int, ...]) -> int:
        """A key of the pool, by how often the player goes there from where the line is."""
        here = round(self.pitch)
        keys = [
            key for key in range(max(self.low, here - WIDEST), min(self.high, here + WIDEST) + 1) if key % 12 in pool
        ]
        if not keys:
            return min(max(here, self.low), self.high)
        weights = np.array([self.phrases.shares["intervals"][key - here + WIDEST] for key in keys])
        return keys[int(self.rng.choice(len(keys), p=weights / weights.sum()))]


__all__ = ["LeaningSoloist"]
