"""Somebody's own melody in a performance: when it is played, and what it replaces."""

from __future__ import annotations

import bisect
import math

from ..music.chords import Chord
from ..music.lead_sheet import LeadSheet
from ..music.score_features import NOTE_ROLES
from .bars import is_line, line_after
from .score import Score, ScoreControl, ScoreNote

_NEAR = 1e-6
_OVER = 0.13  # of a bar by which a last note may hang over without the bar being the melody's
_PICKUP = 0.25  # beats before the first bar line from which on a note is a pick-up, and not only early


class Tune:
    """A melody, in beats of the sheet it is played over, as written.

    It is played from the sheet's first bar line, once each pass: where it is longer, it goes on through as many passes
    as it needs before it starts again; where it is shorter, the band's own part takes over after its last bar, and the
    melody comes back where a head begins (again) in the form. What it leaves silent in its own bars stays silent.

    Attributes:
        roles: those it has notes for. replaced: those that the band does not play while it lasts: these, and no second
            voice to a lead that is not the band's.
    """

    def __init__(self, melody: Score, sheet: LeadSheet):
        if not melody.notes:
            raise ValueError("the melody has no notes: give a Score, or a file, that has some")
        found = {note.role for note in melody.notes}
        self.roles = tuple(role for role in NOTE_ROLES if role in found)
        self.replaced = found | ({"second"} if "lead" in found else set())
        self._notes = [note for note in melody.notes if note.role in found]
        self._starts = [note.start for note in self._notes]
        self._controls = [control for control in melody.controls if control.role in found]
        end = max(note.start + note.beats for note in self._notes)
        self._beats = max(sheet.bar_start(1), _line_near(sheet, end))
        first = self._starts[0]
        bar = sheet.metre_of(0).beats
        self._pickup = math.ceil(-first / bar - _NEAR) * bar if first < -_PICKUP else 0
        self._sheet = sheet
        self._loops = sheet.loops
        self._pass = sheet.num_beats * math.ceil(self._beats / sheet.num_beats - _NEAR)
        form = sheet.bar_start(form_bars(sheet))
        self._form = form * math.ceil(self._beats / form - _NEAR)

    def beat_at(self, beat: float, role: str, start: float = 0.0) -> float | None:
        """The melody's beat at `beat` of the sheet, in a section of `role`; None where the band has its own part.

        `start`: where the melody was first begun.
        """
        since = beat - start
        if -self._pickup - _NEAR <= since < self._beats - _NEAR:
            return since
        if since < 0:
            return None
        for period in (self._pass,) if self._loops else ():
            if (place := self._place(beat, period)) is not None:
                return place
        return self._place(beat, self._form) if role in ("head", "head_out") else None

    def _place(self, beat: float, period: float) -> float | None:
        place = beat % period
        if place > period - _NEAR:
            place = 0.0
        if place < self._beats - _NEAR:
            return place
        return place - period if place - period >= -self._pickup - _NEAR else None

    def entry(self, beat: float) -> float:
        """The beat at which a melody that is asked for at `beat` has its first bar line, which may have been before."""
        start = math.floor(beat / self._form + _NEAR) * self._form
        if beat - start < self._beats:
            return start
        return beat if is_line(self._sheet, beat) else line_after(self._sheet, beat)

    def notes(self, start: float, end: float) -> list[ScoreNote]:
        """The melody's notes that begin between two of its beats."""
        if abs(start) < _NEAR and not self._pickup:
            start = -_PICKUP  # played a little early
        first, last = (bisect.bisect_left(self._starts, beat - _NEAR) for beat in (start, end))
        return self._notes[first:last]

    def controls(self, start: float, end: float) -> list[ScoreControl]:
        return [control for control in self._controls if start - _NEAR <= control.start < end - _NEAR]


def _line_near(sheet: LeadSheet, end: float) -> float:
    """The bar line that a melody ends at whose last note ends at `end`: the one before where it hangs over a little."""
    bar, into = sheet.bar_at(end)
    return sheet.bar_start(bar if into <= _OVER * sheet.metre_of(bar).beats + _NEAR else bar + 1)


def form_bars(sheet: LeadSheet) -> int:
    """Bars of the form that the chords of a sheet repeat; all of them where they repeat nothing.

    The last chords of a take that ends are not looked at: they are its cadence.
    """
    count = sheet.num_bars
    bars: list[list[tuple[float, Chord | None]]] = [[(sheet.metre_of(bar).beats, None)] for bar in range(count)]
    at = 0.0
    for span in sheet.spans:
        index = min(count - 1, sheet.bar_at(at + _NEAR)[0])
        bars[index].append((round(at - sheet.bar_start(index), 3), span.chord))
        at += span.beats
    if sheet.sections and sheet.sections[-1].role == "ending" and not sheet.loops:
        count = max(1, sheet.bar_at(sheet.sections[-1].start_beat + _NEAR)[0] - 1)
    for length in range(1, count + 1):
        if (sheet.loops and sheet.num_bars % length) or length * 2 > count:
            continue
        if all(bars[index] == bars[index - length] for index in range(length, count)):
            return length
    return sheet.num_bars
