"""What stands above a chart: title, key, tempo, metre, style."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .chord_spellings import NOTATIONS
from .metre import Metre
from .practice import Rest, rests_of
from .vocabulary import canonical_key, check_swing, check_tempo

_FIELDS = {
    "title": "title", "tune": "title", "song": "title", "name": "title", "titel": "title",
    "composer": "composer", "by": "composer", "music": "composer", "artist": "composer", "author": "composer",
    "words and music": "composer", "composed by": "composer", "composedby": "composer",
    "dbkeysig": "key", "dbkey": "key", "writer": "composer",
    "key": "key", "db key": "key", "tonality": "key", "original key": "key", "tonart": "key",
    "tempo": "tempo", "bpm": "tempo", "speed": "tempo", "♩": "tempo", "metronome": "tempo",
    "metre": "metre", "meter": "metre", "time": "metre", "time signature": "metre", "timesig": "metre",
    "time sig": "metre", "takt": "metre",
    "style": "style", "genre": "style", "feel": "style", "groove": "style", "rhythm": "style",
    "only bars": "only_bars", "transpose": "transpose", "all keys": "all_keys", "rests": "rests",
    "swing": "swing", "notation": "notation", "alternatives": "alternatives",
    "bars": "bars", "subtitle": "remark", "form": "remark", "capo": "remark", "album": "remark", "year": "remark",
    "copyright": "remark", "lyrics": "remark", "words": "remark", "lyricist": "remark", "source": "remark",
    "comment": "remark", "note": "remark", "notes": "remark", "transcribed by": "remark", "arr": "remark",
    "arranger": "remark", "arranged by": "remark",
}  # fmt: skip
_FIELD = re.compile(r"\s*([A-Za-z♩][A-Za-z ]{0,17}?)\s*[:=]\s*(\S.*?)\s*")
_TEMPO_ALONE = re.compile(
    r"(?i)\(?\s*(?:(?:tempo|bpm|m\.?m\.?|♩|𝅘𝅥|q)\s*[=:]?\s*(\d{2,3}(?:\.\d+)?)|(\d{2,3}(?:\.\d+)?)\s*bpm)\s*\)?"
)
_KEY_WORDS = re.compile(
    r"(?i)\b(?:key\s+of|in\s+the\s+key\s+of|key:?)\s+([A-Ga-g][#b♯♭]?\s*(?:m(?:inor|in)?|maj(?:or)?)?)\b"
)
_STYLE_WORDS = re.compile(
    r"(?i)swing|bossa|samba|latin|ballad|waltz|blues|bop|funk|shuffle|medium|fast|slow|up\b|even|afro|mambo|montuno"
    r"|cha[ -]?cha|gypsy|manouche|new orleans|second line|boogaloo|straight 8"
)
_METRE_WORDS = re.compile(r"(?<!\d)(\d{1,2}/(?:2|4|8|16))(?!\d)")


@dataclass
class Header:
    """What is known of a tune beside its chords; None and "" where nothing is said."""

    title: str = ""
    composer: str = ""
    style: str = ""
    key: str | None = None
    tempo: float | None = None
    metre: Metre | None = None
    swing: float | None = None
    notation: str = "letters"
    alternatives: bool = False
    practice: dict[str, str] = field(default_factory=dict)
    rests: tuple[Rest, ...] = ()
    remarks: list[str] = field(default_factory=list)

    def take_field(self, line: str) -> bool:
        """Take in a line such as `Key: Gm`; whether it was one.

        Raises:
            ValueError: a field whose value cannot be: a tempo of 900.
        """
        match = _FIELD.fullmatch(line)
        name = _FIELDS.get(match.group(1).lower().strip()) if match else None
        if match is None or name is None:
            return False
        value = match.group(2)
        if name in ("title", "composer", "style"):
            setattr(self, name, value)
        elif name == "key":
            self.key = canonical_key(re.sub(r"(?i)\s*\(.*?\)|\s+concert", "", value))
        elif name == "tempo":
            number = re.search(r"\d+(?:\.\d+)?", value)
            if number:
                self.tempo = check_tempo(number.group())
            else:
                self.style = f"{self.style} {value}".strip()
        elif name == "metre":
            self.metre = Metre.parse(re.sub(r"^(\d+)\s+(\d+)$", r"\1/\2", value))
        elif name == "swing":
            self._take_swing(value)
        elif name == "notation":
            if value.lower() not in NOTATIONS:
                raise ValueError(f"unknown notation {value!r} of chords: choose from {', '.join(NOTATIONS)}")
            self.notation = value.lower()
        elif name == "alternatives":
            self.alternatives = value.lower() in ("true", "yes", "on", "1", "play", "played")
        elif name in ("only_bars", "transpose", "all_keys"):
            self.practice[name] = value
        elif name == "rests":
            self.rests = rests_of(value)
        elif name == "remark":
            self.remarks.append(line.strip())
        return True

    def _take_swing(self, value: str) -> None:
        number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", value)
        if number is None:
            self.style = f"{self.style} {value}".strip()  # "swing: medium" tells a style
            return
        swing = float(number.group(1)) / (100 if number.group(2) else 1)
        check_swing(swing)
        self.swing = swing

    def take_words(self, line: str, first: bool) -> None:
        """Take in a line of words above the chords: the first is the title, others are searched for facts."""
        text = line.strip().strip("()").strip()
        if first and not _TEMPO_ALONE.fullmatch(text):
            self.title = text
            return
        tempo = _TEMPO_ALONE.search(text)
        if tempo:
            self.tempo = check_tempo(tempo.group(1) or tempo.group(2))
        if key := _KEY_WORDS.search(text):
            self.key = canonical_key(key.group(1))
        if metre := _METRE_WORDS.search(text):
            self.metre = Metre.parse(metre.group(1))
        rest = _METRE_WORDS.sub("", _KEY_WORDS.sub("", _TEMPO_ALONE.sub("", text))).strip(" ,;-–")
        if not rest:
            return
        if _STYLE_WORDS.search(rest):
            self.style = f"{self.style} {rest}".strip()
        elif not self.composer and re.match(r"(?i)(?:by|music by)\s+\S", rest):
            self.composer = re.sub(r"(?i)^(?:music\s+)?by\s+", "", rest)
        else:
            self.remarks.append(text)
