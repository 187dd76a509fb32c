"""The bars of a sheet, in any metre and through changes of it, as players count them; and where they do not play."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator

from ..music.features import long_rests
from ..music.lead_sheet import LeadSheet
from ..music.metre import Metre
from ..music.vocabulary import KITS

_NEAR = 1e-6  # beats
_STRUCK = 0.3  # beats from the start of a held chord within which it is struck, spread keys included


def groups_of(metre: Metre) -> tuple[float, ...]:
    """How players count a bar, in quarter notes: 5/4 as 3 + 2, 6/4 as 3 + 3, 12/8 in dotted quarters, by its groups."""
    return tuple(group * 4.0 / metre.unit for group in metre.groups)


def line_before(sheet: LeadSheet, beat: float) -> float:
    """The bar line at or before a beat, counted on through loops."""
    return sheet.bar_start(sheet.bar_at(beat + _NEAR)[0])


def line_after(sheet: LeadSheet, beat: float, bars: int = 1) -> float:
    """The next bar line after a beat, or a later one."""
    return sheet.bar_start(sheet.bar_at(beat + _NEAR)[0] + bars)


def after_bars(sheet: LeadSheet, beat: float, bars: int) -> float:
    """A beat as far behind its bar line, so many bars later."""
    if not sheet.metres:
        return beat + bars * sheet.beats_per_bar
    return line_after(sheet, beat, bars) + beat - line_before(sheet, beat)


def bars_between(sheet: LeadSheet, start: float, beat: float) -> int:
    """Whole bars from one beat to another."""
    if not sheet.metres:
        return math.floor((beat - start) / sheet.beats_per_bar + _NEAR)
    return sheet.bar_at(beat + _NEAR)[0] - sheet.bar_at(start + _NEAR)[0]


def is_line(sheet: LeadSheet, beat: float) -> bool:
    return abs(beat - line_before(sheet, beat)) < 2 * _NEAR


def cells(sheet: LeadSheet, start: float, end: float) -> Iterator[tuple[float, float, int]]:
    """What players count in, between two beats: bars of up to four beats, the groups of longer ones.

    As (start, end, beats): of a cell that `end` cuts short, `beats` is the whole length, to the nearest beat.
    """
    at = start
    while at < end - _NEAR:
        bar, _ = sheet.bar_at(at + _NEAR)
        edge = sheet.bar_start(bar)
        for group in groups_of(sheet.metre_of(bar)):
            edge += group
            if edge > at + _NEAR:
                break
        stop = min(end, edge)
        yield at, stop, max(1, round(edge - at))
        at = stop


def swung(beat: float, offbeat: float) -> float:
    """Where a notated beat falls, in beats, when the middle of a beat falls at `offbeat`."""
    whole = math.floor(beat + 1e-9)
    part = beat - whole
    return whole + (part * 2 * offbeat if part <= 0.5 else offbeat + (part - 0.5) * 2 * (1 - offbeat))


def swung_in(sheet: LeadSheet, beat: float) -> float:
    """Where a notated beat of a sheet falls. Beats count from the bar line; bars of eighths are played as written."""
    if not sheet.metres and float(sheet.beats_per_bar).is_integer():
        return swung(beat, sheet.offbeat)
    bar, _ = sheet.bar_at(beat + 1e-9)
    line = sheet.bar_start(bar)
    return beat if sheet.metre_of(bar).unit >= 8 else line + swung(beat - line, sheet.offbeat)


def notated_in(sheet: LeadSheet, beat: float) -> float:
    """The notated beat that falls on a beat: `swung_in` undone."""
    line = 0.0
    if sheet.metres or not float(sheet.beats_per_bar).is_integer():
        bar, _ = sheet.bar_at(beat + 1e-9)
        line = sheet.bar_start(bar)
        if sheet.metre_of(bar).unit >= 8:
            return beat
    whole = line + math.floor(beat - line + 1e-9)
    part, offbeat = beat - whole, sheet.offbeat
    return whole + (part / (2 * offbeat) if part <= offbeat else 0.5 + (part - offbeat) / (2 * (1 - offbeat)))


class Stops:
    """Where a sheet has the band rest, hold or leave the lead alone; beats are those of one pass."""

    def __init__(self, sheet: LeadSheet):
        self.sections = sheet.sections
        self.edges, self.kinds = [0.0], []
        for span, long in zip(sheet.spans, long_rests(sheet), strict=True):
            kind = "drums" if long else span.kind
            if self.kinds and kind == self.kinds[-1] and kind != "hold":
                self.edges[-1] += span.beats
            else:
                self.kinds.append(kind)
                self.edges.append(self.edges[-1] + span.beats)
        self.any = any(kind != "play" for kind in self.kinds)

    def _index(self, beat: float) -> int:
        return max(0, min(bisect.bisect_right(self.edges, beat + _NEAR) - 1, len(self.kinds) - 1))

    def stretches(self, start: float, end: float) -> Iterator[tuple[float, float, str]]:
        """What lies between two beats, in pieces of one kind: of `spans.KINDS`, or "drums", a rest of all but these."""
        if not self.any:
            yield start, end, "play"
            return
        for index in range(self._index(start), len(self.kinds)):
            first, last = max(start, self.edges[index]), min(end, self.edges[index + 1])
            if first >= end:
                return
            if last > first + _NEAR:
                yield first, last, self.kinds[index]

    def beats(self, player: str, beat: float, beats: float) -> float | None:
        """How long a note that a player would play there lasts; None where it is not played."""
        if not self.any:
            return beats
        index = self._index(beat)
        leads = any(each.lead == player for each in self.sections if each.start_beat <= beat < each.end_beat)
        if not self._plays(index, player, leads):
            return None
        if self.kinds[index] == "hold" and not leads:
            if beat > self.edges[index] + _STRUCK:
                return None
            return beats if player in KITS else self.edges[index + 1] - beat
        for later in range(index + 1, len(self.kinds)):
            if self.edges[later] >= beat + beats:
                break
            if not self._plays(later, player, leads):
                return self.edges[later] - beat
        return beats

    def _plays(self, index: int, player: str, leads: bool) -> bool:
        kind = self.kinds[index]
        return kind in ("play", "hold") or (kind == "break" and leads) or (kind == "drums" and player in KITS)
