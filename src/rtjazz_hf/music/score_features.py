"""Per-frame features of what the players play: layout 2 of what the flow sees, beside the lead sheet's.

A frame of the flow's conditions is `[lead sheet | score]`. The lead sheet's part (`features.py`, layout 1) says which
chord sounds and who plays; the score's part says where in a bar of any metre the frame lies, and which notes every
role plays. A role whose flag is 0 has not been told, which is not the same as a role that is told and silent: what
nobody tells, the flow invents.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .features import LEAD_SHEET_DIM, slices_of, without_chords
from .vocabulary import INSTRUMENTS

NOTE_ROLES: tuple[str, ...] = ("lead", "second", "bass", "comp", "drums")
PITCHED_ROLES: tuple[str, ...] = NOTE_ROLES[:4]
BENT_ROLES: tuple[str, ...] = NOTE_ROLES[:3]  # one note at a time, so one bend at a time
NUM_KEYS, LOWEST_KEY = 88, 21  # of a piano, MIDI
MAX_BEATS_PER_BAR = 12
AHEAD_S = 0.5  # how far before its onset a note is announced
PULSE_S = 0.05  # fall-off of an onset's pulse
PULSE_FRAMES = 18

# What General MIDI drum keys are to the ear: kick, side stick, snare or slap, brush swirl, closed or pedalled hat, open
# hat, ride, bell, crash, toms.
STROKES: tuple[str, ...] = (
    "kick", "side_stick", "snare", "swirl", "hat", "open_hat", "ride", "bell", "crash", "tom",
)  # fmt: skip
_STROKE_OF = {
    35: 0, 36: 0, 37: 1, 38: 2, 39: 2, 40: 3, 42: 4, 44: 4, 46: 5, 51: 6, 59: 6, 53: 7, 49: 8, 52: 8, 55: 8, 57: 8,
    41: 9, 43: 9, 45: 9, 47: 9, 48: 9, 50: 9,
}  # fmt: skip
_OTHER_STROKE = 2

# The order and the widths are what trained weights read: append, never reorder.
_LAYOUT: tuple[tuple[str, int], ...] = (
    ("beat_in_bar", MAX_BEATS_PER_BAR),
    ("beats_per_bar", MAX_BEATS_PER_BAR),
    ("group_pulse", 1),  # 1 where a group of beats begins (5/4 is 3 + 2), falling off
    ("told", len(NOTE_ROLES)),
    *((f"{role}_{what}", NUM_KEYS) for role in PITCHED_ROLES for what in ("sounding", "struck")),
    ("strokes", len(STROKES)),
    ("ahead", NUM_KEYS),  # what any role strikes within half a second
    *((f"{role}_{what}", 1) for role in BENT_ROLES for what in ("bend", "vibrato", "swell")),
    *((f"{role}_player", len(INSTRUMENTS)) for role in ("lead", "second", "comp")),
)


SCORE_SLICES: dict[str, slice] = slices_of(_LAYOUT)
SCORE_DIM: int = sum(width for _, width in _LAYOUT)

# Columns of a table of notes and of one of controls, as `Score.rows` gives them.
NOTE_COLUMNS = ("start", "seconds", "midi", "velocity", "role", "player")
CONTROL_COLUMNS = ("start", "role", "kind", "value")
CONTROL_KINDS = ("bend", "vibrato", "swell")  # semitones; depth 0 to 1; loudness 0 to 1


def columns_of(role: str) -> list[slice]:
    """Where a role is told of, its flag left out."""
    names = ["strokes"] if role == "drums" else [f"{role}_sounding", f"{role}_struck"]
    names += [f"{role}_{kind}" for kind in CONTROL_KINDS if role in BENT_ROLES]
    names += [f"{role}_player"] if f"{role}_player" in SCORE_SLICES else []
    return [SCORE_SLICES[name] for name in names]


def without_notes(features, roles: Iterable[str] = NOTE_ROLES):
    """Score features `(..., SCORE_DIM)`, an array or tensor, that say nothing about these roles; the metre stays.

    What comes ahead is of all roles together, so it is only kept where all that were told still are.
    """
    roles = tuple(roles)
    kept = features.copy() if isinstance(features, np.ndarray) else features.clone()
    if roles:
        kept[..., SCORE_SLICES["ahead"]] = 0
    for role in roles:
        kept[..., SCORE_SLICES["told"].start + NOTE_ROLES.index(role)] = 0
        for columns in columns_of(role):
            kept[..., columns] = 0
    return kept


def without_chords_and_notes(features):
    """Conditions `(..., LEAD_SHEET_DIM)` or `(..., LEAD_SHEET_DIM + SCORE_DIM)` with beat, metre and band kept, and no
    word about chords and notes: what guidance pushes away from."""
    kept = without_chords(features)
    if kept.shape[-1] > LEAD_SHEET_DIM:
        kept[..., LEAD_SHEET_DIM:] = without_notes(kept[..., LEAD_SHEET_DIM:])
    return kept


def key_column(midi: int) -> int:
    """The column of a MIDI key; keys beyond a piano's sound in their nearest octave on it."""
    key = int(midi) - LOWEST_KEY
    while key < 0:
        key += 12
    while key >= NUM_KEYS:
        key -= 12
    return key


