"""The parts of a file of music as a score: which instrument of ours plays each, and what it is to the band."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..music.score_features import BENT_ROLES, NOTE_ROLES
from ..music.vocabulary import HORNS, canonical_instrument
from .score import Score, ScoreControl, ScoreNote

MAX_NOTES = 50_000
MAX_PARTS = 128
SHORTEST_BEATS = 1 / 32
CHORDAL = 0.25  # share of a part's notes that are struck with another: from here on it is chords

# What the instruments reach, as MIDI keys.
REACH = {
    "piano": (21, 108), "electric_piano": (28, 103), "organ": (24, 108), "guitar": (40, 88), "vibraphone": (53, 89),
    "bass": (28, 67), "alto_sax": (49, 85), "tenor_sax": (44, 80), "trumpet": (52, 86), "muted_trumpet": (52, 86),
    "trombone": (34, 74), "clarinet": (50, 94), "flute": (59, 98), "synth_pad": (24, 108),
}  # fmt: skip

# General MIDI's programs from 0, in runs: which of our instruments plays them, and whether it is only the nearest.
_PROGRAMS: tuple[tuple[int, str | None, bool], ...] = (
    (4, "piano", False), (6, "electric_piano", False), (7, "piano", True), (8, "electric_piano", True),
    (11, "vibraphone", True), (12, "vibraphone", False), (15, "vibraphone", True), (16, "guitar", True),
    (19, "organ", False), (24, "organ", True), (32, "guitar", False), (40, "bass", False), (42, "clarinet", True),
    (43, "tenor_sax", True), (44, "bass", False), (46, "synth_pad", True), (47, "guitar", True), (48, "drums", True),
    (56, "synth_pad", True), (57, "trumpet", False), (58, "trombone", False), (59, "trombone", True),
    (60, "muted_trumpet", False), (61, "trombone", True), (64, "trumpet", True), (65, "alto_sax", True),
    (66, "alto_sax", False), (67, "tenor_sax", False), (68, "tenor_sax", True), (70, "clarinet", True),
    (71, "tenor_sax", True), (72, "clarinet", False), (73, "flute", True), (74, "flute", False), (80, "flute", True),
    (88, "clarinet", True), (104, "synth_pad", True), (109, "guitar", True), (112, "clarinet", True),
    (113, "vibraphone", True), (114, "drums", True), (115, "vibraphone", True), (120, "drums", True),
    (128, None, True),
)  # fmt: skip
PROGRAM_OF = {
    "piano": 0, "electric_piano": 4, "organ": 16, "guitar": 26, "vibraphone": 11, "bass": 32, "drums": 32,
    "brushes": 40, "alto_sax": 65, "tenor_sax": 66, "trumpet": 56, "muted_trumpet": 59, "trombone": 57,
    "clarinet": 71, "flute": 73, "synth_pad": 89,
}  # fmt: skip
BRUSH_PROGRAM = 40  # of the drum channel

_WORDS = {
    "drums": {"drum", "drums", "drumset", "kit", "percussion", "perc", "brushes", "batterie", "schlagzeug"},
    "bass": {"bass", "contrabass", "basse", "kontrabass"},
    "lead": {"lead", "melody", "vocal", "vocals", "voice", "theme", "head", "tune", "solo", "melodie", "melodia",
             "gesang", "chant"},
    "second": {"second", "2nd", "harmony", "counter", "countermelody", "backing"},
    "comp": {"comp", "comping", "chords", "chord", "accompaniment", "accomp", "rhythm", "pad"},
}  # fmt: skip


class ScoreWarning(UserWarning):
    """What was read otherwise than it stands in a file, or will be played otherwise than one might expect."""


@dataclass(frozen=True)
class Tone:
    """A note of a part: start and length in beats from the first bar line, MIDI key, velocity."""

    start: float
    beats: float
    midi: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """One voice of a file.

    Attributes:
        name: as the file has it. program: General MIDI's, from 0; None where the file says nothing. drums: whether its
            keys are strokes. controls: (start, kind, value) as of `ScoreControl`.
        player, role: where the file says them in our own words.
    """

    name: str
    tones: tuple[Tone, ...]
    controls: tuple[tuple[float, str, float], ...] = ()
    program: int | None = None
    drums: bool = False
    player: str | None = None
    role: str | None = None

    @property
    def words(self) -> set[str]:
        return set(re.findall(r"[a-z]+|2nd", self.name.lower()))

    @property
    def mean_pitch(self) -> float:
        return float(np.mean([tone.midi for tone in self.tones]))

    @property
    def chordal(self) -> bool:
        return _struck_together(self.tones) > CHORDAL


@dataclass
class Reading:
    """What a file is being read into, and what there is to say about it: to `heard`, or as warnings."""

    source: str
    heard: Callable[[str], None] | None = None
    parts: list[Part] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    tempo: float | None = None
    metre: str | None = None
    key: str | None = None
    title: str = ""

    def say(self, text: str) -> None:
        self.said.append(text)

    def score(self) -> Score:
        """The score of the parts; what there was to say is told.

        Raises:
            ValueError: no notes, too many, too many parts.
        """
        parts = [part for part in self.parts if part.tones]
        if not parts:
            raise ValueError(f"{self.source} has no notes: give a file with a melody or parts in it")
        if len(parts) > MAX_PARTS or sum(len(part.tones) for part in parts) > MAX_NOTES:
            raise ValueError(
                f"{self.source} has {sum(len(part.tones) for part in parts)} notes in {len(parts)} parts: at most "
                f"{MAX_NOTES} notes in {MAX_PARTS} parts are read; give a shorter piece"
            )
        parts = _with_players(parts, self.say)
        if not parts:
            raise ValueError(
                f"{self.source} has no notes but sound effects: give a file with a melody or parts in it"
            )
        parts = [_within_reach(part, self.say) for part in _with_roles(parts, self.say)]
        notes = [
            ScoreNote(
                tone.start, max(tone.beats, SHORTEST_BEATS), tone.midi, tone.velocity, part.player, part.role
            )
            for part in parts
            for tone in part.tones
        ]
        controls = [
            ScoreControl(start, kind, value, part.player, part.role)
            for part in parts
            if part.role in BENT_ROLES
            for start, kind, value in part.controls
        ]
        roles = {note.role for note in notes}
        # A melody told without a second voice has none: else one would be invented beside it.
        told = roles | ({"second"} if "lead" in roles else set())
        for text in self.said:
            tell(f"{self.source}: {text}", self.heard, stacklevel=4)
        source = {"tempo": self.tempo, "metre": self.metre, "key": self.key, "title": self.title}
        return Score(tuple(notes), tuple(controls), tuple(told), **source)


def tell(text: str, heard: Callable[[str], None] | None, stacklevel: int = 3) -> None:
    """Say something to who listens, or warn of it."""
    if heard is not None:
        heard(text)
    else:
        warnings.warn(text, ScoreWarning, stacklevel=stacklevel)


def instrument_of_program(program: int) -> tuple[str | None, bool]:
    """Which of our instruments plays a program of General MIDI, from 0, and whether it is only the nearest."""
    return next((name, nearest) for end, name, nearest in _PROGRAMS if program < end)


# -- who plays -------------------------------------------------------------------------------------------------
def _with_players(parts: Sequence[Part], say) -> list[Part]:
    found: list[Part] = []
    instead: dict[str, set[str]] = {}
    for part in parts:
        player = part.player
        if player is None and part.drums:
            brushes = part.program == BRUSH_PROGRAM or "brushes" in part.words
            player = "brushes" if brushes else "drums"
        if player is None:
            player = _named(part)
        if player is None and part.program is not None:
            player, nearest = instrument_of_program(part.program)
            if player is None:
                say(f"{_of(part)} is a sound effect and is left out")
                continue
            if nearest:
                instead.setdefault(player, set()).add(_of(part))
        drums = part.drums or player in ("drums", "brushes")
        found.append(replace(part, player=player or "piano", drums=drums))
    for player, names in instead.items():
        say(
            f"{', '.join(sorted(names))}: not among the instruments that are known, played by {_words(player)}"
        )
    return found


def _named(part: Part) -> str | None:
    """The instrument that a part's name means."""
    if part.words & _WORDS["drums"]:
        return "brushes" if "brushes" in part.words else "drums"
    words = re.findall(r"[a-z]+", part.name.lower())
    for size in (3, 2, 1):
        for at in range(len(words) - size + 1):
            name = " ".join(words[at : at + size])
            if name in ("bass", "keys", "pad", "synth", "alto", "tenor") and len(words) > 1 + (
                words[at - 1] == "lead"
            ):
                continue  # "bass clarinet", "alto flute": another instrument
            try:
                return canonical_instrument(name)
            except ValueError:
                continue
    return "bass" if words and words[-1] in _WORDS["bass"] else None


