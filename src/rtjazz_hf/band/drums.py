"""The drummer: sticks and brushes, swing, bossa, waltz, grooves, fills, fours and endings."""

from __future__ import annotations

import numpy as np

from ..music.lead_sheet import Section
from .bars import bars_between, is_line
from .grooves import (
    BELL,
    CLOSED_HAT,
    CRASH,
    HIGH_TOM,
    KICK,
    LOW_TOM,
    MID_TOM,
    OPEN_HAT,
    PEDAL_HAT,
    RIDE,
    RIDE_TWO,
    SIDE_STICK,
    SLAP,
    SNARE,
    SWIRL,
)
from .performance import Performance

# Skip notes of the ride beyond the four beats; weights change from bar to bar, as no drummer repeats himself.
_RIDES = (
    ((1.5, 3.5), 0.5),
    ((3.5,), 0.16),
    ((1.5,), 0.14),
    ((0.5, 1.5, 3.5), 0.07),
    ((1.5, 2.5, 3.5), 0.07),
    ((), 0.06),
)
_CLAVE = ((0.0, 1.5, 3.0), (1.0, 2.5))
_CLAVE_OTHER = ((0.0, 1.5, 3.0), (0.5, 2.0, 3.5))
# How much louder than an `x` the marks of a groove are struck, and what brushes play of its sticks.
_TOUCHES = {"X": 13.0, "x": 0.0, "o": -19.0, "?": -9.0, "~": -14.0}
_BRUSHED = {CLOSED_HAT: SNARE, RIDE: SNARE, BELL: RIDE, SNARE: SLAP, OPEN_HAT: SLAP}


