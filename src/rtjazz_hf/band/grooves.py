"""Grooves that are patterns: what drums, bass and chords play, pulse by pulse, and how a line over them is phrased.

A row has a character for each pulse of a cycle: two bars of eighths in 4/4, or twelve pulses, which are a bar of 12/8
or two bars of 6/8 or 3/4. The patterns are common property of their styles: son clave, cascara and tumbao; the surdo's
second beat, the tamborim's teleco-teco and the hat of the samba; the bembe's bell; the street beat of New Orleans with
its big four; la pompe. Kept to what a jazz drummer plays of them on a kit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..music.lead_sheet import LeadSheet
from ..music.metre import Metre
from .bars import swung

KICK, SIDE_STICK, SNARE, SLAP, SWIRL = 36, 37, 38, 39, 40  # keys of General MIDI's drums
LOW_TOM, MID_TOM, HIGH_TOM = 41, 45, 48
CLOSED_HAT, PEDAL_HAT, OPEN_HAT = 42, 44, 46
RIDE, BELL, RIDE_TWO, CRASH = 51, 53, 59, 49

_NEAR = 1e-6  # beats


class Line(NamedTuple):
    """What one part of the kit plays: `X` accented, `x` played, `o` soft, `?` now and then, `~` rolled, `.` not.

    `velocity` is that of an `x` where the band plays at its quietest."""

    drum: int
    velocity: float
    row: str


@dataclass(frozen=True)
class Groove:
    """What a style plays in a cycle.

    Attributes:
        drums: the drummer's patterns, the quiet ones (heads) first, those of solos last. Empty: no pattern of its own.
        bass: rows of `R` the bass note, `3 5 6 7 8` tones of the chord, `r` a dead note on the root, `/` damped.
        comp: rows of `X`, `x`, `o` (hard to light), `-` held, `.` silent; `i`, `8`: a montuno's inner voices, octaves.
        motifs: two-bar rhythms of a head, `x` with `-`.
        riff: what horns play behind a soloist; empty: long notes.
        step: quarter notes of a pulse. pace: pulses a minute between which it is so; outside, they are twice as long or
            half, as a samba is written in eighths of 4/4 or in sixteenths of 2/4. in_three: twelve pulses to a cycle.
        turns: half of all tunes have it the other way round: 2-3 clave for 3-2. anticipates: the bass plays a coming
            chord before its bar line, and holds it.
        lyrical: share of a soloist's phrases that sing. breath: how much a soloist rests, 1 as in swing.
    """

    drums: tuple[tuple[Line, ...], ...] = ()
    bass: tuple[str, ...] = ()
    comp: tuple[str, ...] = ()
    motifs: tuple[str, ...] = ()
    riff: str = ""
    step: float = 0.5
    pace: tuple[float, float] = (0.0, math.inf)
    in_three: bool = False
    turns: bool = False
    anticipates: bool = False
    lyrical: float = 0.25
    breath: float = 1.0


_MAMBO = Groove(
    drums=(
        (
            Line(CLOSED_HAT, 50, "X.xX.x.xX.x.Xx.x"),  # cascara, 3-2
            Line(SIDE_STICK, 56, "X..X..X...X.X..."),  # son clave
            Line(KICK, 46, "...x..?....x..x."),
            Line(PEDAL_HAT, 42, "..x...x...x...x."),
            Line(HIGH_TOM, 38, "......xx......xx"),
        ),
        (
            Line(BELL, 52, "X.xxX.xxX.xxX.xx"),  # the bell of the montuno
            Line(SIDE_STICK, 50, "..X.......X....."),
            Line(KICK, 48, "...X..x....X..x."),
            Line(PEDAL_HAT, 44, "..x...x...x...x."),
            Line(HIGH_TOM, 46, "......xX......xX"),
            Line(LOW_TOM, 44, "...?............"),
        ),
    ),
    bass=("...5..R....5..R.", "...R..R....5..R.", "...5..R....8..R."),
    comp=(".i.8.i.88.i8.i.8", ".8.i.8.i8.8i.8.i", ".i.8.i.8i.8i.8.8"),
    motifs=("x..x..x-..x-x---", "..xxx.x-..x.x---", ".xx.x-.xx-..x---",
            "x-.x-.x-.x.xx---", ".x.xx-x-..x-x-..", "xxx.x.x-..x.x---"),
    riff="x..x..x...x.x...",
    pace=(220, 640), turns=True, anticipates=True, lyrical=0.2, breath=1.1,
)  # fmt: skip
_SAMBA = Groove(
    drums=(
        (
            Line(CLOSED_HAT, 44, "XooxXooxXooxXoox"),  # ganza
            Line(SIDE_STICK, 52, "x.x.x.xX.x.x.xX."),  # teleco-teco
            Line(KICK, 44, "x..oX..ox..oX..o"),  # surdo: the second beat is the strong one
            Line(LOW_TOM, 44, "....X.......X..."),
            Line(PEDAL_HAT, 40, "..x...x...x...x."),
        ),
        (
            Line(RIDE, 48, "XoxxXoxxXoxxXoxx"),
            Line(SNARE, 36, "x.xoX.x.oX.x.xX."),
            Line(KICK, 50, "x..xX..xx..xX..x"),
            Line(LOW_TOM, 48, "....X.......X..?"),
            Line(PEDAL_HAT, 44, "..x...x...x...x."),
        ),
    ),
    bass=("R..r5..5R..r5..5", "R...5..5R...5..R", "R..R5..rR..R5..5"),
    comp=("x-.x-.xx-x-.x-.x", "x.x-.x.xx-.x-x-.", "x-x.x-.x.x-x.x-."),
    motifs=("x.x-.x.x-x.x-x--", ".x-x.x-.x-x.x---", "x-.x-.x.x-.x----",
            ".x.x.xx-.x.xx---", "x-x.x-.x-.x-x-..", "..x.xx.x.x.xx---"),
    riff="x-x.x-.x-.x-x-..",
    pace=(280, 640), turns=True, lyrical=0.35,
)  # fmt: skip
_AFRO = Groove(
    drums=(
        (
            Line(BELL, 48, "X.x.xX.x.x.x"),  # the bembe's bell
            Line(PEDAL_HAT, 42, "...x.....x.."),
            Line(SIDE_STICK, 46, "...x..?..x.?"),
            Line(KICK, 44, "X.....x..?.."),
            Line(HIGH_TOM, 38, "....xx....xx"),
        ),
        (
            Line(RIDE, 50, "X.x.xX.x.x.x"),
            Line(PEDAL_HAT, 46, "x..x..x..x.."),
            Line(SNARE, 34, "..?X.o..?X.o"),
            Line(KICK, 50, "X..?..x...x."),
            Line(HIGH_TOM, 44, "....xX....xX"),
            Line(LOW_TOM, 46, "?.......x..."),
        ),
    ),
    bass=("R...5.8...5.", "R..5..8..5..", "R.....5.8.5.", "R..R.5..8.5."),
    comp=("x-.x-.x-.x-.", "..x-.x..x-.x", "x--..x--..x-", "x-.x.x-.x-.."),
    motifs=("x..x.x--x-..", "x-xx-xx-----", ".x-x-xx-x---", "x--x-xx.x-x-", "xxx.x-x-----", "..xx-xx--..."),
    riff="x-.x-.x-----",
    in_three=True, lyrical=0.35,
)  # fmt: skip
_FUNK = Groove(
    drums=(
        (
            Line(CLOSED_HAT, 48, "XoxoXoxoXoxoXoxoXoxoXoxoXoxoXoxx"),
            Line(SNARE, 62, "....X..o.o..X.......X..o.o..X..o"),
            Line(KICK, 60, "X..x..x...x..?..X.x....x..x..x.."),
        ),
        (
            Line(RIDE, 50, "X.x.X.x.X.x.X.x.X.x.X.x.X.x.X.xx"),
            Line(SNARE, 66, "....X..o.o..X..o.o..X..o.ox.X..o"),
            Line(KICK, 64, "X.x...xx..x..?..X..x..x...x..x.."),
            Line(OPEN_HAT, 46, "..............x...............?."),
        ),
    ),
    bass=("R..R..5.7.8.....R..R......7.5.3.", "R.R...8...7.5...R.R...8...5.3..r", "R..r..R...5.7...R..R..r.8.7.5...",
          "R.....R.7.8.....R.....R...5.7..r"),
    comp=("....x..x............x..x...x....", "..x....x..x.......x....x..x..x..", "x..x......x..x..x..x............",
          "......X.......X.......X.......X."),
    motifs=("x.xx..x-x-..xx-.", "x..x..x-....x.x-", ".xx.x-..xx.x----", "x.x.xx.x-...x---", "..xxx.x-..xxx---"),
    riff="x..x..x.....x...",
    step=0.25, lyrical=0.1, breath=1.1,
)  # fmt: skip
_BOOGALOO = Groove(
    drums=(
        (
            Line(RIDE, 52, "X.xxX.xxX.xxX.xx"),
            Line(SNARE, 56, "..X..o.xo.X.X..."),
            Line(KICK, 54, "X..x..x.X..x...x"),
            Line(PEDAL_HAT, 44, "..x...x...x...x."),
        ),
        (
            Line(BELL, 50, "X.xxX.x.X.xxX.x."),
            Line(SNARE, 60, "..X..o.X?.X.X.o."),
            Line(KICK, 58, "X..x..x.X.xx...x"),
            Line(PEDAL_HAT, 46, "..x...x...x...x."),
        ),
    ),
    bass=("R..5.8..R..5.87.", "R..R.5.8R..R.7.5", "R..8..5.R..8..7."),
    comp=("x..x..x.....x...", "..x..x..x..x....", "x..x.....x.x....", ".x.x..x..x.x..x."),
    motifs=("x.xx..x-x-..x---", "x..x..x-....x.x-", ".xx.x-..xx.x----", "x.x.xx.x-...x---", "..xxx.x-..xxx---"),
    riff="x..x..x.....x...",
    lyrical=0.1, breath=1.1,
)  # fmt: skip
_SHUFFLE = Groove(
    drums=(
        (
            Line(CLOSED_HAT, 52, "xoXoxoXoxoXoxoXo"),
            Line(SNARE, 54, "..X...X...X...X."),
            Line(KICK, 42, "x.o.x.o.x.o.x.oo"),
        ),
        (
            Line(RIDE, 54, "xoXoxoXoxoXoxoXo"),
            Line(SNARE, 58, "ooXoooXoooXoooXo"),  # the double shuffle
            Line(KICK, 46, "x.x.x.x.x.x.x.x."),
            Line(PEDAL_HAT, 46, "..x...x...x...x."),
        ),
    ),
    bass=("R.R.3.3.5.5.6.6.8.8.6.6.5.5.3.3.", "R.R.5.5.6.6.5.5.R.R.5.5.6.6.5.3.", "R...3...5...6...8...6...5...3..."),
    comp=("x..x....x..x....", "..x...x...x...x.", "x-..x-..x-..x-..", ".x.x.x.x.x.x.x.x"),
    motifs=("x-xx-x------..xx", "..xxx-.x-...x---", "xx.xx-..xx.xx---", "x-.x-.x-.x------", "..x-x.x-....xxx-"),
    riff="x-.x-...x-.x-...",
    lyrical=0.15, breath=1.15,
)  # fmt: skip
_GYPSY = Groove(
    bass=("R...5...R...5...", "R...5...R...5.3.", "R...5...8...5..."),
    comp=("x-X.x-X.x-X.x-X.", "x-Xox-X.x-Xox-Xo"),  # la pompe: long, short; an upstroke before one
    motifs=("xxxxx-.xxx.xx---", ".xxx.xxxx-x-x---", "x-.xx-.xx-x-x---", "x.xxxxx-x-.xx-..", "..xxxxx.x-.xx---"),
    lyrical=0.1, breath=0.8,
)  # fmt: skip
_SECOND_LINE = Groove(
    drums=(
        (
            Line(SNARE, 46, "XooXooXoooXoXo~~"),  # the street beat, rolled into one
            Line(KICK, 56, "x...x.o.x...x.X."),  # the big four: the fourth beat of the second bar
            Line(PEDAL_HAT, 42, "..x...x...x...x."),
        ),
        (
            Line(SNARE, 50, "XooXo~XooxXoXoX~"),
            Line(KICK, 60, "x..x..x.x..xx.X."),
            Line(PEDAL_HAT, 46, "..x...x...x...x."),
            Line(OPEN_HAT, 48, "..............X."),
        ),
    ),
    bass=("R..5..8.R..5..8.", "R...5...R...5.35", "R..5..8.R...5.3."),
    comp=("x..x..x...x.x...", ".x.x.x.x.x.x.x.x", "x..x..x.x..x..x."),
    motifs=("x..x..x-..x.x---", "x-xxx-..x-x-x---", "..xxx-.xx-..x---", "xx.x.xx-..xx.x--", "x-.xx-x-x-.x----"),
    riff="x..x..x...x.x-..",
    pace=(260, 640), lyrical=0.15,
)  # fmt: skip
_FAST_WALTZ = Groove(
    drums=(
        (
            Line(RIDE, 50, "X.x.x.X.xxx."),
            Line(PEDAL_HAT, 46, "..x.....x..."),
            Line(KICK, 36, "x.....x....."),
            Line(SNARE, 28, ".....?...?.?"),
        ),
        (
            Line(RIDE, 54, "X..x.xX..x.."),  # two for three
            Line(PEDAL_HAT, 48, "..x.x...x.x."),
            Line(KICK, 40, "x..?..x....?"),
            Line(SNARE, 36, "..?..x.?.x.?"),
        ),
    ),
    bass=("R.....5.....", "R.....R...5.", "R..5..8..5..", "R...5.8.5.3."),
    comp=("x..x-.......", "x-----..x-x-", "..x-..x..x-.", "x..x..x..x--"),
    motifs=("x-----x-x---", "x-x-x-x-----", ".xx-x-x-----", "x..x-.x-----", "x---x-x-x---", "..x-x-xx----"),
    riff="x-----x-----",
    in_three=True, lyrical=0.3,
)  # fmt: skip
_EVEN_EIGHTHS = Groove(
    drums=(
        (
            Line(RIDE, 40, "x?.x?.x?.x?.x?x."),
            Line(PEDAL_HAT, 32, "....x.......?..."),
            Line(KICK, 30, "x.....?........?"),
            Line(SNARE, 22, "...?..?...?..?.."),
        ),
        (
            Line(RIDE, 48, "X.xX.xX.xX.xX.x."),  # threes over the bar line
            Line(BELL, 34, "......?.....?..."),
            Line(PEDAL_HAT, 38, "..x...x...x...x."),
            Line(KICK, 36, "x..?..x....x..?."),
            Line(SNARE, 28, "..?.x..?.?..x.?."),
            Line(LOW_TOM, 30, ".......?......?."),
        ),
    ),
    bass=("R..5............", "R.......R.....5.", "R..R..8.....5...", "R.....5...8....."),
    comp=("x---------------", "x-----x---------", "..x-------x-----", "x---....x---x---", "x--x--x---......"),
    motifs=("x---x-x---------", "x-------..x-x---", ".x--x---x-------", "x-x-x-----x-----", "..x---x-x-------"),
    lyrical=0.7, breath=1.4,
)  # fmt: skip

# By genre; of several the first whose tempo, quarter notes a minute up to which it is played, suits.
GROOVES: dict[str, tuple[tuple[float, Groove], ...]] = {
    "shuffle": ((math.inf, _SHUFFLE),),
    "samba": ((math.inf, _SAMBA),),
    "mambo": ((math.inf, _MAMBO),),
    "afro": ((math.inf, _AFRO),),
    "funk": ((140.0, _FUNK), (math.inf, _BOOGALOO)),
    "gypsy": ((math.inf, _GYPSY),),
    "second_line": ((math.inf, _SECOND_LINE),),
    "fast_waltz": ((math.inf, _FAST_WALTZ),),
    "even_eighths": ((math.inf, _EVEN_EIGHTHS),),
}


class Pulse(NamedTuple):
    """A pulse: its beat in the sheet, its place counted on through bars, whether it stands so in any swing."""

    beat: float
    place: int
    straight: bool


@dataclass(frozen=True)
class Feel:
    """A groove as it is played in a performance: quarter notes of a pulse, and whether its halves change places."""

    groove: Groove
    step: float
    turned: bool = False

    def mark(self, row: str, pulse: Pulse) -> str:
        """What a row has at a pulse."""
        return row[(pulse.place + len(row) // 2 * self.turned) % len(row)]

    def pulses(self, sheet: LeadSheet, start: float, end: float) -> Iterator[Pulse]:
        """The pulses between two beats. Bars that no pattern divides have its halves by turns, cut to their groups."""
        half = 6 if self.groove.in_three else 8
        at = start
        while at < end - _NEAR:
            bar, _ = sheet.bar_at(at + _NEAR)
            line, metre = sheet.bar_start(bar), sheet.metre_of(bar)
            step = self._step(metre)
            count = round(metre.beats / step)
            whole = count % half == 0 or half % count == 0
            groups = [metre.beats] if whole else [group * 4.0 / metre.unit for group in metre.groups]
            at = line + metre.beats
            for index, length in enumerate(groups):
                first = bar * count if whole else (bar * len(groups) + index) * half
                for number in range(math.ceil(length / step - _NEAR)):
                    beat, straight = self._beat(sheet, line, number, step)
                    if start - _NEAR <= beat < min(end, at) - _NEAR:
                        yield Pulse(beat, first + number, straight)
                line += length

    def _step(self, metre: Metre) -> float:
        """Of twelve pulses, those of threes are written as such; in other metres they are triplets."""
        in_threes = metre.unit >= 8 or metre.beats == 3
        return 1 / 3 if self.groove.in_three and not in_threes else self.step

    @staticmethod
    def _beat(sheet: LeadSheet, line: float, number: int, step: float) -> tuple[float, bool]:
        """Eighths are swung with the sheet; sixteenths swing by themselves, as far as the sheet's eighths would."""
        if step >= 0.5:
            return line + number * step, False
        if step < 0.3:
            return line + 2 * step * swung(number / 2, sheet.offbeat), True
        return line + number * step, True

    def in_triplets(self, sheet: LeadSheet) -> bool:
        """Whether its twelve pulses are triplets of a metre of quarters."""
        return self.groove.in_three and self._step(sheet.metre_of(0)) < 0.5

    def motifs(self, beats_per_bar: float) -> tuple[tuple[tuple[float, float], ...], ...]:
        """The rhythms of a head over two bars, as (onset, length) in beats."""
        found = []
        scale = 0.5 * self.step / self.groove.step
        if self.groove.in_three and beats_per_bar not in (3, 6):
            scale = 1 / 3
        for row in self.groove.motifs:
            turned = row[len(row) // 2 :] + row[: len(row) // 2] if self.turned else row
            tones = [(place, 1 + _held(turned, place)) for place, mark in enumerate(turned) if mark == "x"]
            copies = max(1, math.ceil(2 * beats_per_bar / (len(row) * scale) - _NEAR))
            found.append(
                tuple(
                    ((place + copy * len(row)) * scale, length * scale)
                    for copy in range(copies)
                    for place, length in tones
                )
            )
        return tuple(found)

    def strokes(self, row: str, sheet: LeadSheet, start: float, end: float) -> list[tuple[float, float, str, bool]]:
        """What a row of chords strikes between two beats: beat, length in beats, mark, whether it is not swung."""
        found: list[tuple[float, float, str, bool]] = []
        for pulse in self.pulses(sheet, start, end):
            mark = self.mark(row, pulse)
            if mark == "-" and found:
                beat, _, struck, straight = found[-1]
                found[-1] = (beat, pulse.beat + self.step - beat, struck, straight)
            elif mark not in ".-/":
                found.append((pulse.beat, self.step, mark, pulse.straight))
        return found


def _held(row: str, place: int) -> int:
    rest = row[place + 1 :]
    return len(rest) - len(rest.lstrip("-"))


def feel_of(sheet: LeadSheet, rng: np.random.Generator) -> Feel | None:
    """How a performance of a sheet grooves; None where its genre or its metre has no pattern."""
    if sheet.genre not in GROOVES:
        return None
    groove = next(groove for most, groove in GROOVES[sheet.genre] if sheet.tempo <= most)
    metre = sheet.metre_of(0)
    in_threes = metre.is_compound or metre.beats == 3
    if in_threes != groove.in_three and (in_threes or sheet.genre == "fast_waltz"):
        return None
    step = groove.step
    while sheet.tempo / step < groove.pace[0]:
        step /= 2
    while sheet.tempo / step > groove.pace[1]:
        step *= 2
    return Feel(groove, step, groove.turns and bool(rng.random() < 0.5))


def chosen(rows: tuple, rng: np.random.Generator):
    """One of several rows."""
    return rows[int(rng.integers(len(rows)))]
