"""What players do to their notes beyond striking them: scoops, falls, doits, bends, slides, hammer-ons, blue and ghost
notes, vibrato that comes late, dynamics inside a line, brushes that stir.

It is written over a composed take, for the corpus: who plays which notes stays as it was composed, but for the
bassist's dead notes between them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..music.score_features import BENT_ROLES
from ..music.vocabulary import INSTRUMENTS
from .grooves import SWIRL
from .performance import EXPRESSION, FULL_EXPRESSION, PITCH_BEND, VIBRATO, Control, Note, Take, Touch

SEMITONE = 4096  # of PITCH_BEND
_STEP_S = 0.0133  # between the points of a gesture: a frame
_REST_S = 0.3  # a longer silence begins a new phrase
_LONG_S = 0.45  # notes that last longer swell and quiver
_BLUE_S = 0.25  # notes that last longer may be held beside their key
_BLUE_CENTS = (15.0, 65.0)  # by how much


@dataclass(frozen=True)
class Habits:
    """How a player of an instrument plays: shares of the notes on which a thing can be done, ranges of a player's
    vibrato (Hz, cents each way)."""

    scoop: float = 0.0  # up into the note from less than two semitones below
    slide: float = 0.0  # from the note before, or from one or two semitones below
    hammer: float = 0.0  # a neighbour that is not struck anew, or hardly
    bend: float = 0.0  # up from one or two semitones below, as a guitarist pulls a string
    dip: float = 0.0  # down and back inside a note
    blue: float = 0.0  # held beside its key from end to end, as blue notes are
    fall: float = 0.0  # off the end of the last note before a rest
    doit: float = 0.0  # the same, upwards
    ghost: float = 0.0  # notes inside a line that are hardly played
    dead: float = 0.0  # notes between those of the line, without a pitch of their own
    vibrato: float = 0.0
    vibrato_hz: tuple[float, float] = (4.8, 5.8)
    vibrato_cents: tuple[float, float] = (12.0, 35.0)
    swells: bool = True  # a wind instrument's breath


# fmt: off
_REED = Habits(scoop=0.18, slide=0.08, dip=0.07, blue=0.12, fall=0.3, doit=0.06, ghost=0.14, vibrato=0.75,
               vibrato_cents=(15, 42))
_BRASS = Habits(scoop=0.13, slide=0.05, dip=0.05, blue=0.12, fall=0.34, doit=0.14, ghost=0.1, vibrato=0.6,
                vibrato_hz=(4.9, 6.0))
HABITS: dict[str, Habits] = {
    "alto_sax": _REED,
    "tenor_sax": _REED,
    "clarinet": dataclasses.replace(_REED, scoop=0.12, fall=0.14, doit=0.03, vibrato=0.45, vibrato_cents=(8, 25)),
    "trumpet": _BRASS,
    "muted_trumpet": dataclasses.replace(_BRASS, fall=0.2, doit=0.08),
    "trombone": dataclasses.replace(_BRASS, slide=0.25, vibrato_cents=(12, 45)),
    "flute": Habits(scoop=0.08, slide=0.04, blue=0.08, fall=0.1, doit=0.03, ghost=0.1, vibrato=0.85,
                   vibrato_hz=(4.8, 6.0)),
    "guitar": Habits(slide=0.12, hammer=0.28, bend=0.1, blue=0.1, fall=0.08, ghost=0.1, vibrato=0.45,
                     vibrato_hz=(4.0, 5.4), vibrato_cents=(8, 24), swells=False),
    "bass": Habits(slide=0.09, hammer=0.12, fall=0.06, dead=0.07, vibrato=0.4,
                   vibrato_hz=(3.6, 4.8), vibrato_cents=(6, 18), swells=False),
}
# fmt: on


def expressive(take: Take, seed: int) -> Take:
    """The take with tones that move, and a `Touch` for each player who moves them.

    Every player has dice of their own, so that one who is silent changes nobody else.
    """
    notes, controls, touches = dict(take.notes), dict(take.controls), {}
    for player, written in take.notes.items():
        rng = np.random.default_rng([seed, INSTRUMENTS.index(player)])
        if player == "brushes":
            notes[player] = _stirred(written, rng, 60.0 / take.lead_sheet.tempo)
            touches[player] = Touch(0.0, 0.0)
        elif player in HABITS:
            line = [note for note in written if note.role in BENT_ROLES]
            ear = np.random.default_rng([seed, INSTRUMENTS.index(player), 1])
            hand = _Hand(player, HABITS[player], rng, ear, take)
            played, moved = hand.play(line)
            others = [note for note in written if note.role not in BENT_ROLES]
            notes[player] = tuple(sorted((*others, *played), key=lambda note: (note.start_s, note.midi)))
            kept = [event for event in take.controls.get(player, ()) if event.role not in BENT_ROLES]
            controls[player] = tuple(sorted((*kept, *moved), key=lambda event: event.start_s))
            touches[player] = hand.touch
    return dataclasses.replace(take, notes=notes, controls=controls, touches=touches)


class _Hand:
    """One player's way with a line, for a take."""

    def __init__(
        self, player: str, habits: Habits, rng: np.random.Generator, ear: np.random.Generator, take: Take
    ):
        self.player, self.habits, self.rng, self.take = player, habits, rng, take
        self.ear = ear  # dice of blue notes alone, so that the other gestures of a seed are what they were without them
        self.taste = float(rng.uniform(0.3, 1.6))  # of this player on this day
        self.touch = Touch(
            round(float(rng.uniform(*habits.vibrato_hz)), 3), round(float(rng.uniform(*habits.vibrato_cents)), 2)
        )
        self.beat_s = 60.0 / take.lead_sheet.tempo
        self.events: list[Control] = []
        self.state: dict[int, int] = {}
        self.role = "lead"

    def play(self, line: list[Note]) -> tuple[list[Note], list[Control]]:
        """The notes as they are played, and what moves them."""
        line = self._dynamics(self._with_dead_notes(line))
        played: list[Note] = []
        for index, note in enumerate(line):
            before = played[-1] if played else None
            ends = line[index + 1].start_s if index + 1 < len(line) else self.take.duration_s
            played.append(self._note(note, before, max(0.0, ends - note.start_s - note.duration_s)))
        return played, self.events

    # -- notes ---------------------------------------------------------------------------------------------
    def _does(self, what: str) -> bool:
        return bool(self.rng.random() < self.taste * getattr(self.habits, what))

    def _with_dead_notes(self, line: list[Note]) -> list[Note]:
        """A bassist's dead notes: muffled, on the last third of a beat before the next note."""
        if not self.habits.dead:
            return line
        out: list[Note] = []
        for note, following in zip(line, [*line[1:], None]):
            out.append(note)
            if following is None or not self._does("dead"):
                continue
            lead = self.beat_s / (3 if self.take.lead_sheet.swing > 0.3 else 2)
            at = following.start_s - lead * float(self.rng.uniform(0.95, 1.05))
            if at < note.start_s + 0.14 or following.start_s - note.start_s > 3 * self.beat_s:
                continue
            out[-1] = dataclasses.replace(note, duration_s=min(note.duration_s, at - note.start_s - 0.01))
            velocity = int(self.rng.integers(22, 38))
            out.append(Note(at, min(0.07, 0.6 * lead), note.midi, velocity, note.role))
        return out

    def _dynamics(self, line: list[Note]) -> list[Note]:
        """Phrases that grow towards their highest note and die away, and ghost notes inside them."""
        out: list[Note] = []
        for phrase in phrases_of(line):
            depth = float(self.rng.uniform(2.0, 9.0)) * (1 if self.habits.swells else 0.6)
            keys = [note.midi for note in phrase]
            top = int(np.argmax(keys))
            drift = 0.0
            for index, note in enumerate(phrase):
                climb = (index + 1) / (top + 1) if index <= top else (len(phrase) - index) / (len(phrase) - top)
                drift = 0.7 * drift + float(self.rng.normal(0, 1.5))
                loud = note.velocity + depth * (climb - 0.5) + drift + (3 if index == top and len(phrase) > 3 else 0)
                inner = 0 < index < len(phrase) - 1 and note.duration_s < 0.32 and note.midi < max(
                    keys[index - 1], keys[index + 1]
                )
                if inner and note.velocity > 45 and self._does("ghost"):
                    loud *= 0.45
                    note = dataclasses.replace(note, duration_s=0.65 * note.duration_s)
                out.append(dataclasses.replace(note, velocity=int(min(max(round(loud), 8), 124))))
        return out

    def _note(self, note: Note, before: Note | None, room: float) -> Note:
        """One note with its gestures; `room` seconds of silence follow it."""
        self.role, rng = note.role, self.rng
        start, length = note.start_s, note.duration_s
        joined = before is not None and start - before.start_s - before.duration_s < 0.1
        interval = before.midi - note.midi if joined else 0
        bend: list[tuple[float, float]] = []  # seconds from the start, semitones
        if note.velocity < 40:  # a ghost is as it is
            self._write(start, [], [], [])
            return note
        if joined and 1 <= abs(interval) <= 2 and start - before.start_s < 0.4 and self._does("hammer"):
            bend = [(0.0, interval), (0.006, interval), (0.02, 0.0)]
            note = dataclasses.replace(note, velocity=round(0.75 * note.velocity))
        elif length > 0.14 and joined and 1 <= abs(interval) <= 5 and self._does("slide"):
            time = min(float(rng.uniform(0.06, 0.14)), 0.5 * length)
            bend = _curve(0.0, time, interval, 0.0)
            note = dataclasses.replace(note, velocity=round(0.88 * note.velocity))
        elif length > 0.16 and not self.habits.swells and self._does("slide"):
            time = min(float(rng.uniform(0.05, 0.11)), 0.4 * length)
            bend = _curve(0.0, time, -float(rng.integers(1, 3)), 0.0)
        elif length > 0.3 and self._does("bend"):
            hold, time = float(rng.uniform(0.02, 0.06)), float(rng.uniform(0.08, 0.16))
            depth = -float(rng.choice([1.0, 2.0], p=[0.6, 0.4]))
            bend = [(0.0, depth), *_curve(hold, hold + time, depth, 0.0)]
        elif length > 0.16 and self._does("scoop"):
            time = min(float(rng.uniform(0.07, 0.2)), 0.45 * length)
            bend = _curve(0.0, time, -float(rng.uniform(0.35, 1.7)), 0.0, power=0.6)
        long = length > _LONG_S
        if long and self._does("dip"):
            middle, width = float(rng.uniform(0.4, 0.6)) * length, float(rng.uniform(0.14, 0.24))
            depth = -float(rng.uniform(0.4, 1.1))
            bend += _curve(middle - width / 2, middle, 0.0, depth) + _curve(middle, middle + width / 2, depth, 0.0)
        swell = self._swell(length) if long and self.habits.swells else []
        vibrato = self._vibrato(length) if long and rng.random() < self.habits.vibrato else []
        if room > 0.16 and length > 0.12 and (way := self._way_out()):
            more = min(room - 0.06, float(rng.uniform(0.1, 0.32)))
            first = length - min(0.35 * length, 0.15)
            length = min(length + more, self.take.duration_s - start)
            depth = way * float(rng.uniform(1.5, 5.5)) * min(1.0, (length - first) / 0.2)
            bend = [point for point in bend if point[0] < first] + _curve(first, length, 0.0, depth, power=1.7)
            if self.habits.swells:
                swell = [point for point in swell if point[0] < first]
                level = swell[-1][1] if swell else FULL_EXPRESSION
                swell += _curve(first, length, level, 0.62 * level, power=1.5)
            vibrato = [point for point in vibrato if point[0] < first] + ([(first, 0.0)] if vibrato else [])
            note = dataclasses.replace(note, duration_s=length)
        if note.duration_s > _BLUE_S and self.ear.random() < self.taste * self.habits.blue:
            beside = float(self.ear.uniform(*_BLUE_CENTS)) / 100 * (-1 if self.ear.random() < 0.6 else 1)
            bend = bend if bend and bend[0][0] == 0 else [(0.0, 0.0), *bend]
            bend = [(time, value + beside) for time, value in bend]
        self._write(start, bend, vibrato, swell)
        return note

    def _way_out(self) -> int:
        """-1: a fall, 1: a doit, 0: neither."""
        return -1 if self._does("fall") else 1 if self._does("doit") else 0

    def _swell(self, length: float) -> list[tuple[float, float]]:
        """The breath of a long note, as points of EXPRESSION."""
        shapes = ((90, 124, 98), (84, 104, 122), (122, 106, 86), (122, 84, 114))
        shape = shapes[int(self.rng.choice(len(shapes), p=(0.35, 0.25, 0.2, 0.2)))]
        turn = 0.2 if shape[1] < min(shape[0], shape[2]) else 0.5  # struck hard, and grown again
        times = np.linspace(0, 1, max(4, round(length / 0.1)))
        values = np.interp(times, (0.0, turn, 1.0), shape)
        return [(float(t * length), float(value)) for t, value in zip(times, values)]

    def _vibrato(self, length: float) -> list[tuple[float, float]]:
        """Vibrato that begins late and grows, as points of VIBRATO."""
        late = min(float(self.rng.uniform(0.18, 0.42)), 0.6 * length)
        grown = min(late + float(self.rng.uniform(0.15, 0.5)), length)
        depth = 127 * float(self.rng.uniform(0.45, 1.0))
        times = np.linspace(0, 1, 5)
        return [(late + (grown - late) * float(t), depth * max(float(t), 0.05)) for t in times]

    # -- controls ------------------------------------------------------------------------------------------
    def _write(self, start: float, bend: list, vibrato: list, swell: list) -> None:
        """The controls of a note, each of which begins at rest unless something else is told."""
        gestures = [(PITCH_BEND, 0, bend), (VIBRATO, 0, vibrato)]
        gestures += [(EXPRESSION, FULL_EXPRESSION, swell)] if self.habits.swells else []
        for controller, rest, points in gestures:
            if (not points or points[0][0] > 0) and self.state.get(controller) != rest:
                self._set(start, controller, rest)
            for time, value in points:
                self._set(start + time, controller, round(value * SEMITONE if controller == PITCH_BEND else value))

    def _set(self, time: float, controller: int, value: int) -> None:
        if time < self.take.duration_s:
            value = value if controller == PITCH_BEND else min(max(value, 0), 127)
            self.state[controller] = value
            self.events.append(Control(time, controller, value, self.role))


