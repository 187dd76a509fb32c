"""Metres: how long a bar is, where its beats are felt, and how chords share it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

MOST_BEATS = 15  # the upper figure; 15/8 has been written
_GROUPS = {
    5: (3, 2),
    6: (3, 3),
    7: (4, 3),
    8: (4, 4),
    9: (3, 3, 3),
    10: (3, 2, 3, 2),
    11: (4, 4, 3),
    12: (4, 4, 4),
}
_EIGHTHS = {
    1: (1,),
    2: (2,),
    4: (2, 2),
    5: (3, 2),
    7: (2, 2, 3),
    8: (3, 3, 2),
    10: (3, 3, 2, 2),
    11: (3, 3, 3, 2),
}
_SIGNS = {"𝄴": "4/4", "C": "4/4", "𝄵": "2/2", "C|": "2/2", "¢": "2/2"}
_WRITTEN = re.compile(r"\s*(\d{1,2})\s*/\s*(\d{1,2})\s*(?:\(\s*(\d+(?:\s*\+\s*\d+)*)\s*\))?\s*")
_WRITTEN_GROUPS = re.compile(r"\s*\(?\s*(\d+(?:\s*\+\s*\d+)+)\s*\)?\s*/\s*(\d{1,2})\s*")


@dataclass(frozen=True)
class Metre:
    """A time signature.

    Attributes:
        count: the upper figure. unit: the lower figure: 2, 4, 8 or 16.
        groups: how the upper figure falls into groups: (3, 2) of a 5/4; (2, 2, 3) of a 7/8.
    """

    count: int
    unit: int
    groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.unit not in (2, 4, 8, 16) or not 1 <= self.count <= MOST_BEATS:
            raise ValueError(
                f"unsupported metre {self.count}/{self.unit}: choose 2/4, 3/4, 4/4, 5/4, 6/4, 7/4, 3/8, 6/8, 9/8, "
                f"12/8, 2/2, or another of 1 to {MOST_BEATS} halves, quarters, eighths or sixteenths"
            )
        if not self.groups:
            object.__setattr__(self, "groups", _usual_groups(self.count, self.unit))
        if sum(self.groups) != self.count or min(self.groups) < 1:
            raise ValueError(
                f"a {self.count}/{self.unit} bar does not fall into {'+'.join(map(str, self.groups))}"
            )

    @classmethod
    def parse(cls, text: str) -> Metre:
        """Read `"5/4"`, `"5/4(2+3)"`, `"2+3/4"`, `"C"` (common time) or `"C|"` (cut time).

        Raises:
            ValueError: where it is no metre; the message says what is.
        """
        return _parse(text)

    @property
    def beats(self) -> float:
        """Length of a bar in quarter notes, which is what a lead sheet counts in."""
        return self.count * 4.0 / self.unit

    @property
    def is_compound(self) -> bool:
        """Whether the beat is a dotted note: 6/8, 9/8, 12/8, and a 3/8 felt in one."""
        return self.unit >= 8 and set(self.groups) == {3}

    @cached_property
    def pulses(self) -> tuple[tuple[float, float, int, int], ...]:
        """The beats as they are felt: start and length in quarter notes, place in its group, beats of the group."""
        note = 4.0 / self.unit
        found: list[tuple[float, float, int, int]] = []
        at = 0.0
        if self.unit >= 8:  # a group is a beat: dotted, or plain
            lengths = [group * note for group in self.groups]
            parts = _bundles(len(lengths))
        else:  # halves are two quarters: cut time is counted in four
            per = 2 if self.unit == 2 else 1
            lengths = [note / per] * (self.count * per)
            parts = [group * per for group in self.groups]
        places = [(place, part) for part in parts for place in range(part)]
        for length, (place, part) in zip(lengths, places, strict=True):
            found.append((at, length, place, part))
            at += length
        return tuple(found)

    @property
    def clicks(self) -> tuple[float, ...]:
        """Where a metronome clicks, in quarter notes: on the felt beats, on the halves in cut time."""
        starts = tuple(start for start, _, _, _ in self.pulses)
        return starts[::2] if self.unit == 2 else starts

    def share(self, chords: int) -> tuple[float, ...]:
        """How many quarter notes each of `chords` chords of a bar lasts where nothing says so.

        As players mean it: evenly on the beats where that comes out even, and else the first ones longer: three
        chords of a 4/4 bar are 2 + 1 + 1, two of a 5/4 bar 3 + 2.
        """
        return _share(self, chords)

    def __str__(self) -> str:
        usual = self.groups == _usual_groups(self.count, self.unit)
        return f"{self.count}/{self.unit}" + ("" if usual else f"({'+'.join(map(str, self.groups))})")


def _usual_groups(count: int, unit: int) -> tuple[int, ...]:
    if unit >= 8:
        if count % 3 == 0:
            return (3,) * (count // 3)
        return _EIGHTHS.get(count, (2,) * (count // 2 - 1) + (2 + count % 2,))
    return (
        _GROUPS.get(count, (count,))
        if count <= 12
        else (4,) * (count // 4) + ((count % 4,) if count % 4 else ())
    )


def _bundles(beats: int) -> list[int]:
    """Beats of a bar in eighths as a band counts them: four of 12/8 are one group, five are three and two."""
    return list(_GROUPS.get(beats, (beats,)))


@lru_cache(maxsize=256)
def _parse(text: str) -> Metre:
    plain = text.strip() if isinstance(text, str) else ""
    plain = _SIGNS.get(plain, plain)
    if match := _WRITTEN.fullmatch(plain):
        groups = tuple(int(part) for part in (match.group(3) or "").split("+") if part.strip())
        return Metre(int(match.group(1)), int(match.group(2)), groups)
    if match := _WRITTEN_GROUPS.fullmatch(plain):
        groups = tuple(int(part) for part in match.group(1).split("+"))
        return Metre(sum(groups), int(match.group(2)), groups)
    raise ValueError(f"unknown metre {text!r}: write it as 4/4, 6/8, 5/4 or 5/4(2+3)")


@lru_cache(maxsize=1024)
def _share(metre: Metre, chords: int) -> tuple[float, ...]:
    even = metre.beats / chords
    pulse = metre.pulses[0][1]
    if chords in (1, metre.count) or (metre.count, metre.unit, chords) == (3, 4, 2):
        return (even,) * chords
    if metre.unit < 8 and (even / pulse).is_integer():
        return (even,) * chords
    parts: list[list[float]] = []  # the felt beats of each chord: first those of each group
    for _, duration, place, _ in metre.pulses:
        if place == 0:
            parts.append([])
        parts[-1].append(duration)
    while len(parts) > chords:
        last = parts.pop()
        parts[-1] += last
    while len(parts) < chords:
        longest = max(sum(part) for part in parts)
        index = max(number for number, part in enumerate(parts) if sum(part) == longest)
        part = parts[index]
        if len(part) > 1:
            middle = (len(part) + 1) // 2
            parts[index : index + 1] = [part[:middle], part[middle:]]
        else:
            first = part[0] * 2 / 3 if (part[0] * 2 / 3).is_integer() else part[0] / 2
            parts[index : index + 1] = [[first], [part[0] - first]]
    return tuple(float(sum(part)) for part in parts)
