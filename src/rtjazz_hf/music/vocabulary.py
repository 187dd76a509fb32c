"""The closed lists that charts, captions, features and the band agree on, and how people spell them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

# The order of INSTRUMENTS and ROLES is the order of the feature vectors: append, never reorder. Genres are no features:
# weights know them by words. Their order is part of what a seed means, so they are appended too.
INSTRUMENTS: tuple[str, ...] = (
    "piano",
    "electric_piano",
    "organ",
    "guitar",
    "vibraphone",
    "bass",
    "drums",
    "brushes",
    "alto_sax",
    "tenor_sax",
    "trumpet",
    "muted_trumpet",
    "trombone",
    "clarinet",
    "flute",
    "synth_pad",
)
HORNS: tuple[str, ...] = (
    "alto_sax", "tenor_sax", "trumpet", "muted_trumpet", "trombone", "clarinet", "flute",
)  # fmt: skip
KEYBOARDS: tuple[str, ...] = ("piano", "electric_piano", "organ")
CHORD_INSTRUMENTS: tuple[str, ...] = KEYBOARDS + ("guitar", "vibraphone", "synth_pad")
LEAD_INSTRUMENTS: tuple[str, ...] = HORNS + KEYBOARDS + ("guitar", "vibraphone")
KITS: tuple[str, ...] = ("drums", "brushes")

_SONGS = ("swing", "blues", "bebop", "rhythm_changes", "modal", "bossa", "waltz", "ballad", "hard_bop", "cool")
# Genres that are a groove first: `band.grooves` has their patterns.
GROOVE_GENRES: tuple[str, ...] = (
    "shuffle", "samba", "mambo", "afro", "funk", "gypsy", "second_line", "fast_waltz", "even_eighths",
)  # fmt: skip
GENRES: tuple[str, ...] = (*_SONGS, *GROOVE_GENRES)
MOODS: tuple[str, ...] = (
    "relaxed", "energetic", "dark", "bright", "melancholic", "romantic", "playful", "intense",
)  # fmt: skip
ROLES: tuple[str, ...] = ("intro", "head", "solo", "trading", "head_out", "ending")

MAJOR_KEYS: tuple[str, ...] = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
MINOR_KEYS: tuple[str, ...] = (
    "Cm", "C#m", "Dm", "Ebm", "Em", "Fm", "F#m", "Gm", "G#m", "Am", "Bbm", "Bm",
)  # fmt: skip
KEYS: tuple[str, ...] = MAJOR_KEYS + MINOR_KEYS  # index = tonic pitch class, plus 12 for minor
SHARP_KEYS = frozenset({"G", "D", "A", "E", "B", "Em", "Bm", "F#m", "C#m", "G#m"})

MIN_TEMPO, MAX_TEMPO = 40.0, 320.0  # beats per minute, quarter notes
BEATS_PER_BAR: tuple[int, ...] = (3, 4)

_NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"#": 1, "b": -1}

_INSTRUMENT_ALIASES = {
    "keys": "piano",
    "grand_piano": "piano",
    "rhodes": "electric_piano",
    "fender_rhodes": "electric_piano",
    "wurlitzer": "electric_piano",
    "hammond": "organ",
    "hammond_organ": "organ",
    "jazz_guitar": "guitar",
    "nylon_guitar": "guitar",
    "acoustic_guitar": "guitar",
    "electric_guitar": "guitar",
    "vibes": "vibraphone",
    "double_bass": "bass",
    "upright_bass": "bass",
    "acoustic_bass": "bass",
    "walking_bass": "bass",
    "drum_kit": "drums",
    "drum_set": "drums",
    "sticks": "drums",
    "brush": "brushes",
    "brushed_drums": "brushes",
    "alto": "alto_sax",
    "alto_saxophone": "alto_sax",
    "sax": "tenor_sax",
    "saxophone": "tenor_sax",
    "tenor": "tenor_sax",
    "tenor_saxophone": "tenor_sax",
    "harmon_mute": "muted_trumpet",
    "mute_trumpet": "muted_trumpet",
    "pad": "synth_pad",
    "synth": "synth_pad",
}


def _slug(text: str) -> str:
    return re.sub(r"[\s_-]+", "_", text.strip().lower())


def note_to_pitch_class(name: str) -> int:
    """Pitch class (C = 0 .. B = 11) of a note name such as `"F#"`, `"Bb"` or `"E♭"`.

    Raises:
        ValueError: where `name` is not a letter A-G with accidentals.
    """
    plain = name.replace("♭", "b").replace("♯", "#")
    if not plain or plain[0] not in _NATURALS or any(sign not in _ACCIDENTALS for sign in plain[1:]):
        raise ValueError(
            f"unknown note {name!r}: expected a letter A-G, then # or b as needed, e.g. 'F#' or 'Bb'"
        )
    return (_NATURALS[plain[0]] + sum(_ACCIDENTALS[sign] for sign in plain[1:])) % 12


def canonical_instrument(name: str) -> str:
    """The name in `INSTRUMENTS` that `name` means: `"Tenor Sax"` is `"tenor_sax"`, `"vibes"` `"vibraphone"`.

    Raises:
        ValueError: where no instrument is meant; the message lists those that are.
    """
    if isinstance(name, str):
        slug = _slug(name)
        slug = _INSTRUMENT_ALIASES.get(slug, slug)
        if slug in INSTRUMENTS:
            return slug
    raise ValueError(f"unknown instrument {name!r}: choose from {', '.join(INSTRUMENTS)}")


def canonical_instruments(names: Iterable[str]) -> tuple[str, ...]:
    """Several instruments, without repeats, in the order of `INSTRUMENTS`."""
    wanted = {canonical_instrument(name) for name in names}
    return tuple(name for name in INSTRUMENTS if name in wanted)


def canonical_key(text: str) -> str:
    """The name in `KEYS` that `text` means: `"F minor"`, `"fm"`, `"A# major"`, `"E♭"`.

    Raises:
        ValueError: where no key is meant; the message lists those that are.
    """
    pattern = r"\s*([A-Ga-g])\s*(#{1,2}|b{1,2}|♯|♭|[\s-]?sharp|[\s-]?flat)?[\s-]*(.*?)\s*"
    match = re.fullmatch(pattern, text) if isinstance(text, str) else None
    if match:
        letter, sign, mode = match.groups()
        sign = {"sharp": "#", "flat": "b"}.get((sign or "").strip(" -"), sign or "")
        pitch_class = note_to_pitch_class(letter.upper() + sign)
        if mode in ("m", "-") or mode.lower() in ("min", "minor", "mi"):
            return MINOR_KEYS[pitch_class]
        if mode in ("", "M") or mode.lower() in ("maj", "major", "ma"):
            return MAJOR_KEYS[pitch_class]
    raise ValueError(f"unknown key {text!r}: choose from {', '.join(KEYS)} (or 'F minor', 'Bb major')")


def canonical_choice(kind: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value` as it is spelled in `allowed`, forgiving case, spaces and hyphens.

    Raises:
        ValueError: naming `kind`, the value and what is allowed.
    """
    if isinstance(value, str) and _slug(value) in allowed:
        return _slug(value)
    raise ValueError(f"unknown {kind} {value!r}: choose from {', '.join(allowed)}")


