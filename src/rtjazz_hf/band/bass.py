"""The bass player: walking, two-feel, bossa, waltz, grooves; the chord's bass note sounds when the chord changes."""

from __future__ import annotations

from ..music.chords import Chord
from ..music.lead_sheet import Section
from .bars import after_bars, line_after, line_before
from .grooves import chosen
from .harmony import chord_scale, nearest, strong_tones
from .performance import Performance

LOW, HIGH = 28, 53  # E1 .. F3
_CENTRE = 39.0
# Tones that the marks of a groove may mean, in semitones above the root; the first that the chord has, or the last.
_STEPS = {"3": (4, 3, 5, 2), "5": (7, 6, 8, 7), "6": (9, 10, 8, 7), "7": (10, 11, 9, 7)}


class Bassist:
    """The bass of a section, whose line goes on from `last`, a MIDI key."""

    def __init__(self, performance: Performance, section: Section, last: int = int(_CENTRE)):
        self.performance = performance
        self.section = section
        self.harmony = performance.harmony
        self.rng = performance.rng
        self.last = last

    def play(self, style: str, start: float | None = None, stop: float | None = None) -> None:
        """Write the section, or what lies between two beats of it, in `style`: "walk", "two", "bossa", "waltz",
        "groove" (the performance's own) or "hold"."""
        start = self.section.start_beat if start is None else start
        stop = self.section.end_beat if stop is None else stop
        write = {"two": self._two, "bossa": self._bossa, "waltz": self._waltz, "hold": self._hold}.get(
            style, self._walk
        )
        for at, end, kind in self.performance.stops.stretches(start, stop):
            if kind == "play" and style == "groove":
                self._groove(at, end)
                continue
            for first, last, chord in self.harmony.cuts(at, end) if kind in ("play", "hold") else ():
                if chord.root is not None:
                    (self._hold if kind == "hold" else write)(first, last, chord)

    def _velocity(self, beat: float, accent: float = 0.0) -> float:
        return 66 + 26 * self.performance.intensity(self.section, beat) + accent

    def _root(self, chord: Chord, around: float | None = None) -> int:
        """The chord's bass note in the octave that keeps the line in the middle of the instrument."""
        middle = 0.6 * self.last + 0.4 * _CENTRE if around is None else around
        return nearest(middle, (chord.bass,), LOW, HIGH)

    def _note(
        self, beat: float, beats: float, midi: int, accent: float = 0.0, straight: bool = False
    ) -> None:
        self.performance.add("bass", beat, beats, midi, self._velocity(beat, accent), straight=straight)
        self.last = midi

    def _approach(self, chord: Chord, target: int) -> int:
        """A note that leads into `target`: a half step, a step of the scale, or its fifth."""
        draw = self.rng.random()
        if draw < 0.36:
            note = target - 1
        elif draw < 0.62:
            note = target + 1
        elif draw < 0.85:
            side = -2 if self.last < target else 2
            note = nearest(target + side, chord_scale(chord), LOW, HIGH, avoid=target)
        else:
            note = nearest(self.last, ((target + 7) % 12,), LOW, HIGH)
        if note == self.last:
            note = 2 * target - note if abs(note - target) <= 2 else note
        return note if LOW <= note <= HIGH else target + (1 if target - 1 < LOW else -1)

    def _line(self, start: float, count: int, chord: Chord) -> list[int]:
        """`count` keys, one a beat: bass note first, an approach to the next bass note last."""
        root = self._root(chord)
        keys = [root]
        following = (
            self.harmony.following(start) if start + count >= self.harmony.end(start) - 1e-6 else chord
        )
        target_pitch = following.bass if following.bass is not None else chord.bass
        target = nearest(0.5 * root + 0.5 * _CENTRE, (target_pitch,), LOW, HIGH)
        tones, scale = strong_tones(chord), chord_scale(chord)
        upward = root < target if abs(target - root) > 2 else root < _CENTRE + 3 * self.rng.standard_normal()
        for index in range(1, count):
            here = keys[-1]
            self.last = here
            if index == count - 1:
                keys.append(self._approach(chord, target))
                continue
            if self.rng.random() < 0.14:
                upward = not upward
            step = int(self.rng.integers(2, 6)) * (1 if upward else -1)
            strong = index % 2 == 0 or self.rng.random() < 0.62
            note = nearest(here + step, tones if strong else scale, LOW, HIGH, avoid=here)
            if note >= HIGH - 4 or note <= LOW + 3:
                upward = note <= LOW + 3
            keys.append(note)
        return keys

    def _walk(self, start: float, end: float, chord: Chord) -> None:
        sheet = self.performance.sheet
        at = start
        while at < end - 1e-6:
            line, stop = line_before(sheet, at), min(end, line_after(sheet, at))
            count = int(stop - at)
            if sheet.metre_of(sheet.bar_at(at + 1e-6)[0]).unit >= 8:  # bars of eighths are counted by their groups
                places = list(self.performance.cells(at, stop))
                for (beat, last, _), key in zip(places, self._line(at, len(places), chord), strict=True):
                    self._note(beat, (last - beat) * 0.93, key)
                at = stop
                continue
            if count < 1 or stop - at != count:  # a chord of a beat and a half: hold its bass note
                self._note(at, (stop - at) * 0.9, self._root(chord))
                at = stop
                continue
            for index, key in enumerate(self._line(at, count, chord)):
                beat = at + index
                accent = 4.0 if round(beat - line, 6) in (1, 3) else 0.0
                length = 0.93 if self.performance.chance(0.85) else 0.6
                if index and self.performance.chance(
                    0.05 + 0.08 * self.performance.intensity(self.section, beat)
                ):
                    self._note(beat, 0.45, key, accent)  # a skip: dead note on the off-beat
                    self._note(beat + 0.5, 0.22, self.last, -22)
                else:
                    self._note(beat, length, key, accent)
            at = stop

    def _two(self, start: float, end: float, chord: Chord) -> None:
        for at, stop, _ in self.performance.cells(start, end):
            room = stop - at
            root = self._root(chord)
            if room < 3:
                self._note(at, room * 0.92, root)
            else:
                half = 2.0 if room >= 4 else room - 1
                pickup = room >= 4 and self.performance.chance(0.28)
                self._note(at, half * 0.95, root)
                fifth = tuple(t for t in strong_tones(chord) if (t - chord.root) % 12 in (6, 7, 8)) or (
                    chord.root,
                )
                second = fifth if self.performance.chance(0.72) else strong_tones(chord)
                low = nearest(root + (-5 if root > 36 else 7), second, LOW, HIGH, avoid=root)
                self._note(at + half, (room - half - (0.5 if pickup else 0)) * 0.92, low, -5)
                if pickup:
                    following = self.harmony.at(stop) if stop < self.section.end_beat else chord
                    goal = following.bass if following.bass is not None else chord.bass
                    self._note(stop - 0.5, 0.42, self._approach(chord, nearest(low, (goal,), LOW, HIGH)), -10)

    def _bossa(self, start: float, end: float, chord: Chord) -> None:
        for at, stop, _ in self.performance.cells(start, end):
            root = self._root(chord)
            fifth = tuple(t for t in strong_tones(chord) if (t - chord.root) % 12 in (6, 7, 8)) or (
                chord.root,
            )
            low = nearest(root + (-5 if root > 35 else 7), fifth, LOW, HIGH)
            if stop - at >= 4:
                self._note(at, 1.4, root, 3)
                if self.performance.chance(0.7):
                    self._note(at + 1.5, 0.45, root if self.performance.chance(0.6) else low, -8)
                self._note(at + 2, 1.4, low)
                if self.performance.chance(0.7):
                    self._note(at + 3.5, 0.42, low, -10)
            else:
                self._note(at, min(1.4, stop - at) * 0.95, root, 3)
                if stop - at >= 2 and self.performance.chance(0.6):
                    self._note(at + 1.5, 0.45, low, -8)

    def _groove(self, start: float, end: float) -> None:
        """Rows of the performance's groove, four bars each."""
        while start < end - 1e-6:
            stop = min(end, after_bars(self.performance.sheet, start, 4))
            self._row(chosen(self.performance.feel.groove.bass, self.rng), start, stop)
            start = stop

    def _row(self, row: str, start: float, end: float) -> None:
        feel, sheet, section = self.performance.feel, self.performance.sheet, self.section
        goes_on = end < section.end_beat - 1e-6
        places = [(p.beat, feel.mark(row, p), p.straight) for p in feel.pulses(sheet, start, end)]
        places = [place for place in places if place[1] != "."]
        held_over = feel.groove.anticipates and start > section.start_beat + 1e-6
        if not held_over and (not places or places[0][0] > start + 1e-6):
            places.insert(0, (start, "R", False))
        until = end
        if feel.groove.anticipates and goes_on:  # a note that is held over the bar line
            ahead = feel.pulses(sheet, end, min(section.end_beat, after_bars(sheet, end, 2)))
            until = next((pulse.beat for pulse in ahead if feel.mark(row, pulse) != "."), end)
        for index, (beat, mark, straight) in enumerate(places):
            following = places[index + 1][0] if index + 1 < len(places) else until
            if mark != "/":
                self._mark(beat, following, mark, straight, end if goes_on else section.end_beat)

    def _mark(self, beat: float, following: float, mark: str, straight: bool, end: float) -> None:
        """A note of a groove up to the next, and the bass notes of the chords that come in between."""
        harmony, at = self.harmony, beat
        chord, change = harmony.at(beat), harmony.end(beat)
        if abs(beat - harmony.start(beat)) < 1e-6:
            mark = "R"
        near = self.performance.feel.groove.anticipates and change - beat <= 1.0 + 1e-6
        if near and change < following - 1e-6 and change < self.section.end_beat - 1e-6:
            chord, change, mark = harmony.at(change), harmony.end(change), "R"
        while True:
            stop = min(following, change)
            if chord.root is not None and stop > at + 1e-6:
                short = 0.35 if mark == "r" else 0.92
                self._note(at, (stop - at) * short, self._tone(chord, mark), -22.0 if mark == "r" else 0.0, straight)
            if change >= following - 1e-6 or change >= end - 1e-6:
                return
            at, chord, mark = change, harmony.at(change), "R"
            change = harmony.end(change)

    def _tone(self, chord: Chord, mark: str) -> int:
        """The key of a mark: the bass note, or a tone of the chord above or below it, whichever is near."""
        root = self._root(chord)
        if mark in "Rr":
            return root
        if mark == "8":
            return root + 12 if root + 12 <= HIGH else root
        steps = next(step for step in _STEPS[mark] if step in chord.intervals or step == _STEPS[mark][-1])
        above = chord.root + steps
        return nearest(0.5 * (self.last + root), (above % 12,), LOW, HIGH, avoid=root)

    def _waltz(self, start: float, end: float, chord: Chord) -> None:
        for at, stop, _ in self.performance.cells(start, end):
            count = int(stop - at)
            hard = self.performance.intensity(self.section, at)
            if count == 3 and self.performance.chance(0.25 + 0.6 * hard):
                for index, key in enumerate(self._line(at, 3, chord)):
                    self._note(at + index, 0.92, key, 3.0 if index == 0 else -4.0)
            else:
                self._note(at, (2.0 if count == 3 else stop - at) * 0.95, self._root(chord), 3)
                if count == 3:
                    goal = self.harmony.at(stop) if stop < self.section.end_beat else chord
                    target = nearest(
                        self.last, (goal.bass if goal.bass is not None else chord.bass,), LOW, HIGH
                    )
                    self._note(at + 2, 0.9, self._approach(chord, target), -5)

    def _hold(self, start: float, end: float, chord: Chord) -> None:
        self._note(start, (end - start) * 0.98, self._root(chord), -4)
