"""The chord that some keys make."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from .chords import Chord

# In the order in which they are thought of; each also without its fifth where it has a seventh or a sixth, and the
# thirteenths as hands take them: without ninth, eleventh, fifth.
_QUALITIES = (
    "", "m", "7", "maj7", "m7", "6", "m6", "m7b5", "dim7", "dim", "aug", "sus4", "7sus4", "sus2", "mM7", "9", "maj9",
    "m9", "69", "7b9", "7#9", "7b5", "7#5", "maj7#5", "13", "m11", "9sus4", "7#11", "maj7#11", "add9", "madd9", "maj13",
    "m13",
)  # fmt: skip
_NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")


@lru_cache(maxsize=1)
def _table() -> dict[frozenset[int], str]:
    """Intervals over the root -> quality."""
    table: dict[frozenset[int], str] = {}
    fewer: dict[frozenset[int], str] = {}
    for quality in _QUALITIES:
        try:
            intervals = frozenset(Chord.parse(f"C{quality}").intervals)
        except ValueError:
            continue
        table.setdefault(intervals, quality)
        if len(intervals) > 3:
            fewer.setdefault(intervals - {7}, quality)
        for gone in ({2}, {5}, {2, 5}, {2, 7}, {5, 7}, {2, 5, 7}) if "13" in quality else ():
            fewer.setdefault(intervals - gone, quality)
    return fewer | table


def name_chord(keys: Iterable[int]) -> Chord | None:
    """The chord that MIDI keys make when they are held together; None where they are fewer than three notes, or none
    that has a name here.

    The lowest key is the bass. A chord over its root is thought of before one over another of its notes.
    """
    keys = sorted(keys)
    if not keys:
        return None
    held = {key % 12 for key in keys}
    bass = keys[0] % 12
    if len(held) < 3:
        return None
    for root in [bass, *sorted(held - {bass}, key=lambda each: (each - bass) % 12)]:
        for notes in (held, held - {bass}) if root != bass else (held,):
            quality = _table().get(frozenset((each - root) % 12 for each in notes))
            if quality is not None and len(notes) >= 3:
                slash = "" if root == bass else f"/{_NAMES[bass]}"
                return Chord.parse(f"{_NAMES[root]}{quality}{slash}")
    return None


__all__ = ["name_chord"]