def is_minor(key: str) -> bool:
    """Whether a canonical key is a minor one."""
    return key.endswith("m")


def tonic(key: str) -> int:
    """Pitch class of a canonical key's tonic."""
    return KEYS.index(key) % 12


def transpose_key(key: str, semitones: int) -> str:
    """The canonical key `semitones` above `key`, same mode."""
    return (MINOR_KEYS if is_minor(key) else MAJOR_KEYS)[(tonic(key) + semitones) % 12]


# Grooves that lean as they do at any tempo.
_LEANS = {
    "bossa": 0.0, "samba": 0.0, "mambo": 0.0, "afro": 0.0, "funk": 0.15, "even_eighths": 0.0, "second_line": 0.4,
    "shuffle": 1.0,
}  # fmt: skip


def default_swing(genre: str, tempo: float) -> float:
    """How far the off-beat leans to the triplet, 0 (straight) to 1 (triplet), as is usual at `tempo` BPM.

    Swing flattens as the tempo rises (Friberg and Sundström, "Swing ratios and ensemble timing in jazz
    performance", Music Perception 19, 2002): from about 2:1 at medium tempo towards even quavers near 300.
    """
    if genre in _LEANS:
        return _LEANS[genre]
    lean = min(max(1.0 - (tempo - 120.0) / 220.0, 0.1), 1.0)
    return round(0.75 * lean if genre in ("ballad", "modal") else lean, 3)


def check_tempo(tempo: float) -> float:
    """`tempo` as a float, where it lies in 40 to 320 beats per minute."""
    try:
        value = float(tempo)
    except (TypeError, ValueError):
        value = math.nan
    if not MIN_TEMPO <= value <= MAX_TEMPO:
        raise ValueError(
            f"tempo {tempo!r} is out of range: choose {MIN_TEMPO:g} to {MAX_TEMPO:g} beats per minute"
        )
    return value


def check_swing(swing: float) -> None:
    """Raises ValueError where `swing` does not lie in 0 to 1."""
    if not 0.0 <= swing <= 1.0:
        raise ValueError(f"swing {swing!r} is out of range: choose 0 (straight) to 1 (triplets)")


def choose_lead(band: Iterable[str]) -> str | None:
    """Who leads when nobody is named: a horn before vibraphone and guitar, a keyboard last."""
    order = [name for name in LEAD_INSTRUMENTS if name not in ("piano", "electric_piano", "organ", "guitar")]
    order += ["guitar", "organ", "piano", "electric_piano"]
    members = set(band)
    return next((name for name in order if name in members), None)
