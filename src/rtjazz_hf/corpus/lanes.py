"""How the tones of a player move, sample by sample: what a pitch wheel does, and how loud a line swells.

A wheel bends all that sounds on its channel, a note that is dying away too. So the notes of a line whose tones move
take turns on two lanes, each with a wheel of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..audio import SAMPLE_RATE
from ..band.expression import SEMITONE
from ..band.performance import EXPRESSION, FULL_EXPRESSION, PITCH_BEND, VIBRATO, Control, Note, Take, Touch
from ..music.score_features import BENT_ROLES

WHEEL_STEP = 256  # samples from one position of a wheel to the next: a vibrato is right within 2 cents
WHEEL_RANGE = 12  # semitones each way
_TURN_S = 0.02  # before a note its lane's wheel stands where the note begins


@dataclass(frozen=True)
class Lane:
    """Notes that share a channel, and what moves them.

    Attributes:
        notes: by time. wheel: semitones at every `WHEEL_STEP` samples from 0 on; None: the lane does not move.
        swell: gain, 1 at rest, at the same samples; None where nothing swells.
    """

    notes: tuple[Note, ...]
    wheel: np.ndarray | None = None
    swell: np.ndarray | None = None


def lanes_of(take: Take, player: str) -> list[Lane]:
    """The lanes of a player, those that move first. Of a player without a `Touch`: all notes, unmoved."""
    notes = take.notes.get(player, ())
    touch = take.touches.get(player)
    line = [note for note in notes if note.role in BENT_ROLES] if touch is not None else []
    rest = tuple(note for note in notes if touch is None or note.role not in BENT_ROLES)
    moves = [_Moves(note, events, touch) for note, events in _of_each(line, take.controls.get(player, ()))]
    points = -(-round(take.duration_s * SAMPLE_RATE) // WHEEL_STEP) + 1
    lanes = [_lane(moves[first::2], points) for first in (0, 1) if moves[first::2]]
    return [*lanes, Lane(rest)] if rest else lanes


def pitch_of(take: Take, player: str, rate: float) -> np.ndarray:
    """Cents, float32, by which the sounding note of a player's line stands beside its key in each frame of `take`, in
    the frame's middle; 0 where nothing sounds. `rate`: frames a second."""
    cents = np.zeros(int(np.ceil(take.duration_s * rate)), dtype=np.float32)
    touch = take.touches.get(player)
    line = [note for note in take.notes.get(player, ()) if note.role in BENT_ROLES] if touch is not None else []
    middles = (np.arange(len(cents)) + 0.5) / rate
    for note, events in _of_each(line, take.controls.get(player, ())):
        here = slice(*np.searchsorted(middles, [note.start_s, note.start_s + note.duration_s]))
        cents[here] = 100 * _Moves(note, events, touch).wheel(middles[here])
    return cents


def _of_each(line: list[Note], controls: tuple[Control, ...]) -> list[tuple[Note, list[Control]]]:
    """Each note of a line with the controls from its start to the next one's."""
    moving = [event for event in controls if event.role in BENT_ROLES]
    times = np.array([event.start_s for event in moving])
    edges = [*np.searchsorted(times, np.array([note.start_s for note in line]) - 1e-7), len(moving)]
    return [(note, moving[first:last]) for note, first, last in zip(line, edges, edges[1:])]


class _Moves:
    """What the controls of one note make of it, at any time in seconds."""

    def __init__(self, note: Note, events: list[Control], touch: Touch):
        self.note, self.touch = note, touch
        self.points = {
            kind: [(event.start_s, event.value) for event in events if event.controller == kind]
            for kind in (PITCH_BEND, VIBRATO, EXPRESSION)
        }
        self.quivers_from = next((time for time, depth in self.points[VIBRATO] if depth), np.inf)

    def _value(self, kind: int, times: np.ndarray, rest: float) -> np.ndarray:
        points = self.points[kind]
        if not points:
            return np.full(len(times), rest)
        at, values = np.array(points, dtype=np.float64).T
        if at[0] > self.note.start_s + 1e-6:  # at rest up to there
            at, values = np.append(at[0] - 1e-6, at), np.append(rest, values)
        return np.interp(times, at, values)

    def wheel(self, times: np.ndarray) -> np.ndarray:
        """Semitones."""
        bend = self._value(PITCH_BEND, times, 0.0) / SEMITONE
        if np.isfinite(self.quivers_from):
            since = np.maximum(times - self.quivers_from, 0.0)
            depth = self._value(VIBRATO, times, 0.0) / 127 * self.touch.vibrato_cents / 100
            bend = bend + depth * np.sin(2 * np.pi * self.touch.vibrato_hz * since)
        return bend

    def gain(self, times: np.ndarray) -> np.ndarray:
        """The law of MIDI's expression: twice as far is 12 dB."""
        return (self._value(EXPRESSION, times, FULL_EXPRESSION) / FULL_EXPRESSION) ** 2


def _lane(moves: list[_Moves], points: int) -> Lane:
    times = np.arange(points) * (WHEEL_STEP / SAMPLE_RATE)
    wheel, swell = np.zeros(points), np.ones(points)
    notes = [each.note for each in moves]
    for index, each in enumerate(moves):
        turn = 0.0
        if index:
            turn = max(each.note.start_s - _TURN_S, (each.note.start_s + _end(notes[index - 1])) / 2)
        here = slice(int(np.searchsorted(times, turn)), points)  # up to the end: the next note writes over it
        within = np.maximum(times[here], each.note.start_s)
        wheel[here], swell[here] = each.wheel(within), each.gain(within)
    np.clip(wheel, -WHEEL_RANGE, WHEEL_RANGE, out=wheel)
    return Lane(tuple(notes), wheel, None if np.all(swell == 1) else swell)


def _end(note: Note) -> float:
    return note.start_s + note.duration_s


__all__ = ["WHEEL_RANGE", "WHEEL_STEP", "Lane", "lanes_of", "pitch_of"]