def phrases_of(line: list[Note]) -> list[list[Note]]:
    """A line cut where it breathes."""
    phrases: list[list[Note]] = []
    end = -np.inf
    for note in line:
        if note.start_s - end > _REST_S:
            phrases.append([])
        phrases[-1].append(note)
        end = note.start_s + note.duration_s
    return phrases


def _curve(start: float, stop: float, low: float, high: float, power: float = 0.0) -> list[tuple[float, float]]:
    """Points from one value to another: by `power` of the time, or by an S."""
    count = max(2, round((stop - start) / _STEP_S) + 1)
    points = []
    for part in np.linspace(0.0, 1.0, count):
        shape = part**power if power else part * part * (3 - 2 * part)
        points.append((start + (stop - start) * float(part), low + (high - low) * float(shape)))
    return points


def _stirred(notes: tuple[Note, ...], rng: np.random.Generator, beat_s: float) -> tuple[Note, ...]:
    """Brushes: swirls become sweeps that last up to the next one, in one, two or half beats as the drummer likes it."""
    sweeps = [note for note in notes if note.midi == SWIRL]
    others = [note for note in notes if note.midi != SWIRL]
    unit = beat_s * float(rng.choice([0.5, 1.0, 2.0], p=[0.2, 0.45, 0.35])) * (0.5 if beat_s > 0.7 else 1.0)
    out: list[Note] = []
    for note, following in zip(sweeps, [*sweeps[1:], None]):
        stop = min(note.start_s + note.duration_s, np.inf if following is None else following.start_s)
        count = max(1, round((stop - note.start_s) / max(unit, 0.12)))
        length = (stop - note.start_s) / count
        for index in range(count):
            loud = note.velocity * (1.0 if index % 2 == 0 else 0.82) + float(rng.normal(0, 3))
            velocity = int(min(max(round(loud), 8), 124))
            start = note.start_s + index * length
            out.append(dataclasses.replace(note, start_s=start, duration_s=0.96 * length, velocity=velocity))
    return tuple(sorted((*others, *out), key=lambda note: (note.start_s, note.midi)))


__all__ = ["HABITS", "Habits", "expressive", "phrases_of"]
