"""A chart made into something to practise: another key, all keys, a few of its bars."""

from __future__ import annotations

import dataclasses
import re

from ..music.chart import ParsedChart
from ..music.key_finding import estimate_key
from ..music.spans import ChordSpan
from ..music.unfolding import MAX_BARS
from ..music.vocabulary import SHARP_KEYS, check_tempo, note_to_pitch_class, tonic, transpose_key

RAMP_STEP = 5.0  # beats per minute
ORDERS = {"fourths": 5, "semitones": 1}


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A tempo that goes from one to another, a step every so many choruses.

    Attributes:
        first, last: beats per minute. every: choruses at one tempo. step: beats per minute, up or down.
    """

    first: float
    last: float
    every: int = 1
    step: float = RAMP_STEP

    @classmethod
    def parse(cls, text: str) -> Ramp:
        """Read `"120:180/4"`, or `"120:180/4+2"` with steps of 2.

        Raises:
            ValueError: it is not written so, or a tempo is out of range.
        """
        number = r"(\d+(?:\.\d+)?)"
        match = re.fullmatch(rf"{number}:{number}(?:/(\d{{1,3}}))?(?:\+{number})?", text.strip())
        if match is None or match.group(3) == "0" or (match.group(4) is not None and float(match.group(4)) == 0):
            raise ValueError(f"ramp {text!r}: write it as 120:180/4 (by {RAMP_STEP:g} every 4 choruses) or 120:180/4+2")
        first, last, every, step = match.groups()
        return cls(check_tempo(first), check_tempo(last), int(every or 1), float(step or RAMP_STEP))

    def tempo(self, choruses: int) -> float:
        """The tempo of a chorus, counted from 0."""
        moved = max(0, choruses // self.every) * self.step
        return min(self.first + moved, self.last) if self.last >= self.first else max(self.first - moved, self.last)


def semitones_of(wish: str, chart: ParsedChart) -> int:
    """How far "+2", "-3" or a key such as "Bb" is from where the chart stands.

    Raises:
        ValueError: it is neither.
    """
    text = wish.strip()
    if re.fullmatch(r"[+-]?\d{1,2}", text) and abs(int(text)) <= 12:
        return int(text)
    if re.fullmatch(r"[A-G](?:#|b|♯|♭)?m?(?:in|aj|inor|ajor)?", text):
        here = tonic(chart.key or estimate_key(chart.spans))
        return (note_to_pitch_class(re.sub(r"m.*$", "", text)) - here + 6) % 12 - 6
    raise ValueError(f"transpose {wish!r}: give semitones from -12 to +12, or a key such as Bb")


def transposed(chart: ParsedChart, semitones: int) -> ParsedChart:
    """The chart `semitones` higher, written out."""
    if semitones % 12 == 0:
        return chart
    key = transpose_key(chart.key or estimate_key(chart.spans), semitones)
    sharps = key in SHARP_KEYS
    bars = tuple(
        tuple(
            ChordSpan(span.chord.transpose(semitones, sharps=sharps), span.beats, span.kind) for span in bar
        )
        for bar in chart.bars
    )
    return dataclasses.replace(chart, bars=bars, key=key, written=(), order=())


def in_all_keys(chart: ParsedChart, order: str = "fourths") -> ParsedChart:
    """A chorus in each of the twelve keys, up by fourths or by semitones.

    Raises:
        ValueError: an unknown order, or more bars than a chart may have.
    """
    if order not in ORDERS:
        raise ValueError(f"all keys by {order!r}: choose from {', '.join(ORDERS)}")
    if 12 * len(chart.bars) > MAX_BARS:
        raise ValueError(
            f"{len(chart.bars)} bars in twelve keys are {12 * len(chart.bars)}: at most {MAX_BARS} are played; "
            f"take some of the bars"
        )
    choruses = [transposed(chart, number * ORDERS[order]) for number in range(12)]
    bars = tuple(bar for chorus in choruses for bar in chorus.bars)
    return dataclasses.replace(chart, bars=bars, metres=chart.metres * 12, written=(), order=())


def cut(chart: ParsedChart, first: int, last: int) -> ParsedChart:
    """Bars `first` to `last` of the chart as it is played, counted from 1.

    Raises:
        ValueError: there are no such bars.
    """
    if not 1 <= first <= last <= len(chart.bars):
        raise ValueError(f"bars {first}-{last}: the chart has bars 1 to {len(chart.bars)} as it is played")
    return dataclasses.replace(
        chart, bars=chart.bars[first - 1 : last], metres=chart.metres[first - 1 : last], written=(), order=()
    )
