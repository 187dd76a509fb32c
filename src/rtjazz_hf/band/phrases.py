"""A player's habits as counts: which intervals their lines have, which rhythms, and where in the beat and the bar."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..music.lead_sheet import LeadSheet
from .bars import notated_in
from .score import Score

WIDEST = 12  # semitones of an interval that is counted, up or down
LENGTHS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0, 1.5, 2.0, 3.0, 4.0)  # beats from one onset to the next
PLACES = (0.0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4)  # of an onset in its beat
BEATS = 8  # of a bar, the last one with all that follow
_FORMAT, _VERSION = "rtjazz-phrases", 1
_BREATH = 4.5  # beats from one onset to the next from which on a new phrase begins
_DOUBT = 12.0  # notes of every kind alike that are counted beside the player's: what was heard once is no habit
_LEAST = 32  # intervals that tell something of a player
_MOST = 2**40  # of a count


@dataclass(frozen=True)
class PhraseMemory:
    """How often a player does what. Immutable.

    Beats are notated ones: an off-beat is at 1/2, wherever swing puts it.

    Attributes:
        intervals: from note to note within a phrase, `2 * WIDEST + 1` counts from -`WIDEST` to `WIDEST` semitones.
        lengths: from onset to onset within a phrase, in beats as in `LENGTHS`.
        places: of onsets in their beat, as in `PLACES`. beats: of onsets, which beat of the bar, the first first.

    Raises:
        ValueError: other shapes, or what is no count.
    """

    intervals: tuple[float, ...]
    lengths: tuple[float, ...]
    places: tuple[float, ...]
    beats: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, size in _SIZES.items():
            counts = getattr(self, name)
            if not isinstance(counts, (list, tuple)) or len(counts) != size:
                raise ValueError(f"{name}: give {size} counts, not {_told(counts)}")
            for count in counts:
                if isinstance(count, bool) or not isinstance(count, (int, float)) or not 0 <= count < _MOST:
                    raise ValueError(f"{name} holds {_told(count)}: a count is a finite number, 0 or more")
            object.__setattr__(self, name, tuple(float(count) for count in counts))

    @classmethod
    def of_lines(cls, lines: Iterable[tuple[LeadSheet, Sequence[tuple[float, int]]]]) -> PhraseMemory:
        """Count lines: of each its sheet, for the bars, and (notated beat, MIDI key) of its notes in order of time."""
        counts = {name: [0.0] * size for name, size in _SIZES.items()}
        for sheet, notes in lines:
            last: tuple[float, int] | None = None
            for beat, midi in notes:
                beat = _on_grid(beat)
                if last is not None and beat <= last[0]:
                    continue  # struck together with the one before
                counts["places"][_nearest(PLACES, beat - math.floor(beat + 1e-6))] += 1
                counts["beats"][min(int(sheet.bar_at(beat + 1e-6)[1]), BEATS - 1)] += 1
                if last is not None and beat - last[0] < _BREATH:
                    counts["intervals"][min(max(midi - last[1], -WIDEST), WIDEST) + WIDEST] += 1
                    counts["lengths"][_nearest(LENGTHS, beat - last[0])] += 1
                last = beat, midi
        return cls(**{name: tuple(each) for name, each in counts.items()})

    @classmethod
    def of_scores(cls, takes: Iterable[tuple[Score, LeadSheet]], role: str = "lead") -> PhraseMemory | None:
        """The habits of whoever has a role in these takes, such as `corpus.hearing` writes down; None where there are
        too few notes to tell.

        Args:
            takes: scores, and the sheets that they were played by: whose swing is taken out, and whose bars count.
        """
        memory = cls.of_lines(
            (sheet, [(notated_in(sheet, note.start), note.midi) for note in score.notes if note.role == role])
            for score, sheet in takes
        )
        return memory if sum(memory.intervals) >= _LEAST else None

    @classmethod
    def mixed(cls, memories: Sequence[PhraseMemory], weights: Sequence[float]) -> PhraseMemory | None:
        """One memory of several, each with its weight however much was heard of it; None without any."""
        parts = [(memory, abs(weight)) for memory, weight in zip(memories, weights, strict=True) if weight]
        if len(parts) < 2:
            return parts[0][0] if parts else None
        notes, total = sum(sum(memory.beats) for memory, _ in parts), sum(weight for _, weight in parts)
        mixed = {}
        for name, size in _SIZES.items():
            shares = np.zeros(size)
            for memory, weight in parts:
                counts = np.array(getattr(memory, name))
                shares += weight / total * counts / max(counts.sum(), 1.0)
            mixed[name] = tuple(round(float(share * notes), 3) for share in shares)
        return cls(**mixed)

    def to_dict(self) -> dict[str, Any]:
        """The memory in JSON's types."""
        counts = {name: [int(c) if c.is_integer() else c for c in getattr(self, name)] for name in _SIZES}
        return {"format": _FORMAT, "version": _VERSION, **counts}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PhraseMemory:
        """The memory that `to_dict` wrote.

        Raises:
            ValueError: saying what is wrong with it.
        """
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
            raise ValueError(f"it is no phrase memory: its format is not {_FORMAT!r}")
        if data.get("version") != _VERSION:
            raise ValueError(f"it is of version {_told(data.get('version'))}; version {_VERSION} is read")
        if missing := [name for name in _SIZES if name not in data]:
            raise ValueError(f"{', '.join(missing)} is missing")
        return cls(**{name: data[name] for name in _SIZES})

    @cached_property
    def shares(self) -> dict[str, np.ndarray]:
        """By name how often each thing is done, as shares of 1, of which none is 0: what was heard too little of is
        taken for possible."""
        shares = {}
        for name, size in _SIZES.items():
            counts = np.array(getattr(self, name)) + _DOUBT / size
            shares[name] = counts / counts.sum()
        return shares

    def distance(self, line: PhraseMemory) -> float:
        """How far what a line does is from what the player does: 0 the same, 1 nothing in common.

        The mean over intervals, lengths, places and beats of half the absolute differences of shares (total variation).
        """
        total = 0.0
        for name in _SIZES:
            counts = np.array(getattr(line, name))
            total += 0.5 * float(np.abs(counts / max(counts.sum(), 1.0) - self.shares[name]).sum())
        return total / len(_SIZES)


_SIZES = dict(zip([field.name for field in dataclasses.fields(PhraseMemory)],
                  (2 * WIDEST + 1, len(LENGTHS), len(PLACES), BEATS), strict=True))  # fmt: skip


def _told(value: Any) -> str:
    return f"{len(value)}" if isinstance(value, (list, tuple)) else repr(value)[:40]


def _on_grid(beat: float) -> float:
    """A beat, at the nearest place where notes are written."""
    whole = math.floor(beat)
    return whole + min((*PLACES, 1.0), key=lambda place: abs(beat - whole - place))


def _nearest(grid: Sequence[float], value: float) -> int:
    return min(range(len(grid)), key=lambda index: abs(grid[index] - value))


__all__ = ["BEATS", "LENGTHS", "PLACES", "WIDEST", "PhraseMemory"]