def stroke_of(midi: int) -> int:
    """The column of a General MIDI drum key; what is not of a jazz kit is struck on the snare."""
    return _STROKE_OF.get(int(midi), _OTHER_STROKE)


def loudness(velocity):
    """MIDI velocity 1 to 127 as the features have it."""
    return 0.4 + 0.6 * velocity / 127


def metre_features(out: np.ndarray, beats: np.ndarray, beats_per_bar: int, groups: Iterable[int]) -> None:
    """Fill in the metre at absolute `beats` `(frames,)`; `groups` add up to `beats_per_bar`. Beats of a bar beyond
    the twelfth are told as the twelfth."""
    whole = np.floor(beats)
    in_bar = np.mod(whole, beats_per_bar).astype(np.int64)
    frames = np.arange(len(beats))
    last = MAX_BEATS_PER_BAR - 1
    out[frames, SCORE_SLICES["beat_in_bar"].start + np.minimum(in_bar, last)] = 1.0
    out[:, SCORE_SLICES["beats_per_bar"].start + min(beats_per_bar - 1, last)] = 1.0
    begins = np.zeros(beats_per_bar)
    begins[np.cumsum([0, *groups])[:-1]] = 1.0
    out[:, SCORE_SLICES["group_pulse"].start] = begins[in_bar] * np.exp(-3.0 * (beats - whole))


def score_features(
    notes: np.ndarray,
    controls: np.ndarray,
    start_frame: int,
    num_frames: int,
    frame_rate: float,
    told: Iterable[str] = NOTE_ROLES,
) -> np.ndarray:
    """`(num_frames, SCORE_DIM)` float32 for the frames from `start_frame`, without the metre.

    A frame's features depend on its absolute number alone, so any two calls agree where they overlap.

    Args:
        notes: `(notes, 6)` of `NOTE_COLUMNS`: start and length in seconds from frame 0, MIDI key, velocity, index of
            role and of instrument (-1 is unknown).
        controls: `(controls, 4)` of `CONTROL_COLUMNS`: from when on, in seconds, a role has this bend (semitones),
            vibrato or swell (0 to 1). A bend of more than half a semitone is told as another key and what is left.
        told: the roles that are spoken of; notes of others are left out.
    """
    out = np.zeros((num_frames, SCORE_DIM), dtype=np.float32)
    roles = [NOTE_ROLES.index(role) for role in told]
    out[:, [SCORE_SLICES["told"].start + role for role in roles]] = 1.0
    if num_frames == 0 or not roles:
        return out
    begin, end = start_frame / frame_rate, (start_frame + num_frames) / frame_rate
    notes = np.asarray(notes, dtype=np.float64).reshape(-1, len(NOTE_COLUMNS))
    near = (notes[:, 0] < end + AHEAD_S) & (
        notes[:, 0] + np.maximum(notes[:, 1], PULSE_FRAMES / frame_rate) > begin - 1 / frame_rate
    )
    for start, seconds, midi, velocity, role, player in notes[near & np.isin(notes[:, 4], roles)].tolist():
        note = start, seconds, int(midi), loudness(velocity), int(role), int(player)
        _write_note(out, start_frame, frame_rate, *note)
    for start, role, kind, value, until in _held(controls, roles, begin, end):
        first = max(0, round(start * frame_rate) - start_frame)
        last = min(num_frames, round(until * frame_rate) - start_frame)
        name = f"{NOTE_ROLES[int(role)]}_{CONTROL_KINDS[int(kind)]}"
        out[first:last, SCORE_SLICES[name].start] = value
    for role in BENT_ROLES:
        _follow_bend(out[:, SCORE_SLICES[f"{role}_sounding"]], out[:, SCORE_SLICES[f"{role}_bend"].start])
    return out