# -- what they are to the band ----------------------------------------------------------------------------------
def _with_roles(parts: Sequence[Part], say) -> list[Part]:
    """Drums and bass by instrument, the lead by name or as the melodic line, the rest second voices and chords."""
    done = [part for part in parts if part.role is not None]
    open_parts: list[Part] = []
    for part in parts:
        if part.role is not None:
            continue
        if part.drums:
            done.append(replace(part, role="drums"))
        elif part.player == "bass" and not part.words & _WORDS["lead"]:
            done.append(replace(part, role="bass"))
        else:
            open_parts.append(part)
    if not any(part.role == "lead" for part in done):
        named = [part for part in open_parts if part.words & _WORDS["lead"]]
        lines = named or [part for part in open_parts if not part.chordal and not part.words & _WORDS["comp"]]
        if not lines and len(open_parts) == 1 and not open_parts[0].words & _WORDS["comp"]:
            lines = open_parts  # chords with a tune on top
        if lines:
            lead = _choose(lines)
            open_parts.remove(lead)
            done += _lines_of(lead, say)
    voices = []
    for part in open_parts:
        chords = part.words & _WORDS["comp"] or (part.chordal and not part.words & _WORDS["second"])
        voices += [] if chords else [_of(part)]
        done.append(replace(part, role="comp" if chords else "second"))
    lead = next((part for part in done if part.role == "lead"), None)
    if voices and lead is not None:
        say(
            f"{len(voices) + 1} melodies at once: {_of(lead)} is the lead, {', '.join(voices[:4])}"
            f"{' and others' if len(voices) > 4 else ''} the second voice"
        )
    if len(parts) > 16:
        counts = {role: sum(part.role == role for part in done) for role in NOTE_ROLES}
        told = ", ".join(f"{count} {role}" for role, count in counts.items() if count)
        say(f"{len(parts)} parts: they are played as {told}; parts of one role sound together")
    return done


