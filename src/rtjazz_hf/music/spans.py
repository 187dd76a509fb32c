"""A chord and how long, and how, it sounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .chords import Chord

MIN_SPAN_BEATS = 0.01
KINDS = ("play", "hold", "break", "rest")


@dataclass(frozen=True)
class ChordSpan:
    """A chord and how many beats (quarter notes) it sounds.

    `kind` is "play"; "hold" for a chord that is struck once and held; "break" where the band stops and the lead goes
    on alone; "rest" where nobody plays.
    """

    chord: Chord
    beats: float
    kind: str = "play"

    def __post_init__(self) -> None:
        if not isinstance(self.chord, Chord):
            raise ValueError(f"a chord span needs a Chord, not {self.chord!r}: use Chord.parse('Dm7')")
        if not (math.isfinite(self.beats) and self.beats >= MIN_SPAN_BEATS):
            raise ValueError(f"a chord of {self.beats!r} beats: expected {MIN_SPAN_BEATS} beats or more")
        if self.kind not in KINDS:
            raise ValueError(f"a chord span of kind {self.kind!r}: choose from {', '.join(KINDS)}")
