"""What a chord symbol lets a player do: its scale for lines, its voicings for comping."""

from __future__ import annotations

import itertools
from functools import lru_cache

from ..music.chords import Chord

_DIATONIC_MAJOR = (0, 2, 4, 7, 9, 11)  # without the fourth, which no strong beat of a major chord wants


@lru_cache(maxsize=1024)
def chord_scale(chord: Chord) -> tuple[int, ...]:
    """Absolute pitch classes that a line may use over `chord`, ascending; empty for no chord.

    The usual chord scales: Ionian (fourth left out), Dorian, Mixolydian, altered, half-whole, Locrian natural
    2, whole-half diminished, melodic minor, whole tone. The chord's own tones are always among them.
    """
    if chord.root is None:
        return ()
    tones = set(chord.intervals)
    minor = 3 in tones and 4 not in tones
    dominant = 10 in tones and not minor
    if minor and 6 in tones and 7 not in tones:
        scale = (0, 2, 3, 5, 6, 8, 9, 11) if 9 in tones and 10 not in tones else (0, 2, 3, 5, 6, 8, 10)
    elif minor:
        scale = (0, 2, 3, 5, 7, 9, 11) if 11 in tones or 10 not in tones else (0, 2, 3, 5, 7, 9, 10)
    elif dominant and tones & {1, 3}:
        scale = (0, 1, 3, 4, 6, 8, 10) if 8 in tones or 7 not in tones else (0, 1, 3, 4, 7, 8, 10)
    elif dominant and 8 in tones:
        scale = (0, 2, 4, 6, 8, 10)
    elif dominant:
        scale = (0, 2, 4, 6, 7, 9, 10) if 6 in tones else (0, 2, 4, 5, 7, 9, 10)
    elif 8 in tones and 7 not in tones:
        scale = (0, 2, 4, 6, 8, 9, 11)
    else:
        scale = (0, 2, 4, 6, 7, 9, 11) if 6 in tones else _DIATONIC_MAJOR
    return tuple(sorted((chord.root + step) % 12 for step in set(scale) | tones))


def guide_tones(chord: Chord) -> tuple[int, ...]:
    """Third (or fourth) and seventh (or sixth): the two tones that tell the chord, absolute pitch classes."""
    third = next((step for step in (4, 3, 5, 2) if step in chord.intervals), None)
    seventh = next((step for step in (10, 11, 9) if step in chord.intervals), None)
    return tuple((chord.root + step) % 12 for step in (third, seventh) if step is not None)


def strong_tones(chord: Chord) -> tuple[int, ...]:
    """Root, third, fifth and seventh as the chord has them: where a line comes to rest."""
    wanted = (0, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    tones = [step for step in chord.intervals if step in wanted]
    if {3, 4} <= set(tones):  # a sharp nine beside the third
        tones.remove(3)
    if {9, 10} <= set(tones) or {9, 11} <= set(tones):  # a thirteenth beside the seventh
        tones.remove(9)
    return tuple((chord.root + step) % 12 for step in tones)


@lru_cache(maxsize=4096)
def voicing_tones(chord: Chord, kind: str) -> tuple[int, ...]:
    """Pitch classes of a voicing, most telling first.

    Args:
        kind: "shell" (third and seventh), "rootless" (third, fifth, seventh and a colour), "rooted" (with the
            root for a band without bass), "full" (four or five of the chord's own tones).
    """
    root = chord.root
    tones = set(chord.intervals)
    guides = guide_tones(chord)
    fifth = next((step for step in (7, 6, 8) if step in tones), None)
    colours = [step for step in (1, 3, 2, 8, 9, 6) if step in tones and (root + step) % 12 not in guides]
    if kind == "shell":
        chosen = list(guides)
    else:
        chosen = list(guides)
        if fifth is not None:
            chosen.append((root + fifth) % 12)
        if kind in ("rooted", "full") or not colours:
            chosen.append(root)
        chosen += [(root + step) % 12 for step in colours]
        if (
            kind == "rootless"
            and 2 not in tones
            and not colours
            and 7 in tones
            and not tones & {1, 3, 6, 8} - {3}
        ):
            chosen[-1] = (root + 2) % 12  # the ninth in place of the root: the classic rootless shape
    kept: list[int] = []
    for tone in chosen:
        if tone not in kept:
            kept.append(tone)
    return tuple(kept[: 5 if kind == "full" else 4])


def place_voicing(
    tones: tuple[int, ...], low: int, high: int, previous: tuple[int, ...] = (), centre: float = 60.0
) -> tuple[int, ...]:
    """MIDI keys for pitch classes, close together in `[low, high]`, moving as little as may be from
    `previous`."""
    best: tuple[int, ...] = ()
    best_cost = float("inf")
    for order in _orders(tones):
        for bottom in range(low + (order[0] - low) % 12, high + 1, 12):
            keys = [bottom]
            for tone in order[1:]:
                keys.append(keys[-1] + ((tone - keys[-1]) % 12 or 12))
            span = keys[-1] - keys[0]
            if keys[-1] > high or span > 19:
                continue
            gaps = [upper - lower for lower, upper in itertools.pairwise(keys)]
            cost = 0.25 * abs(sum(keys) / len(keys) - centre) + 0.15 * max(0, span - 12)
            cost += sum(1.5 for gap in gaps if gap == 1) + (1.0 if gaps and gaps[-1] == 1 else 0.0)
            if previous:
                cost += sum(min(abs(key - old) for old in previous) for key in keys) / len(keys)
                cost += 0.5 * abs(keys[-1] - previous[-1])
            if cost < best_cost:
                best, best_cost = tuple(keys), cost
    return best or tuple(sorted(low + (tone - low) % 12 for tone in tones))


@lru_cache(maxsize=4096)
def _orders(tones: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The close positions of a voicing and their drop-twos, bottom to top."""
    ring = sorted(tones)
    close = [tuple(ring[turn:] + ring[:turn]) for turn in range(len(ring))]
    drops = [(order[-2], *order[:-2], order[-1]) for order in close] if len(ring) > 3 else []
    return tuple(close + drops)


def nearest(
    midi: float, pitch_classes: tuple[int, ...], low: int, high: int, avoid: int | None = None
) -> int:
    """The MIDI key in `[low, high]` nearest to `midi` whose pitch class is among `pitch_classes`."""
    keys = [key for key in range(low, high + 1) if key % 12 in pitch_classes and key != avoid]
    if not keys:
        return int(min(max(round(midi), low), high))
    return min(keys, key=lambda key: (abs(key - midi), key))