def _choose(lines: Sequence[Part]) -> Part:
    """The one that is the melody: horns before others, and of those that play about as much the highest."""
    horns = [part for part in lines if part.player in HORNS]
    most = max(len(part.tones) for part in lines)
    busy = [part for part in horns or lines if 2 * len(part.tones) >= most] or list(lines)
    return max(busy, key=lambda part: part.mean_pitch)


def _lines_of(part: Part, say) -> list[Part]:
    """The lead, and what sounds with it in the same part: chords below it, or a second voice."""
    top, rest = skyline(part.tones)
    if not rest:
        return [replace(part, role="lead")]
    role = "comp" if len(rest) > CHORDAL * len(part.tones) and not _single_line(rest) else "second"
    what = "chords under it" if role == "comp" else "a second voice"
    say(f"{_of(part)} has more than one line: the highest notes are the lead, {len(rest)} others {what}")
    return [replace(part, role="lead", tones=top), replace(part, role=role, tones=rest, controls=())]


def skyline(tones: Sequence[Tone], slack: float = 0.12) -> tuple[tuple[Tone, ...], tuple[Tone, ...]]:
    """The upper line of a part, and the rest. Notes that run into the next by less than `slack` beats, or by less
    than half their length, are legato and no second line."""
    top: list[Tone] = []
    rest: list[Tone] = []
    for tone in sorted(tones, key=lambda tone: (tone.start, -tone.midi)):
        before = top[-1] if top else None
        if before is None or tone.start >= before.start + before.beats - max(slack, before.beats / 2):
            top.append(tone)
        elif tone.midi <= before.midi:
            rest.append(tone)
        elif tone.start - before.start < slack:  # struck together, as played
            rest.append(top.pop())
            top.append(tone)
        else:
            top.append(tone)
    cut = []
    for tone, following in zip(top, [*top[1:], None]):
        over = following is not None and tone.start + tone.beats > following.start > tone.start
        cut.append(replace(tone, beats=following.start - tone.start) if over else tone)
    return tuple(cut), tuple(sorted(rest, key=lambda tone: tone.start))


def _single_line(tones: Sequence[Tone]) -> bool:
    return _struck_together(tones) < 0.1


def _struck_together(tones: Iterable[Tone], slack: float = 0.06) -> float:
    """Share of notes that begin with another of their part."""
    starts = np.sort([tone.start for tone in tones])
    if len(starts) < 2:
        return 0.0
    return float((np.diff(starts) < slack).mean())


# -- what they reach --------------------------------------------------------------------------------------------
def _within_reach(part: Part, say) -> Part:
    """The part by octaves where its instrument has it: all of it, then the notes that are still outside."""
    if part.drums:
        return part
    tones, shift, moved = within(part.tones, REACH[part.player])
    if shift:
        say(f"{_of(part)} lies outside the reach of {_words(part.player)}: played {octaves(shift)}")
    if moved:
        say(
            f"{moved} notes of {_of(part)} lie outside the reach of {_words(part.player)}: each by octaves inside it"
        )
    return replace(part, tones=tones)


def within(tones: Sequence, reach: tuple[int, int]) -> tuple[tuple, int, int]:
    """Notes (anything with a `midi`) moved into a range of at least an octave: by octaves together where that brings
    more of them inside, then one by one.

    Returns:
        The notes, semitones by which all moved, how many moved on their own.
    """
    low, high = reach
    keys = np.array([tone.midi for tone in tones])
    if not len(keys):
        return tuple(tones), 0, 0
    shifts = sorted(range(-120, 121, 12), key=abs)
    shift = max(shifts, key=lambda by: (((keys + by >= low) & (keys + by <= high)).sum(), -abs(by)))
    moved, placed = 0, []
    for tone in tones:
        key = tone.midi + shift
        inside = key
        while inside < low:
            inside += 12
        while inside > high:
            inside -= 12
        moved += inside != key
        placed.append(replace(tone, midi=int(inside)))
    return tuple(placed), shift, moved


def octaves(shift: int) -> str:
    count = abs(shift) // 12
    return f"{count} octave{'s' if count > 1 else ''} {'higher' if shift > 0 else 'lower'}"


def _of(part: Part) -> str:
    return (
        repr(part.name)
        if part.name
        else "a part without a name"
        if part.player is None
        else _words(part.player)
    )


def _words(player: str) -> str:
    return player.replace("_", " ")


__all__ = [
    "PROGRAM_OF", "REACH", "Part", "Reading", "ScoreWarning", "Tone", "instrument_of_program", "octaves", "skyline",
    "tell", "within",
]  # fmt: skip
