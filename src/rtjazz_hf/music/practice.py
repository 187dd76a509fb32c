"""A chart made into something to practise: another key, all keys, a few of its bars, players who rest by the clock."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .key_finding import estimate_key
from .spans import ChordSpan
from .unfolding import MAX_BARS
from .vocabulary import (
    SHARP_KEYS,
    canonical_instrument,
    check_tempo,
    note_to_pitch_class,
    tonic,
    transpose_key,
)

if TYPE_CHECKING:
    from .chart import ParsedChart
    from .lead_sheet import LeadSheet

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


@dataclasses.dataclass(frozen=True)
class Rest:
    """A player who rests by the clock: plays so long, rests so long, from the top of the tune on.

    Attributes:
        player: one of `INSTRUMENTS`. plays, rests: how many choruses, or bars. by: "choruses" or "bars".
    """

    player: str
    plays: int
    rests: int = 1
    by: str = "choruses"

    def __str__(self) -> str:
        if self.by == "bars":
            return f"{self.player}:{self.plays}+{self.rests}"
        return f"{self.player}/{self.plays + self.rests}"

    def cycle(self, chorus: int) -> int:
        """Bars until it comes round, of a chorus of so many bars."""
        return (self.plays + self.rests) * (chorus if self.by == "choruses" else 1)

    def is_out(self, bar: int, chorus: int) -> bool:
        """Whether the player rests in a bar, counted from 0."""
        unit = chorus if self.by == "choruses" else 1
        return (bar // unit) % (self.plays + self.rests) >= self.plays


_ORDINALS = {"other": 2, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8}
_MOST_RESTS = 64  # choruses or bars


def rests_of(text: str) -> tuple[Rest, ...]:
    """Read `"piano/2"` (out every second chorus), `"drums:4+4"` (four bars on, four off), `"piano every third chorus"`;
    several with commas between.

    Raises:
        ValueError: it is not written so, or there is no such instrument.
    """
    found = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = re.fullmatch(r"([A-Za-z _-]+?)\s*(?:/\s*(\d{1,2})|:\s*(\d{1,2})\s*\+\s*(\d{1,2}))", part)
        words = re.fullmatch(
            r"(?i)([a-z _-]+?)\s+(?:out\s+|rests\s+)?every\s+(?:(other|second|third|fourth|fifth|sixth|seventh|eighth)"
            r"|(\d{1,2})(?:nd|rd|th)?)\s+choruse?s?",
            part,
        )
        if match is None and words is None:
            raise ValueError(
                f"rests {part!r}: write piano/2 (out every second chorus) or drums:4+4 (four bars on, four off)"
            )
        if words is not None:
            every = int(words.group(3)) if words.group(3) else _ORDINALS[words.group(2).lower()]
            player, plays, off, by = words.group(1), every - 1, 1, "choruses"
        elif match.group(2):
            player, plays, off, by = match.group(1), int(match.group(2)) - 1, 1, "choruses"
        else:
            player, plays, off, by = match.group(1), int(match.group(3)), int(match.group(4)), "bars"
        if not (plays >= 1 and off >= 1 and plays + off <= _MOST_RESTS):
            raise ValueError(f"rests {part!r}: choose 1 or more of each, at most {_MOST_RESTS} together")
        found.append(Rest(canonical_instrument(player), plays, off, by))
    return tuple(found)


def choruses_round(rests: Sequence[Rest], chorus: int) -> int:
    """Choruses of so many bars after which all rests have come round."""
    return math.lcm(*(rest.cycle(chorus) for rest in rests), chorus) // chorus


def with_rests(sheet: LeadSheet, rests: Sequence[Rest], chorus: int) -> LeadSheet:
    """The sheet whose players rest as they are asked to, section by section; who leads and rests leaves the lead open.

    A looping sheet is played as often as it takes for all to come round, where that is not longer than a chart may be;
    else everybody begins anew with each pass.

    Args:
        chorus: bars of a chorus.
    """
    if not rests:
        return sheet
    bars = sheet.num_bars
    turns = math.lcm(*(rest.cycle(chorus) for rest in rests), bars) // bars
    if sheet.loops and 1 < turns <= MAX_BARS // bars:
        sections = tuple(
            dataclasses.replace(section, start_beat=section.start_beat + turn * sheet.num_beats)
            for turn in range(turns)
            for section in sheet.sections
        )
        sheet = dataclasses.replace(sheet, spans=sheet.spans * turns, sections=sections, metres=sheet.metres * turns)
    out = [frozenset(rest.player for rest in rests if rest.is_out(bar, chorus)) for bar in range(sheet.num_bars)]
    edges = [sheet.bar_start(bar) for bar in range(1, len(out)) if out[bar] != out[bar - 1]]
    sections = []
    for section in sheet.sections:
        inside = [edge for edge in edges if section.start_beat + 1e-6 < edge < section.end_beat - 1e-6]
        cuts = [section.start_beat, *inside, section.end_beat]
        for start, end in itertools.pairwise(cuts):
            gone = out[min(sheet.bar_at(start + 1e-6)[0], len(out) - 1)]
            part = dataclasses.replace(
                section, start_beat=start, beats=end - start, lead=None if section.lead in gone else section.lead,
                instruments=tuple(name for name in section.instruments if name not in gone),
            )  # fmt: skip
            sections.append(part)
    return dataclasses.replace(sheet, sections=tuple(sections))


def lines_above(chart: str, wishes: Mapping[str, str | None]) -> str:
    """A chart's text with lines above it that ask for something to practise, in place of such lines of its own.

    Args:
        wishes: of "only bars", "transpose", "all keys", "rests", "swing"; what is empty stays as the chart has it.
    """
    wishes = {name: value.strip() for name, value in wishes.items() if value and value.strip()}
    if not wishes:
        return chart
    own = re.compile(rf"(?im)^[ \t]*(?:{'|'.join(wishes)})[ \t]*[:=].*\n?")
    return "\n".join([*(f"{name}: {value}" for name, value in wishes.items()), own.sub("", chart)])


def practised(chart: ParsedChart, wishes: dict[str, str]) -> ParsedChart:
    """The chart as lines above it ask: bars of it, another key, all keys, in this order.

    Args:
        wishes: "only_bars" such as "9-16", "transpose" such as "+2" or "Bb", "all_keys" of `ORDERS`.

    Raises:
        ValueError: what cannot be.
    """
    if bars := wishes.get("only_bars"):
        match = re.fullmatch(r"(\d{1,3})\s*(?:[-–]\s*(\d{1,3}))?", bars.strip())
        if match is None:
            raise ValueError(f"only bars {bars!r}: write it as 9-16")
        chart = cut(chart, int(match.group(1)), int(match.group(2) or match.group(1)))
    if by := wishes.get("transpose"):
        chart = transposed(chart, semitones_of(by, chart))
    if order := wishes.get("all_keys"):
        chart = in_all_keys(chart, "fourths" if order.lower() in ("yes", "on", "true") else order.lower())
    return chart