class Drummer:
    """The player of a kit, "drums" or "brushes", in a section."""

    def __init__(self, performance: Performance, section: Section, kit: str):
        self.performance = performance
        self.section = section
        self.kit = kit
        self.end = section.end_beat  # where what is being written ends
        self.bar = performance.sheet.beats_per_bar  # beats of what is being written: a bar, or a group of a long one
        self.clave = _CLAVE if self.rng.random() < 0.5 else _CLAVE_OTHER
        self.ride = RIDE if self.rng.random() < 0.75 else RIDE_TWO
        self.hats_lead = section.role in ("head", "intro", "head_out") and self.rng.random() < 0.2

    @property
    def rng(self) -> np.random.Generator:
        return self.performance.rng

    def play(self, style: str, crash: bool, start: float | None = None, stop: float | None = None) -> None:
        """Write the section, or the bars between two beats of it.

        Args:
            style: "swing", "shuffle", "modal", "bossa", "waltz", "ballad", "groove" (the performance's own), "solo" (a
            drum break), "hold" (the last chord). crash: whether the section before ended in a fill that lands here.
        """
        section, sheet = self.section, self.performance.sheet
        if style == "hold":
            self._ending()
            return
        writers = {"bossa": self._bossa, "waltz": self._waltz, "ballad": self._ballad, "solo": self._solo_bar}
        write = writers.get(style, self._brushes if self.kit == "brushes" else self._swing)
        if style == "groove":
            write = self._groove
        if self.kit == "brushes" and style == "waltz":
            write = self._brushes
        start = section.start_beat if start is None else start
        stop = section.end_beat if stop is None else stop
        bars = max(1, bars_between(sheet, section.start_beat, section.end_beat))
        for at, end, size in self.performance.cells(start, stop):
            count = bars_between(sheet, section.start_beat, at)
            self.bar = size
            hard = self.performance.intensity(section, at)
            last = count == bars - 1
            phrase_end = count % 8 == 7 or (count % 4 == 3 and self.rng.random() < 0.3)
            fill = (
                style != "solo"
                and bars > 2
                and (last or (phrase_end and self.rng.random() < 0.4 + 0.4 * hard))
            )
            fill = fill and is_line(sheet, end)  # in the last group of a long bar
            if write in (self._swing, self._waltz):  # a group of three is a bar of a waltz
                write = self._waltz if self.bar == 3 else self._swing
            self.end = end
            write(at, count, hard, fill)
            if style == "modal":
                self._triplet_comping(at, hard)
            elif style == "shuffle" and self.kit == "drums":
                for beat in self._backbeats():
                    self._hit(at + beat, SNARE, 46 + 30 * hard)
            if crash and at < section.start_beat + 1e-6:
                self._hit(at, CRASH if self.kit == "drums" else self.ride, 52 + 34 * hard, 2.0)
                self._hit(at, KICK, 42 + 24 * hard)

    def _backbeats(self) -> tuple[int, ...]:
        return (1, 3) if self.bar >= 4 else (1,) if self.bar > 1 else ()

    def _hit(
        self, beat: float, drum: int, velocity: float, beats: float = 0.4, straight: bool = False
    ) -> None:
        if beat < self.section.end_beat - 1e-6:
            self.performance.add(self.kit, beat, beats, drum, velocity, straight=straight, jitter=0.7)

    def _swing(self, at: float, count: int, hard: float, fill: bool) -> None:
        stop = self.bar - (1 if fill and hard < 0.6 else 2 if fill else 0)
        draw, skips = self.rng.random(), ()
        for option, weight in _RIDES:
            skips = option
            draw -= weight
            if draw <= 0:
                break
        if self.performance.sheet.tempo > 240 and self.rng.random() < 0.5:
            skips = skips[:1]
        cymbal = CLOSED_HAT if self.hats_lead else self.ride
        for beat in range(self.bar):
            if beat < stop or not fill:
                accent = 9 if beat in (1, 3) else 0
                self._hit(at + beat, cymbal, 54 + 30 * hard + accent + 5 * self.rng.standard_normal(), 0.9)
        for beat in skips:
            if beat < self.bar and (beat < stop or not fill):
                self._hit(at + beat, cymbal, 40 + 26 * hard + 5 * self.rng.standard_normal(), 0.5)
        for beat in self._backbeats():
            self._hit(at + beat, PEDAL_HAT, 50 + 22 * hard)
        for beat in range(self.bar):  # feathered: felt more than heard
            self._hit(at + beat, KICK, 22 + 12 * hard + (4 if beat == 0 else 0))
        self._comping(at, stop, hard)
        if fill:
            self._fill(at + stop, at + self.bar, hard)

    def _comping(self, at: float, stop: float, hard: float) -> None:
        for beat in (0.5, 1.5, 2.5, 3.5, 2.0, 3.0):
            if beat < stop and self.rng.random() < (0.1 + 0.22 * hard) * (1.0 if beat % 1 else 0.4):
                self._hit(at + beat, SNARE, 26 + 34 * hard * self.rng.random() + 10 * hard)
        if self.rng.random() < 0.12 + 0.4 * hard:
            beat = float(self.rng.choice([1.5, 2.5, 3.5]))
            if beat < stop:
                self._hit(at + beat, KICK, 40 + 34 * hard)
                if self.rng.random() < 0.2 * hard:
                    self._hit(at + beat, CRASH, 44 + 26 * hard, 1.5)

    def _triplet_comping(self, at: float, hard: float) -> None:
        """Rolling triplets between snare, tom and kick, the modal drummer's undertow."""
        for beat in range(self.bar):
            for third in (1, 2):
                if self.rng.random() < 0.08 + 0.2 * hard:
                    drum = [SNARE, SNARE, KICK, HIGH_TOM, LOW_TOM][int(self.rng.integers(5))]
                    self._hit(at + beat + third / 3, drum, 28 + 30 * hard, straight=True)

    def _fill(self, start: float, stop: float, hard: float) -> None:
        thirds = 3 if self.performance.sheet.swing > 0.3 else 4
        drums = [SNARE, HIGH_TOM, MID_TOM, LOW_TOM, KICK]
        place, steps = 0, round((stop - start) * thirds)
        for step in range(steps):
            if self.rng.random() < 0.3:
                place = min(place + 1, len(drums) - 1) if self.rng.random() < 0.7 else 0
            if self.rng.random() < 0.5 + 0.4 * hard:
                swell = 40 + 40 * hard + 12 * step / max(1, steps)
                self._hit(
                    start + step / thirds,
                    drums[place],
                    swell + (8 if step % thirds == 0 else 0),
                    straight=True,
                )

    def _brushes(self, at: float, count: int, hard: float, fill: bool) -> None:
        for beat in range(self.bar):
            accent = beat in (1, 3) if self.bar in (2, 4) else beat > 0
            if beat % 2 == 0 or self.bar == 3:
                self._hit(at + beat, SWIRL, 46 + 26 * hard, 1.8)
            self._hit(at + beat, SNARE, 34 + 30 * hard + (14 if accent else 0))
            if self.rng.random() < (0.65 if accent else 0.12):
                self._hit(at + beat + 0.5, SNARE, 28 + 24 * hard)
            if accent:
                self._hit(at + beat, PEDAL_HAT, 42 + 22 * hard)
            self._hit(at + beat, KICK, 22 + 10 * hard)
        if self.rng.random() < 0.25 + 0.3 * hard and self.bar > 2:
            self._hit(at + float(self.rng.choice([1.5, 2.5])), SLAP, 30 + 34 * hard)
        if self.rng.random() < 0.3:
            for beat in range(self.bar):
                self._hit(at + beat, self.ride, 34 + 20 * hard, 0.9)
        if fill:
            for step in range(3):
                self._hit(at + self.bar - 1 + step / 3, SLAP, 40 + 26 * hard + 5 * step, straight=True)

    def _ballad(self, at: float, count: int, hard: float, fill: bool) -> None:
        if self.kit == "brushes":
            self._brushes(at, count, hard * 0.8, fill)
            return
        for beat in range(self.bar):
            self._hit(at + beat, self.ride, 38 + 24 * hard + (6 if beat in (1, 3) else 0), 0.9)
            if beat in (1, 3):
                self._hit(at + beat, PEDAL_HAT, 40 + 18 * hard)
                if self.rng.random() < 0.5:
                    self._hit(at + beat + 0.5, self.ride, 30 + 20 * hard)
        self._hit(at, KICK, 30 + 12 * hard)
        if self.rng.random() < 0.3 and self.bar > 3:
            self._hit(at + 3, SIDE_STICK, 34 + 22 * hard)
        if fill:
            for step in range(3):
                self._hit(at + self.bar - 1 + step / 3, MID_TOM, 32 + 20 * hard, straight=True)

    def _bossa(self, at: float, count: int, hard: float, fill: bool) -> None:
        brushes = self.kit == "brushes"
        eighths = 2 * self.bar
        for step in range(eighths):
            beat = at + step / 2
            drum = SNARE if brushes else CLOSED_HAT
            loud = 36 + 22 * hard + (9 if step % 2 == 0 else 0) + (4 if step % 4 == 2 else 0)
            if fill and step >= eighths - 3:
                continue
            self._hit(beat, drum, loud + 3 * self.rng.standard_normal())
            if brushes and step % 4 == 0:
                self._hit(beat, SWIRL, 44 + 20 * hard, 1.8)
        for beat in self.clave[count % 2]:
            if beat < self.bar:
                self._hit(at + beat, SIDE_STICK, 50 + 26 * hard)
        for beat, loud in ((0.0, 46), (1.5, 36), (2.0, 46), (3.5, 36)):
            if beat < self.bar:
                self._hit(at + beat, KICK, loud - 8 + 16 * hard)
        for beat in self._backbeats():
            self._hit(at + beat, PEDAL_HAT, 38 + 16 * hard)
        if fill:
            for step in range(3):
                self._hit(at + self.bar - 1.5 + step / 2, [SNARE, HIGH_TOM, LOW_TOM][step], 46 + 30 * hard)

    def _groove(self, at: float, count: int, hard: float, fill: bool) -> None:
        """A cell of the performance's pattern: the quiet one in heads, the other where a solo has warmed up."""
        feel, sheet = self.performance.feel, self.performance.sheet
        open_up = self.section.role in ("solo", "trading", "head_out") and hard > 0.45
        lines = feel.groove.drums[-1 if open_up else 0]
        stop = self.end - (0 if not fill else 1 if hard < 0.6 or self.end - at < 3 else 2)
        for pulse in feel.pulses(sheet, at, self.end):
            if pulse.beat >= stop - 1e-6:
                if self.rng.random() < 0.55 + 0.3 * hard:
                    drum = (SNARE, SNARE, HIGH_TOM, MID_TOM, LOW_TOM)[int(self.rng.integers(5))]
                    swell = 44 + 36 * hard + 10 * (pulse.beat - stop) / max(1e-6, self.end - stop)
                    self._hit(pulse.beat, drum, swell, straight=pulse.straight)
                continue
            for drum, velocity, row in lines:
                mark = feel.mark(row, pulse)
                if mark == "." or (mark == "?" and self.rng.random() > 0.2 + 0.35 * hard):
                    continue
                if self.kit == "brushes":
                    drum = _BRUSHED.get(drum, drum)
                loud = velocity + 26 * hard + _TOUCHES[mark] + 3 * self.rng.standard_normal()
                for stroke in range(2 if mark == "~" else 1):
                    beat = pulse.beat + stroke * feel.step / 2
                    self._hit(beat, drum, loud - 6 * stroke, straight=pulse.straight or stroke > 0)
            if self.kit == "brushes" and abs(pulse.beat - at) < 1e-6:
                self._hit(at, SWIRL, 42 + 20 * hard, 1.8)

    def _waltz(self, at: float, count: int, hard: float, fill: bool) -> None:
        stop = 2 if fill else 3
        for beat in range(stop):
            self._hit(at + beat, self.ride, 52 + 28 * hard + (7 if beat == 1 else 0), 0.9)
        for beat, odds in ((0.5, 0.12), (1.5, 0.75), (2.5, 0.3)):
            if beat < stop and self.rng.random() < odds:
                self._hit(at + beat, self.ride, 38 + 26 * hard)
        self._hit(at + 1, PEDAL_HAT, 48 + 20 * hard)
        if self.rng.random() < 0.5:
            self._hit(at + 2, PEDAL_HAT, 42 + 18 * hard)
        self._hit(at, KICK, 34 + 16 * hard)
        for beat in (0.5, 1.0, 1.5, 2.0, 2.5):
            if beat < stop and self.rng.random() < 0.08 + 0.22 * hard:
                self._hit(at + beat, SNARE if self.rng.random() < 0.7 else KICK, 30 + 32 * hard)
        if fill:
            self._fill(at + stop, at + 3, hard)

    def _solo_bar(self, at: float, count: int, hard: float, fill: bool) -> None:
        """One bar of a drum solo: a rhythmic cell moved round the kit, hi-hat keeping time underneath."""
        thirds = 3 if self.performance.sheet.swing > 0.3 else 4
        cells = (
            ((1, 1, 1), (1, 0, 1), (1, 1, 0), (0, 1, 1))
            if thirds == 3
            else ((1, 1, 1, 1), (1, 0, 1, 1), (1, 1, 1, 0))
        )
        cell = cells[int(self.rng.integers(len(cells)))]
        kit = [SNARE, SNARE, HIGH_TOM, MID_TOM, LOW_TOM, KICK]
        for beat in range(self.bar):
            if self.rng.random() < 0.35:
                cell = cells[int(self.rng.integers(len(cells)))]
            drum = kit[int(self.rng.integers(len(kit)))]
            for step, sounds in enumerate(cell):
                if sounds:
                    accent = 20 if step == 0 else 0
                    if self.rng.random() < 0.3:
                        drum = kit[int(self.rng.integers(len(kit)))]
                    self._hit(at + beat + step / thirds, drum, 44 + 34 * hard + accent, straight=True)
            if beat in (1, self.bar - 1):
                self._hit(at + beat, PEDAL_HAT, 56 + 20 * hard)
        if self.rng.random() < 0.3:
            self._hit(at, CRASH, 60 + 30 * hard, 1.5)
            self._hit(at, KICK, 60 + 20 * hard)

    def _ending(self) -> None:
        section, hard = self.section, self.performance.intensity(self.section, self.section.start_beat)
        start = section.start_beat
        self._hit(start, self.ride if self.kit == "brushes" else CRASH, 50 + 30 * hard, 3.0)
        self._hit(start, KICK, 44 + 26 * hard)
        if self.kit == "brushes":
            self._hit(start, SWIRL, 54, section.beats)
        elif self.rng.random() < 0.6:  # a mallet-like roll on the cymbal dies away
            for step in range(int(section.beats * 4)):
                self._hit(
                    start + 0.5 + step / 4,
                    self.ride,
                    34 * (1 - step / (section.beats * 4)) + 14,
                    straight=True,
                )
