"""What all readers of files share: spans laid into a bar, and words that say where the music goes on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from ..music.chart_tokens import TOKENS
from ..music.chords import Chord
from ..music.metre import Metre
from ..music.spans import MIN_SPAN_BEATS, ChordSpan
from ..music.unfolding import Jump, WrittenBar

_AFTER_SOLOS = re.compile(r"(?i)^.*\bafter\s+(?:all\s+|the\s+|last\s+)*solos?\b[\s,:;.-]*")

Placed = tuple[float, Chord, str]  # quarter notes from the bar line, chord, kind


def spans_of(placed: Sequence[Placed], beats: float, before: ChordSpan | None) -> tuple[ChordSpan, ...]:
    """The spans of a bar of `beats` quarter notes: each chord lasts to the next, the one before goes on until then."""
    entries = sorted((max(0.0, at), index, chord, kind) for index, (at, chord, kind) in enumerate(placed))
    starts: list[tuple[float, Chord, str]] = []
    for at, _, chord, kind in entries:
        if at >= beats - MIN_SPAN_BEATS:
            continue
        if starts and at - starts[-1][0] < MIN_SPAN_BEATS:
            starts[-1] = (starts[-1][0], chord, kind)
        else:
            starts.append((at, chord, kind))
    if not starts or starts[0][0] >= MIN_SPAN_BEATS:
        going_on = (before.chord, before.kind) if before else (Chord.no_chord(), "rest")
        starts.insert(0, (0.0, *going_on))
    else:
        starts[0] = (0.0, *starts[0][1:])
    ends = [at for at, _, _ in starts[1:]] + [beats]
    return tuple(
        ChordSpan(chord, end - at, "rest" if chord.is_no_chord else kind)
        for (at, chord, kind), end in zip(starts, ends, strict=True)
    )


def take_words(words: str, bar: WrittenBar) -> bool:
    """Take in words such as "D.S. al Coda", "Fine" or "To Coda" that stand at a bar; whether they were such.

    "After solos, D.C. al Fine" is a D.C. al Fine too.
    """
    text = _AFTER_SOLOS.sub("", " ".join(words.split()))
    match = TOKENS.fullmatch(text) or TOKENS.match(text)
    if match is None or match.end() < len(text.rstrip(" .")):
        return False
    if match.group("jump") is not None:
        goal = (match.group("goal") or "").lower()
        number = re.search(r"\d", goal)
        repeats = bool(match.group("rep")) and not re.search(r"(?i)no|senza|without", match.group("rep"))
        goal = number.group() if number else "fine" if "fine" in goal else "coda" if "coda" in goal else ""
        bar.jump = Jump(re.match(r"(?i)d\.?\s*s|dal", text) is not None, goal, repeats, text)
        return True
    if match.group("sign") is not None:
        plain = text.lower().strip(".[]()")
        if plain == "fine":
            bar.fine = True
        elif plain.startswith(("to", "al")):
            bar.to_coda = True
        elif plain in ("segno", "𝄋", "§"):
            bar.segno = True
        else:
            bar.coda = True
        return True
    return False


def times_in(words: str) -> int:
    """How often words such as `3x` or "play 4 times" say that a repeat is played; 0 where they say no such thing."""
    found = re.fullmatch(r"(?i)(?:play\s+)?(?:x\s*(\d{1,2})|(\d{1,2})\s*(?:x|times))\.?", words.strip())
    return int(found.group(1) or found.group(2)) if found else 0


def without_segno(bars: Sequence[WrittenBar]) -> list[str]:
    """Let every D.S. of a file that marks no segno go back to the top; what is to be said of it."""
    lost = [bar for bar in bars if bar.jump and bar.jump.to_sign]
    if any(bar.segno for bar in bars):
        return []
    for bar in lost:
        bar.jump = dataclasses.replace(bar.jump, to_sign=False) if bar.jump else None
    return [
        f"bar {bar.number}: no segno is marked, so that {bar.jump.words!r} goes back to the top"
        for bar in lost
        if bar.jump
    ]


def last_span(bars: Sequence[WrittenBar]) -> ChordSpan | None:
    return bars[-1].spans[-1] if bars else None


def bar_of(spans: tuple[ChordSpan, ...], metre: Metre, bars: Sequence[WrittenBar]) -> WrittenBar:
    return WrittenBar(spans, metre, len(bars) + 1)
