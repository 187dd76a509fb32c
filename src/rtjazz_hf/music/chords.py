"""Chord symbols as jazz charts spell them, read into pitch classes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from pychord import QualityManager

from .chord_spellings import plain_quality, split_symbol
from .vocabulary import note_to_pitch_class

NO_CHORD = "N.C."

_FLAT_NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_SHARP_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# Roots of minor and diminished chords read better with sharps here: C#m7 and F#m7b5, but Ebm7 and Bbm7.
_MINOR_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")

_DEGREES = {"2": 2, "3": 4, "4": 5, "5": 7, "6": 9, "9": 2, "11": 5, "13": 9}
_STEPS = {"b": -1, "#": 1, "": 0}

# What pychord's list lacks or, for jazz, voices otherwise, as semitones above the root.
_JAZZ_QUALITIES: dict[str, tuple[int, ...]] = {
    "7alt": (0, 1, 3, 4, 6, 8, 10),  # the altered scale: b9 #9 3 #11 b13 b7, and no natural fifth
    "11": (0, 5, 7, 10, 14),  # a dominant eleventh leaves the third out: it is a suspended chord
    "bass": (0,),  # a bass note alone: "/C"
}


@dataclass(frozen=True)
class Chord:
    """One chord. Two chords are equal where their notes are, however they are spelled (`CΔ7` == `Cmaj7`).

    Attributes:
        symbol: plain spelling, which `parse` reads back (`"Cmaj7"`, `"F#m7b5"`, `"C7/E"`, `"N.C."`).
        root: pitch class of the root, C = 0; None for no chord.
        pitch_classes: the chord's tones, 0 to 11, ascending; a foreign slash bass is not among them.
        bass: pitch class of the lowest note: the slash bass, or else the root; None for no chord.
    """

    symbol: str = field(compare=False)
    root: int | None
    pitch_classes: tuple[int, ...]
    bass: int | None

    @classmethod
    def parse(cls, text: str, notation: str = "letters") -> Chord:
        """Read a chord symbol.

        `/C` alone is a bass note; in a chart it goes under the chord before it.

        Args:
            notation: how roots are named. "letters": A to G, and solfège where it cannot be a letter (`Sol7`,
                not `Do`, which is D diminished). "german": H is B, B is B flat, Fis, Es. "solfege": Do, Ré, Mi.

        Raises:
            ValueError: where `text` is not a chord; the message names it and shows what is understood.
        """
        if not isinstance(text, str):
            raise ValueError(f"unknown chord {text!r}: expected a string such as 'Dm7' or 'G7b9'")
        return _parse(text, notation)

    @classmethod
    def no_chord(cls) -> Chord:
        """Silence of harmony: no root, no tones, no bass."""
        return cls(symbol=NO_CHORD, root=None, pitch_classes=(), bass=None)

    @property
    def is_no_chord(self) -> bool:
        return self.root is None

    @property
    def intervals(self) -> tuple[int, ...]:
        """Semitones above the root, within the octave, ascending: (0, 3, 7, 10) for a minor seventh."""
        if self.root is None:
            return ()
        return _above(self.root, self.pitch_classes)

    @property
    def quality(self) -> str:
        """What follows the root in the symbol, without the bass: `"m7b5"`."""
        return "" if self.root is None or self.is_bass_alone else split_symbol(self.symbol)[1]

    @property
    def is_bass_alone(self) -> bool:
        """Whether only a bass note is asked for."""
        return self.symbol.startswith("/")

    def over(self, bass: str) -> Chord:
        """The same chord over another bass note, such as `"E"`; nothing is changed of no chord."""
        if self.root is None:
            return self
        if self.is_bass_alone:
            return Chord.parse(f"/{bass}")
        stem = self.symbol.rpartition("/")[0] if self.bass != self.root else self.symbol
        return Chord.parse(stem if note_to_pitch_class(bass) == self.root else f"{stem}/{bass}")

    def transpose(self, semitones: int, sharps: bool | None = None) -> Chord:
        """The same chord `semitones` higher, respelled.

        Args:
            semitones: any whole number; 12 is the same chord.
            sharps: spell black keys with sharps (True), flats (False), or as is usual for the quality (None).
        """
        if self.root is None or (semitones % 12 == 0 and sharps is None):
            return self
        quality = self.quality
        if sharps is None:
            names = _MINOR_NAMES if quality.startswith(("m", "dim")) and quality[:3] != "maj" else _FLAT_NAMES
        else:
            names = _SHARP_NAMES if sharps else _FLAT_NAMES
        root = (self.root + semitones) % 12
        bass = (self.bass + semitones) % 12  # type: ignore[operator]  # a chord with a root has a bass
        if self.is_bass_alone:
            return Chord.parse(f"/{names[bass]}")
        symbol = names[root] + quality + (f"/{names[bass]}" if bass != root else "")
        tones = tuple(sorted((pitch_class + semitones) % 12 for pitch_class in self.pitch_classes))
        return Chord(symbol=symbol, root=root, pitch_classes=tones, bass=bass)

    def __str__(self) -> str:
        return self.symbol


def _unknown(text: str, hint: str = "") -> ValueError:
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return ValueError(
        f"unknown chord {text!r}: expected a root A-G (with # or b) and a quality such as maj7, m7, 7, m7b5, "
        f"dim7, 6/9, 13, sus, 7alt, 7b9, m(maj7), an optional /bass, or N.C.{hint}"
    )


@lru_cache(maxsize=4096)  # a chart of 2,000 chords asks this of each of them for each key
def _above(root: int, pitch_classes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted((pitch_class - root) % 12 for pitch_class in pitch_classes))


@lru_cache(maxsize=4096)
def _parse(text: str, notation: str) -> Chord:
    if re.fullmatch(r"\s*\(?\s*(?:[Nn]\.?\s?[Cc]\.?|N|[Nn]o [Cc]hord)\s*\)?\s*", text):
        return Chord.no_chord()
    parts = split_symbol(text, notation)
    if parts is None:
        german = notation == "letters" and re.match(r"\s*(?:H|[A-G]is)", text)
        raise _unknown(text, "; for German names (H, Fis, B for B flat) say notation: german" if german else "")
    root_name, written, bass_name = parts
    if not root_name:
        bass = note_to_pitch_class(bass_name)
        return Chord(symbol=f"/{bass_name}", root=bass, pitch_classes=(bass,), bass=bass)
    quality = plain_quality(written)
    semitones = None if quality is None else _quality_semitones(quality)
    if quality is None or semitones is None:
        raise _unknown(text)
    root = note_to_pitch_class(root_name)
    if bass_name[:1] == "°":  # Harte's bass: a degree of the chord's own scale
        bass_name = _FLAT_NAMES[(root + _degree_semitones(bass_name[1:])) % 12]
    bass = note_to_pitch_class(bass_name) if bass_name else root
    if quality[:1] in ("b", "#"):
        quality = f"({quality})"  # "C(b5)" is not "Cb5"
    symbol = root_name + re.sub(r"^mmaj", "mM", quality) + (f"/{bass_name}" if bass_name else "")
    tones = tuple(sorted({(root + semitone) % 12 for semitone in semitones}))
    return Chord(symbol=symbol, root=root, pitch_classes=tones, bass=bass)


def _degree_semitones(degree: str) -> int:
    """Semitones above the root of a degree such as "b7" or "5"."""
    natural = (0, 2, 4, 5, 7, 9, 11)[(int(degree.lstrip("b#")) - 1) % 7]
    return natural + degree.count("#") - degree.count("b")


@lru_cache(maxsize=1024)
def _quality_semitones(quality: str) -> tuple[int, ...] | None:
    """Semitones above the root of a quality in the plain dialect, or None where it is not one."""
    if quality in _JAZZ_QUALITIES:
        return _JAZZ_QUALITIES[quality]
    known = QualityManager().get_qualities().get(quality)
    if known is not None:
        semitones = known.components
        # Nobody plays the natural eleventh against the major third of a thirteenth, though the name stacks
        # it.
        if "11" in known.intervals and 4 in semitones and "11" not in quality:
            semitones = tuple(semitone for semitone in semitones if semitone != 17)
        return semitones
    return _spell_out(quality)


def _spell_out(quality: str) -> tuple[int, ...] | None:
    """Build what pychord has no entry for from its parts: third, seventh, extension, then each alteration."""
    match = re.fullmatch(
        r"(m(?!aj)|dim|aug)?(maj)?(69|6|7|9|11|13)?((?:sus(?:24|[24])|(?:add|no|omit)?[b#]?(?:13|11|[2-69]))*)",
        quality,
    )
    if not match or not quality:
        return None
    family, major, extension, alterations = match.groups()
    third = 3 if family in ("m", "dim") else 4
    fifth = {"dim": 6, "aug": 8}.get(family or "", 7)
    tones: dict[str, set[int]] = {"1": {0}, "3": {third}, "5": {fifth}}
    if extension in ("6", "69"):
        tones["6"] = {9}
    elif extension or (major and (third == 3 or not re.match(r"[b#]5", alterations))):  # "M#5" is a triad
        tones["7"] = {11} if major else {9 if family == "dim" and extension == "7" else 10}
    if extension in ("69", "9", "11", "13"):
        tones["9"] = {2}
    if extension == "11" or (extension == "13" and third == 3):
        tones["11"] = {5}
        if third == 4 and extension == "11":
            del tones["3"]
    if extension == "13":
        tones["13"] = {9}
    altered: set[str] = set()
    for kind, sign, degree in re.findall(r"(sus|add|no|omit)?([b#]?)((?<=sus)24|13|11|[2-69])", alterations):
        if kind == "sus":
            tones["3"] = {_DEGREES[each] for each in degree}
        elif kind == "add" and degree in ("3", "5"):  # beside what a "sus" or a "b5" put in its place
            tones[degree] = tones[degree] | {(_DEGREES[degree] + _STEPS[sign]) % 12}
        elif kind in ("no", "omit"):
            tones.pop(degree, None)
        else:
            degree = {"2": "9", "4": "11", "6": "13"}.get(degree, degree)
            pitch = (_DEGREES[degree] + _STEPS[sign]) % 12
            if not kind and not sign and degree not in ("9", "11", "13"):
                return None
            # The first alteration of a degree replaces its natural, a second one stands beside it: 7b9#9.
            tones[degree] = tones[degree] | {pitch} if degree in altered else {pitch}
            altered.add(degree)
    return tuple(sorted(set().union(*tones.values())))
