"""Takes whose lead plays a plain song, as a file that somebody brings has it: held notes, straight, of one loudness,
going its own way over the chords."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..band.composer import MAX_LEAD_IN_S
from ..band.ensemble import Band
from ..band.fitting import fit_melody
from ..band.performance import Take
from ..band.score import Score, ScoreNote
from ..music.lead_sheet import LeadSheet
from ..music.vocabulary import is_minor, tonic

_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
_LENGTHS = {0.5: 0.2, 1.0: 0.4, 1.5: 0.1, 2.0: 0.2, 3.0: 0.1}  # beats
_FAST_LENGTHS = {1.0: 0.45, 2.0: 0.35, 3.0: 0.1, 4.0: 0.1}
_FAST = 150.0  # beats a minute from which on a song is written in longer notes
_STEPS = {0: 0.17, 1: 0.45, 2: 0.22, 3: 0.1, 4: 0.06}  # degrees of the scale
_MIDDLE = (60, 76)  # keys that a song stays near
_BAR_HELD = 0.2  # chance of a bar of one note
_REST = 0.06  # chance that a note of a beat or more is a rest


def write_song(sheet: LeadSheet, rng: np.random.Generator) -> Score:
    """A melody over a whole lead sheet: two-bar phrases of a few rhythms that come back, by step in its key.

    Args:
        sheet: its key, metres and length are the song's; its chords are not looked at.
        rng: the one source of chance.
    """
    steps = _MINOR if is_minor(sheet.key) else _MAJOR
    scale = [key for key in range(40, 100) if (key - tonic(sheet.key)) % 12 in steps]
    middle = rng.uniform(*_MIDDLE)
    place = int(np.argmin([abs(key - middle) for key in scale]))
    touch, velocity = rng.uniform(0.82, 1.0), int(rng.integers(64, 104))
    lengths = _LENGTHS if sheet.tempo < _FAST else _FAST_LENGTHS
    rhythms: dict[float, list[tuple[float, ...]]] = {}
    phrases: list[list[int]] = []
    notes: list[ScoreNote] = []
    for bar in range(sheet.num_bars):
        start, beats = sheet.bar_start(bar), sheet.metre_of(bar).beats
        known = rhythms.setdefault(beats, [])
        if len(known) < 4:
            known.append(_rhythm(beats, lengths, rng))
        rhythm = known[int(rng.integers(len(known)))]
        if phrases and rng.random() < 0.35:  # the same turn again, from where the line stands
            moves = phrases[int(rng.integers(len(phrases)))]
        else:
            moves = [_draw(_STEPS, rng) * (1 if rng.random() < 0.5 else -1) for _ in range(8)]
            phrases.append(moves)
        at = start
        for index, length in enumerate(rhythm):
            if abs(scale[place] - middle) > 7:
                place += 1 if scale[place] < middle else -1
            else:
                place += moves[index % len(moves)]
            sharp = 1 if rng.random() < 0.03 else 0
            if length < 1.0 or rng.random() >= _REST:
                notes.append(ScoreNote(at, touch * length, scale[place] + sharp, velocity, "piano", "lead"))
            at += length
    return Score(tuple(notes), told=("lead", "second"), key=sheet.key)


def _rhythm(beats: float, lengths: dict[float, float], rng: np.random.Generator) -> tuple[float, ...]:
    """Lengths that fill a bar; quavers come in pairs, or after a dotted note."""
    if rng.random() < _BAR_HELD:
        return (beats,)
    found: list[float] = []
    left = beats
    while left > 1e-6:
        length = min(_draw(lengths, rng), left)
        found.append(length)
        left -= length
        if length % 1 == 0.5 and left >= 0.5:
            found.append(0.5)
            left -= 0.5
    return tuple(found)


def _draw(weighted: dict, rng: np.random.Generator):
    keys = list(weighted)
    weights = np.array(list(weighted.values()))
    return keys[int(rng.choice(len(keys), p=weights / weights.sum()))]


def compose_song(lead_sheet: LeadSheet, rng: np.random.Generator) -> Take:
    """A lead sheet played once by the band that plays live, with a plain song as its melody.

    Args:
        lead_sheet: any sheet; its own `beat_offset` is replaced, as by `compose`.
        rng: the one source of chance.
    """
    lead_in = float(rng.uniform(0.0, MAX_LEAD_IN_S))
    sheet = dataclasses.replace(lead_sheet, beat_offset=-lead_in * lead_sheet.tempo / 60.0)
    melody, _ = fit_melody(write_song(sheet, rng), sheet)
    band = Band(sheet, int(rng.integers(2**31)), melody=melody)
    seconds = lead_in + sheet.num_beats * 60.0 / sheet.tempo
    return band.write(sheet.num_beats).to_take(sheet, seconds)


__all__ = ["compose_song", "write_song"]