def _follow_bend(sounding: np.ndarray, bend: np.ndarray) -> None:
    """Where a bend leads nearer to another key, that key sounds, and what is left is told as the bend: a fall of five
    semitones passes through five keys. `sounding` `(frames, NUM_KEYS)` and `bend` `(frames,)`, in place."""
    for frame, semitones in enumerate(bend.tolist()):
        if moved := round(semitones):
            before = sounding[frame].copy()
            low, high = max(moved, 0), NUM_KEYS + min(moved, 0)  # what is led beyond the piano is not told
            sounding[frame] = 0.0
            if low < high:
                sounding[frame, low:high] = before[low - moved : high - moved]
            bend[frame] = semitones - moved


def _write_note(out, begin, frame_rate, start, seconds, midi, loud, role, player) -> None:
    """One note into the rows of the frames from `begin`; times stay absolute, so that any split rounds alike."""
    name = NOTE_ROLES[role]
    first = int(np.floor(start * frame_rate + 1e-6))

    def rows(low: int, high: int) -> slice:
        low = min(max(low - begin, 0), len(out))
        return slice(low, max(low, min(high - begin, len(out))))

    def write(column: int, part: slice, values) -> None:
        np.maximum(out[part, column], values, out=out[part, column])

    if name == "drums":
        struck = SCORE_SLICES["strokes"].start + stroke_of(midi)
    else:
        key = key_column(midi)
        struck = SCORE_SLICES[f"{name}_struck"].start + key
        held = rows(first, max(first + 1, int(np.ceil((start + seconds) * frame_rate - 0.5))))
        write(SCORE_SLICES[f"{name}_sounding"].start + key, held, loud)
        ahead = rows(first - int(AHEAD_S * frame_rate), first)
        left = start - (begin + np.arange(ahead.start, ahead.stop)) / frame_rate
        write(SCORE_SLICES["ahead"].start + key, ahead, (loud * (1 - left / AHEAD_S)).clip(0, 1))
        if player >= 0 and f"{name}_player" in SCORE_SLICES:
            out[held, SCORE_SLICES[f"{name}_player"].start + player] = 1.0
    pulse = rows(first, first + PULSE_FRAMES)
    since = (begin + np.arange(pulse.start, pulse.stop) + 1) / frame_rate - start
    write(struck, pulse, loud * np.exp(-since / PULSE_S))


def _held(controls: np.ndarray, roles: list[int], begin: float, end: float) -> list[tuple]:
    """Controls that hold somewhere between two times, as (start, role, kind, value, until)."""
    controls = np.asarray(controls, dtype=np.float64).reshape(-1, len(CONTROL_COLUMNS))
    found = []
    for role in roles if len(controls) else ():
        for kind in range(len(CONTROL_KINDS)):
            mine = controls[(controls[:, 1] == role) & (controls[:, 2] == kind)]
            mine = mine[np.argsort(mine[:, 0], kind="stable")]
            until = np.append(mine[1:, 0], np.inf)
            keep = (until > begin) & (mine[:, 0] < end) & (mine[:, 3] != 0)
            ends = np.minimum(until[keep], end)
            found += [(*row, stop) for row, stop in zip(mine[keep].tolist(), ends.tolist())]
    return found


__all__ = [
    "BENT_ROLES", "CONTROL_COLUMNS", "CONTROL_KINDS", "MAX_BEATS_PER_BAR", "NOTE_COLUMNS", "NOTE_ROLES",
    "PITCHED_ROLES", "SCORE_DIM", "SCORE_SLICES", "columns_of", "metre_features", "score_features",
    "without_chords_and_notes", "without_notes",
]  # fmt: skip
