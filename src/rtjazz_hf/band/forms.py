"""Jazz forms: choruses put together from the phrases in `progressions`, then coloured as a band would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..music.chart import ChordSpan
from ..music.chords import Chord
from ..music.metre import Metre
from .progressions import (
    BALLAD_A,
    BALLAD_B,
    BALLAD_MINOR_A,
    BALLAD_MINOR_B,
    BIRD_BLUES,
    BLUES_CADENCE,
    BLUES_MIDDLE,
    BLUES_OPENING,
    BOSSA_A,
    BOSSA_B,
    BOSSA_MINOR_A,
    BOSSA_MINOR_B,
    FREE_QUALITIES,
    MAJOR_A,
    MAJOR_BRIDGES,
    MAJOR_C,
    MAJOR_CLOSE,
    MAJOR_TURN,
    MINOR_A,
    MINOR_BLUES_CADENCE,
    MINOR_BLUES_MIDDLE,
    MINOR_BLUES_OPENING,
    MINOR_BRIDGES,
    MINOR_C,
    MINOR_CLOSE,
    MINOR_MODES,
    MINOR_RHYTHM_A,
    MINOR_TURN,
    MODE_SHIFTS,
    MODES,
    MONTUNO,
    MONTUNO_B,
    MONTUNO_MINOR,
    MONTUNO_MINOR_B,
    OPEN,
    OPEN_B,
    RHYTHM_BRIDGES,
    RHYTHM_CLOSE,
    RHYTHM_FIRST_HALF,
    RHYTHM_SECOND_HALF,
    SIXTHS,
    SIXTHS_BRIDGES,
    SIXTHS_MINOR,
    SIXTHS_MINOR_BRIDGES,
    STREET,
    STREET_B,
    STREET_MINOR,
    STREET_MINOR_B,
    VAMP,
    VAMP_B,
    VAMP_MINOR,
    VAMP_MINOR_B,
    WALTZ_A,
    WALTZ_B,
    WALTZ_MINOR_A,
    WALTZ_MINOR_B,
)

FORMS = (
    "blues", "rhythm_changes", "aaba", "abac", "modal", "bossa", "waltz", "ballad", "free",
    "montuno", "vamp", "sixths", "street", "open",
)  # fmt: skip

Bars = list[list[str]]


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _bars(*phrases: str) -> Bars:
    bars: Bars = []
    for phrase in phrases:
        for bar in phrase.split("|"):
            bars.append(list(bars[-1]) if bar.strip() == "%" else bar.split())
    return bars


def _blues(rng: np.random.Generator, minor: bool) -> Bars:
    if minor:
        return _bars(
            *(_pick(rng, row) for row in (MINOR_BLUES_OPENING, MINOR_BLUES_MIDDLE, MINOR_BLUES_CADENCE))
        )
    if rng.random() < 0.15:
        return _bars(*BIRD_BLUES)
    return _bars(*(_pick(rng, row) for row in (BLUES_OPENING, BLUES_MIDDLE, BLUES_CADENCE)))


def _rhythm_changes(rng: np.random.Generator, minor: bool) -> Bars:
    bridge = _bars(_pick(rng, RHYTHM_BRIDGES))
    if minor:
        section = _bars(_pick(rng, MINOR_RHYTHM_A))
        close = section[:6] + _bars("Dm7b5 G7 | Cm6")
        return section + close + bridge + close
    opening = _pick(rng, RHYTHM_FIRST_HALF)
    close = _bars(opening, _pick(rng, RHYTHM_CLOSE))
    return _bars(opening, _pick(rng, RHYTHM_SECOND_HALF)) + close + bridge + close


def _song(
    rng: np.random.Generator,
    minor: bool,
    first: Sequence[str],
    bridges: Sequence[str],
    last: Sequence[str] = (),
) -> Bars:
    """AABA from six-bar A bodies and eight-bar bridges, or ABAC where `last` is given."""
    turns, closes = (MINOR_TURN, MINOR_CLOSE) if minor else (MAJOR_TURN, MAJOR_CLOSE)
    body, turn, close = _pick(rng, first), _pick(rng, turns), _pick(rng, closes)
    bridge = _bars(_pick(rng, bridges))
    if last:
        return _bars(body, turn) + bridge + _bars(body, turn) + _bars(_pick(rng, last))
    return _bars(body, turn) + _bars(body, close) + bridge + _bars(body, close)


def _waltz(rng: np.random.Generator, minor: bool) -> Bars:
    first = _pick(rng, WALTZ_MINOR_A if minor else WALTZ_A)
    second = _pick(rng, WALTZ_MINOR_B if minor else WALTZ_B)
    return _bars(first, second) if rng.random() < 0.4 else _bars(first, first, second, first)


def _modal(rng: np.random.Generator, minor: bool) -> Bars:
    colour = _bars(_pick(rng, MINOR_MODES if minor else MODES))
    home = colour * 4
    shift = int(rng.choice(MODE_SHIFTS))
    away = _transposed(colour, shift) * 4
    kind = rng.random()
    if kind < 0.5:  # AABA: the same mode, planed away for the bridge
        return home + home + away + home
    if kind < 0.8:  # planing: four bars a mode
        steps = [0, shift, 0, int(rng.choice(MODE_SHIFTS))]
        return [bar for step in steps for bar in _transposed(colour, step) * 2]
    other = _bars(_pick(rng, MODES + MINOR_MODES))
    return home + _transposed(other, shift) * 4


def _free(rng: np.random.Generator, minor: bool) -> Bars:
    """Chords that no tune has: any quality, roots moving by fifths, steps and thirds."""
    length = int(rng.choice((4, 8, 8, 12, 16)))
    root, bars = 0, []
    for _ in range(length):
        bar: list[str] = []
        if bars and rng.random() < 0.03:
            bars.append(["N.C."])
            continue
        for _ in range(int(rng.choice((1, 1, 1, 2, 2, 4), p=(0.2, 0.2, 0.2, 0.15, 0.15, 0.1)))):
            bar.append(Chord.parse("C" + _pick(rng, FREE_QUALITIES)).transpose(root).symbol)
            if bar[-1].isalnum() and rng.random() < 0.08:
                bar[-1] += "/" + Chord.parse("C").transpose(root + int(rng.choice((3, 4, 7, 10, 2)))).symbol
            root = (root + int(rng.choice((5, 5, 5, 7, 11, 1, 2, 10, 3, 9, 4, 6)))) % 12
        bars.append(bar)
    return bars


def _transposed(bars: Bars, semitones: int) -> Bars:
    return [[Chord.parse(symbol).transpose(semitones).symbol for symbol in bar] for bar in bars]


def write_form(form: str, minor: bool, rng: np.random.Generator) -> Bars:
    """One chorus of `form` (one of `FORMS`) in C, as chord symbols per bar."""
    if form == "blues":
        return _blues(rng, minor)
    if form == "rhythm_changes":
        return _rhythm_changes(rng, minor)
    if form == "modal":
        return _modal(rng, minor)
    if form == "waltz":
        return _waltz(rng, minor)
    if form == "free":
        return _free(rng, minor)
    if form == "montuno":
        tune = (MONTUNO_MINOR, MONTUNO_MINOR_B) if minor else (MONTUNO, MONTUNO_B)
        return _bars(*(_pick(rng, row) for row in tune))
    if form == "vamp":
        first, second = (VAMP_MINOR, VAMP_MINOR_B) if minor else (VAMP, VAMP_B)
        body = _pick(rng, first)
        return _bars(body, body, _pick(rng, second), body)
    if form == "street":
        return _bars(_pick(rng, STREET_MINOR if minor else STREET), _pick(rng, STREET_MINOR_B if minor else STREET_B))
    if form == "open":
        return _bars(_pick(rng, OPEN), _pick(rng, OPEN), _pick(rng, OPEN_B))
    if form == "sixths":
        body = _pick(rng, SIXTHS_MINOR if minor else SIXTHS)
        return _bars(body, body, _pick(rng, SIXTHS_MINOR_BRIDGES if minor else SIXTHS_BRIDGES), body)
    if form == "bossa":
        return _song(rng, minor, *((BOSSA_MINOR_A, BOSSA_MINOR_B) if minor else (BOSSA_A, BOSSA_B)))
    if form == "ballad":
        return _song(rng, minor, *((BALLAD_MINOR_A, BALLAD_MINOR_B) if minor else (BALLAD_A, BALLAD_B)))
    first, bridges, last = (MINOR_A, MINOR_BRIDGES, MINOR_C) if minor else (MAJOR_A, MAJOR_BRIDGES, MAJOR_C)
    if form == "abac":
        return _song(rng, minor, first, bridges, last)
    if form == "aaba":
        return _song(rng, minor, first, bridges)
    raise ValueError(f"unknown form {form!r}: choose from {', '.join(FORMS)}")


def colour_chords(bars: Bars, rng: np.random.Generator, amount: float, blues: bool = False) -> Bars:
    """Extensions and substitutions, as a band would play them; `amount` 0 (as written) to 1 (rich).

    Plain dominants that fall a fifth become a ninth, a thirteenth, an altered chord before a minor one, or
    their tritone substitute; plain major and minor sevenths get ninths. Repeats of a bar get the same
    colours, so that the form can still be heard. In a `blues` the dominants on C and F are at rest and stay
    so.
    """
    flat = [symbol for bar in bars for symbol in bar]
    chords = [Chord.parse(symbol) for symbol in flat]
    chosen: dict[tuple[str, str], str] = {}
    coloured: list[str] = []
    for index, chord in enumerate(chords):
        following = chords[(index + 1) % len(chords)]
        place = (flat[index], following.symbol)
        if place not in chosen:
            rests = blues and chord.root in (0, 5)
            chosen[place] = _colour(chord, following, rests, rng) if rng.random() < amount else chord.symbol
        coloured.append(chosen[place])
    symbols = iter(coloured)
    return [[next(symbols) for _ in bar] for bar in bars]


def _colour(chord: Chord, following: Chord, rests: bool, rng: np.random.Generator) -> str:
    quality, name = chord.quality, chord.symbol
    if chord.root is None or chord.bass != chord.root:
        return name
    if quality == "7" and not rests and following.root == (chord.root + 5) % 12:
        if 3 in following.intervals and 4 not in following.intervals:
            return name + _pick(rng, ("b9", "b13", "alt", "#9"))
        if rng.random() < 0.3:
            return chord.transpose(6).symbol + _pick(rng, ("", "#11"))
        return name[:-1] + _pick(rng, ("9", "13", "7b9", "7", "9sus4"))
    if quality == "7":
        return name[:-1] + _pick(rng, ("9", "13", "7"))
    if quality == "maj7":
        return name[:-4] + _pick(rng, ("maj9", "6", "69", "maj7"))
    if quality == "m7":
        return name[:-1] + _pick(rng, ("9", "7", "11"))
    return name


def to_spans(bars: Bars, metre: Metre, semitones: int, sharps: bool) -> list[tuple[ChordSpan, ...]]:
    """Bars of symbols in C -> bars of chord spans of a metre, `semitones` higher."""
    out = []
    for bar in bars:
        even = (metre.count, metre.unit) in ((3, 4), (4, 4))
        lengths = [metre.beats / len(bar)] * len(bar) if even else list(metre.share(len(bar)))
        if (metre.beats, metre.unit, len(bar)) == (3, 4, 2):  # two chords in a waltz bar fall on one and three
            lengths = [2.0, 1.0]
        chords = [Chord.parse(symbol).transpose(semitones, sharps=sharps) for symbol in bar]
        out.append(tuple(ChordSpan(chord, beats) for chord, beats in zip(chords, lengths)))
    return out
