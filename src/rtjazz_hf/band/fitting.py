"""A melody that somebody brings, and the chart and band that it meets: who plays it, and where they disagree."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..music.lead_sheet import LeadSheet
from ..music.vocabulary import CHORD_INSTRUMENTS, KEYS, choose_lead, is_minor, tonic
from .melody import RANGES
from .parts import REACH, octaves, within
from .score import Score, ScoreNote
from .tune import form_bars

MELODY_ROLES = ("lead", "second")
_OUT_OF_KEY = 0.12  # share of a melody that another key explains better before it is said


def fit_melody(score: Score, sheet: LeadSheet) -> tuple[Score, list[str]]:
    """The melody of a score for the band of a lead sheet, and what there is to say about the two.

    It is played as written, from the first bar on: nothing is stretched, cut or transposed but by octaves, into the
    range of who plays it. That is whom the score names, if they are in the band; a piano, which files name that
    say nothing, leaves it to whoever leads in the sheet. Of a score without a melody all parts are taken as they are.
    """
    melody = score.only(MELODY_ROLES)
    notes = [note for note in melody.notes if note.role == "lead"]
    if not notes:
        roles = ", ".join(sorted({note.role for note in score.notes}))
        return score, [f"the score has no melody: its {roles} is played; for a melody, name its track 'lead'"]
    said = [
        text
        for text in (_others(score), _metre(melody, sheet), _length(notes, sheet), _key(notes, sheet))
        if text is not None
    ]
    placed: list[ScoreNote] = []
    for role in MELODY_ROLES:
        placed += _played(score, sheet, role, said)
    player_of = {note.role: note.player for note in placed}
    controls = tuple(
        dataclasses.replace(control, player=player_of.get(control.role, control.player))
        for control in melody.controls
    )
    return dataclasses.replace(melody, notes=tuple(placed), controls=controls), said


def _others(score: Score) -> str | None:
    others = sorted({note.role for note in score.notes} - set(MELODY_ROLES))
    if not others:
        return None
    parts = ", ".join(others)
    return (
        f"of the file only the melody is taken, not its {parts}: give it as score= to have all of it played"
    )


def _metre(melody: Score, sheet: LeadSheet) -> str | None:
    metres = {sheet.metre_of(bar).beats for bar in range(sheet.num_bars)}
    if melody.metre is None or {_bar(melody.metre)} == metres:
        return None
    return (
        f"the melody is in {melody.metre} and the chart in {_metres(sheet)}: its beats are played as they are "
        "written, across the chart's bar lines"
    )


def _bar(metre: str) -> float:
    count, unit = metre.split("/")
    return int(count) * 4 / int(unit)


def _metres(sheet: LeadSheet) -> str:
    return " and ".join(dict.fromkeys(str(sheet.metre_of(bar)) for bar in range(sheet.num_bars)))


def _length(notes: list[ScoreNote], sheet: LeadSheet) -> str | None:
    end = max(note.start + min(note.beats, 1.0) for note in notes)
    bars = max(0, sheet.bar_at(end - 1e-6)[0] + 1)
    form = sheet.num_bars if len(sheet.sections) == 1 else form_bars(sheet)
    if bars > sheet.num_bars and not sheet.loops:
        return f"the melody lasts {bars} bars and the music {sheet.num_bars}: its end is not heard"
    if bars > form:
        return f"the melody lasts {bars} bars and the chart {form}: the chart starts again under it"
    if bars < form - 1:
        return f"the melody lasts {bars} bars and the chart {form}: after it the band plays on"
    return None


def _key(notes: list[ScoreNote], sheet: LeadSheet) -> str | None:
    weights = np.zeros(12)
    for note in notes:
        weights[note.midi % 12] += min(note.beats, 4.0)
    weights /= weights.sum()

    def share(key: str) -> float:
        steps = (0, 2, 3, 5, 7, 8, 10) if is_minor(key) else (0, 2, 4, 5, 7, 9, 11)
        return float(sum(weights[(tonic(key) + step) % 12] for step in steps))

    # the key's own weight on tonic and fifth tells the seven modes of one scale apart
    best = max(
        KEYS, key=lambda key: share(key) + 0.1 * weights[tonic(key)] + 0.05 * weights[(tonic(key) + 7) % 12]
    )
    missed = share(best) - share(sheet.key)
    if missed < _OUT_OF_KEY:
        return None
    return (
        f"the melody seems to be in {best} and the chart is in {sheet.key}: both are played as written; transpose one "
        "of them if they are meant to agree"
    )


def _played(score: Score, sheet: LeadSheet, role: str, said: list[str]) -> list[ScoreNote]:
    """The notes of a role by who plays them, in their range."""
    notes = [note for note in score.notes if note.role == role]
    if not notes:
        return []
    by_player: dict[str, list[ScoreNote]] = {}
    for note in notes:
        by_player.setdefault(_player(note, sheet, role), []).append(note)
    placed: list[ScoreNote] = []
    for player, mine in by_player.items():
        if player not in sheet.instruments:
            said.append(
                f"nobody in the band plays melodies: the {player.replace('_', ' ')} joins for the {role}"
            )
        _, shift, _ = within(mine, RANGES[player])
        moved = [
            dataclasses.replace(note, midi=min(127, max(0, note.midi + shift)), player=player)
            for note in mine
        ]
        inside, _, outside = within(moved, REACH[player])
        if shift:
            said.append(f"the {role} is played {octaves(shift)}, where the {player.replace('_', ' ')} has it")
        if outside:
            said.append(
                f"{outside} notes of the {role} lie outside the reach of the {player.replace('_', ' ')}: each is "
                "played by octaves inside it"
            )
        placed += inside
    return placed


def _player(note: ScoreNote, sheet: LeadSheet, role: str) -> str:
    beat = note.start % sheet.num_beats if sheet.loops else min(max(note.start, 0.0), sheet.num_beats - 1e-6)
    section = next(
        (each for each in sheet.sections if each.start_beat <= beat < each.end_beat), sheet.sections[-1]
    )
    lead = section.lead if section.lead in RANGES else None
    band = section.instruments or sheet.instruments
    lead = lead or choose_lead(band) or next((name for name in CHORD_INSTRUMENTS if name in band), None)
    if role == "lead":
        named = note.player in band and note.player != "piano"
        return note.player if named else lead or note.player
    melodic = [name for name in band if name in RANGES and name not in ("bass", lead)]
    if note.player in melodic:
        return note.player
    return next((name for name in melodic if name not in CHORD_INSTRUMENTS), lead or note.player)


__all__ = ["MELODY_ROLES", "fit_melody"]
