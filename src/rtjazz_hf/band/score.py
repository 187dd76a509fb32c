"""The score: what every player plays, in beats, so that it holds at any tempo."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..music.score_features import (
    CONTROL_KINDS,
    NOTE_ROLES,
    SCORE_DIM,
    metre_features,
    score_features,
)
from ..music.vocabulary import INSTRUMENTS
from .performance import EXPRESSION, PITCH_BEND, VIBRATO, Control, Note, Take

if TYPE_CHECKING:
    from ..music.lead_sheet import LeadSheet

# What a controller is to a score, and how much of it a step is.
KIND_OF_CONTROLLER = {PITCH_BEND: ("bend", 2.0 / 8192), VIBRATO: ("vibrato", 1 / 127), EXPRESSION: ("swell", 1 / 127)}
_SOURCE = ("tempo", "metre", "key", "title")
SCORE_SUFFIXES = (".mid", ".midi", ".musicxml", ".mxl", ".xml")


@dataclass(frozen=True)
class ScoreNote:
    """One note.

    Attributes:
        start: in beats from the first bar line, as played: swing, laid-back playing and all. beats: its length.
        midi: MIDI key, or General MIDI drum key. velocity: 1 to 127.
        player: one of `INSTRUMENTS`. role: one of `NOTE_ROLES`.
    """

    start: float
    beats: float
    midi: int
    velocity: int
    player: str
    role: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.beats) and self.beats > 0):
            raise ValueError(
                f"a note at beat {self.start!r} of {self.beats!r} beats: both must be finite, the length above 0"
            )
        if not 0 <= self.midi <= 127 or not 1 <= self.velocity <= 127:
            raise ValueError(
                f"a note of key {self.midi!r} and velocity {self.velocity!r}: keys are 0 to 127, velocities 1 to 127"
            )
        _check(self.player, self.role)


@dataclass(frozen=True)
class ScoreControl:
    """What happens to the notes of a role from `start` (beats) on: `kind` "bend" (semitones), "vibrato" or "swell"
    (0 to 1)."""

    start: float
    kind: str
    value: float
    player: str
    role: str

    def __post_init__(self) -> None:
        if self.kind not in CONTROL_KINDS:
            raise ValueError(f"unknown control {self.kind!r}: choose {', '.join(CONTROL_KINDS)}")
        if not (math.isfinite(self.start) and math.isfinite(self.value)):
            raise ValueError(f"a control at beat {self.start!r} of {self.value!r}: both must be finite")
        _check(self.player, self.role)


def _of_who_plays(
    notes: Iterable[ScoreNote], controls: Iterable[ScoreControl]
) -> Iterator[tuple[float, str, float, str]]:
    """What holds for each role, as (start, kind, value, role): the controls of whoever played its last note. Where one
    player follows another, what the first one's last note was bent by is not the second one's."""
    latest: dict[tuple[str, str, str], float] = {}  # by role, player and kind
    playing: dict[str, str] = {}  # by role
    events: list[ScoreNote | ScoreControl] = [*notes, *controls]
    for event in sorted(events, key=lambda event: event.start):
        role, player = event.role, event.player
        if isinstance(event, ScoreControl):
            latest[role, player, event.kind] = event.value
            if playing.get(role, player) == player:
                yield event.start, event.kind, event.value, role
        elif playing.get(role) != player:
            playing[role] = player
            for kind in sorted({kind for its_role, _, kind in latest if its_role == role}):
                yield event.start, kind, latest.get((role, player, kind), 0.0), role


def _check(player: str, role: str) -> None:
    if player not in INSTRUMENTS:
        raise ValueError(f"unknown instrument {player!r}: choose from {', '.join(INSTRUMENTS)}")
    if role not in NOTE_ROLES:
        raise ValueError(f"unknown role {role!r}: choose from {', '.join(NOTE_ROLES)}")


@dataclass(frozen=True)
class Score:
    """Notes by player. Immutable.

    Attributes:
        notes: in order of time. controls: bends, vibrato and swells, in order of time.
        told: the roles that the score speaks of. A role that is told and has no notes is silent; one that is not told
            is left to whoever plays.
        tempo, metre, key, title: what the score's source says of them ("3/4", one of `KEYS`); None where it says
            nothing. Notes count in beats, so none of them changes what is played.
    """

    notes: tuple[ScoreNote, ...] = ()
    controls: tuple[ScoreControl, ...] = ()
    told: tuple[str, ...] = NOTE_ROLES
    tempo: float | None = None
    metre: str | None = None
    key: str | None = None
    title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(sorted(self.notes, key=lambda note: (note.start, note.midi))))
        object.__setattr__(self, "controls", tuple(sorted(self.controls, key=lambda control: control.start)))
        told = set(self.told)
        if unknown := told - set(NOTE_ROLES):
            raise ValueError(f"unknown roles {', '.join(sorted(unknown))}: choose from {', '.join(NOTE_ROLES)}")
        object.__setattr__(self, "told", tuple(role for role in NOTE_ROLES if role in told))

    @property
    def end_beat(self) -> float:
        """Where the last note ends."""
        return max((note.start + note.beats for note in self.notes), default=0.0)

    @property
    def players(self) -> tuple[str, ...]:
        """Who has notes, in the order of `INSTRUMENTS`."""
        names = {note.player for note in self.notes}
        return tuple(name for name in INSTRUMENTS if name in names)

    def described(self, sheet: LeadSheet) -> Score:
        """The score with the sheet's tempo, metre, key and title."""
        told = {"tempo": sheet.tempo, "metre": plain_metre(sheet), "key": sheet.key, "title": sheet.title}
        return dataclasses.replace(self, **told)

    def only(self, roles: Iterable[str]) -> Score:
        """The score of some roles; of the others nothing is told."""
        roles = set(roles)
        return dataclasses.replace(
            self,
            notes=tuple(note for note in self.notes if note.role in roles),
            controls=tuple(control for control in self.controls if control.role in roles),
            told=tuple(role for role in self.told if role in roles),
        )

    def without_players(self, players: Iterable[str]) -> Score:
        """The score with these players silent."""
        gone = set(players)
        return dataclasses.replace(
            self,
            notes=tuple(note for note in self.notes if note.player not in gone),
            controls=tuple(control for control in self.controls if control.player not in gone),
        )

    def since(self, beat: float) -> Score:
        """What begins at `beat` or later, counted from there."""
        near = beat - 0.05  # as who plays a little early does
        return dataclasses.replace(
            self,
            notes=tuple(
                dataclasses.replace(note, start=note.start - beat) for note in self.notes if note.start >= near
            ),
            controls=tuple(
                dataclasses.replace(each, start=each.start - beat) for each in self.controls if each.start >= near
            ),
        )

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Notes `(n, 6)` and controls `(n, 4)` as `score_features` takes them, times in beats."""
        notes = [
            (n.start, n.beats, n.midi, n.velocity, NOTE_ROLES.index(n.role), INSTRUMENTS.index(n.player))
            for n in self.notes
        ]
        controls = [
            (start, NOTE_ROLES.index(role), CONTROL_KINDS.index(kind), value)
            for start, kind, value, role in _of_who_plays(self.notes, self.controls)
        ]
        return np.array(notes, dtype=np.float64).reshape(-1, 6), np.array(controls, dtype=np.float64).reshape(-1, 4)

    def rows(self, sheet: LeadSheet) -> tuple[np.ndarray, np.ndarray]:
        """Notes `(n, 6)` and controls `(n, 4)` in seconds by the sheet's tempo and offset; see `score_features`."""
        notes, controls = (rows.copy() for rows in self._rows)
        beat = 60.0 / sheet.tempo
        notes[:, 0] = (notes[:, 0] - sheet.beat_offset) * beat
        notes[:, 1] *= beat
        controls[:, 0] = (controls[:, 0] - sheet.beat_offset) * beat
        return notes, controls

    def to_dict(self) -> dict[str, Any]:
        """The score in JSON's types: short rows, their names beside them."""
        return {
            "told": list(self.told),
            "notes": [[round(n.start, 5), round(n.beats, 5), n.midi, n.velocity, n.player, n.role] for n in self.notes],
            "controls": [[round(c.start, 5), c.kind, round(c.value, 5), c.player, c.role] for c in self.controls],
            **{name: getattr(self, name) for name in _SOURCE if getattr(self, name)},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Score:
        """The score that `to_dict` wrote.

        Raises:
            ValueError: naming what is missing, unknown or out of range.
        """
        try:
            return cls(
                tuple(ScoreNote(float(s), float(b), int(m), int(v), p, r) for s, b, m, v, p, r in data["notes"]),
                tuple(ScoreControl(float(s), k, float(v), p, r) for s, k, v, p, r in data["controls"]),
                tuple(data["told"]),
                **{name: data[name] for name in _SOURCE if name in data},
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a score as Score.to_dict writes it: {error}") from error

    @classmethod
    def from_file(cls, path: str | os.PathLike, heard: Callable[[str], None] | None = None) -> Score:
        """The score of a MIDI file (.mid, .midi) or of MusicXML (.musicxml, .mxl, .xml); see `read_midi` and
        `read_musicxml`, whose errors and warnings these are.

        Raises:
            ValueError: another suffix.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in SCORE_SUFFIXES:
            raise ValueError(f"'{path}' is no file of notes by its suffix: give {', '.join(SCORE_SUFFIXES)}")
        if suffix in SCORE_SUFFIXES[:2]:
            from .midi import read_midi as read
        else:
            from .musicxml import read_musicxml as read
        return read(path, heard=heard)

    def to_midi(self, path: str | os.PathLike, sheet: LeadSheet | None = None, overwrite: bool = False) -> Path:
        """Write the score as a MIDI file; see `write_midi`."""
        from .midi import write_midi

        return write_midi(self, path, sheet, overwrite)

    @classmethod
    def of_take(cls, take: Take) -> Score:
        """What a composed take plays, in beats of its lead sheet."""
        sheet = take.lead_sheet
        beat = sheet.tempo / 60.0
        notes = [
            ScoreNote(sheet.beat_at(n.start_s), n.duration_s * beat, n.midi, n.velocity, player, n.role)
            for player, written in take.notes.items()
            for n in written
        ]
        controls = [
            ScoreControl(sheet.beat_at(c.start_s), kind, c.value * unit, player, c.role)
            for player, written in take.controls.items()
            for c in written
            for kind, unit in [KIND_OF_CONTROLLER[c.controller]]
        ]
        return cls(tuple(notes), tuple(controls)).described(sheet)

    def to_take(self, sheet: LeadSheet, seconds: float) -> Take:
        """The first `seconds` as a composed take has them: what the renderer plays. Notes that have begun before are
        left out."""
        beat = 60.0 / sheet.tempo
        controllers = {kind: (number, unit) for number, (kind, unit) in KIND_OF_CONTROLLER.items()}
        notes: dict[str, list[Note]] = {}
        for note in self.notes:
            start = sheet.time_of(note.start)
            if 0 <= start < seconds - 0.02:
                length = max(0.01, min(note.beats * beat, seconds - start))
                notes.setdefault(note.player, []).append(Note(start, length, note.midi, note.velocity, note.role))
        controls: dict[str, list[Control]] = {}
        for control in self.controls:
            number, unit = controllers[control.kind]
            start = max(0.0, sheet.time_of(control.start))
            if start < seconds:
                event = Control(start, number, round(control.value / unit), control.role)
                controls.setdefault(control.player, []).append(event)
        by_player = ({name: tuple(events) for name, events in each.items()} for each in (notes, controls))
        return Take(sheet, *by_player, seconds)


def plain_metre(sheet: LeadSheet, bar: int = 0) -> str:
    """The metre of a bar as files of notes have it, "5/4"; without its groups."""
    metre = sheet.metre_of(bar)
    return f"{metre.count}/{metre.unit}"


def _tell_metre(out: np.ndarray, beats: np.ndarray, sheet: LeadSheet) -> None:
    """Fill in the metre at absolute `beats` `(frames,)`: the beats as they are felt, in each bar of the sheet's own."""
    bars, within = sheet.bars_at(beats)
    turn = np.where(bars < 0, 0, bars % sheet.num_bars)
    metres = [sheet.metre_of(bar) for bar in (range(sheet.num_bars) if sheet.metres else (0,))]
    kinds = {metre: np.array([each == metre for each in metres]) for metre in dict.fromkeys(metres)}
    for metre, is_it in kinds.items():
        here = is_it[turn] if sheet.metres else slice(None)
        starts = np.array([start for start, *_ in metre.pulses])
        lengths = np.array([length for _, length, *_ in metre.pulses])
        pulse = np.clip(np.searchsorted(starts, within[here], side="right") - 1, 0, None)
        phase = np.clip((within[here] - starts[pulse]) / lengths[pulse], 0.0, 1.0 - 1e-9)
        part = out[here]
        metre_features(part, pulse + phase, len(starts), [size for _, _, place, size in metre.pulses if place == 0])
        out[here] = part


def features_of(
    sheet: LeadSheet,
    notes: np.ndarray,
    controls: np.ndarray,
    told: Iterable[str],
    start_frame: int,
    num_frames: int,
    frame_rate: float = 75,
) -> np.ndarray:
    """`(num_frames, SCORE_DIM)` float32: metre of the sheet, and notes in seconds from frame 0."""
    out = score_features(notes, controls, start_frame, num_frames, frame_rate, told)
    frames = np.arange(start_frame, start_frame + num_frames, dtype=np.float64)
    beats = sheet.beat_offset + frames * (sheet.tempo / (60.0 * frame_rate)) + 1e-9
    _tell_metre(out, beats, sheet)
    return out


__all__ = ["SCORE_DIM", "Score", "ScoreControl", "ScoreNote", "features_of", "plain_metre"]
