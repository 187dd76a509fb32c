"""What the words of a prompt ask for: genre, tempo, key, mood, form, instruments."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .vocabulary import INSTRUMENTS, canonical_instrument, canonical_key, check_tempo


@dataclass(frozen=True)
class Tags:
    """The parts of a prompt that a chart can follow; None where the prompt leaves them open.

    Attributes:
        genre: one of `GENRES`. tempo: in BPM, where the prompt gives a number. key: one of `KEYS`.
        mood: one of `MOODS`. form: one of `rtjazz_hf.music.forms.FORMS`.
        instruments: names in `INSTRUMENTS`; a leading "-" leaves one out ("without piano").
        pace: "very_slow", "slow", "medium_slow", "medium", "medium_up", "fast" or "very_fast".
        ensemble: how many play: 1 (solo) to 6 (sextet).
        minor: the mode, where the prompt names one without a key.
        metre: such as "5/4", where the prompt names one.
    """

    genre: str | None = None
    tempo: float | None = None
    key: str | None = None
    mood: str | None = None
    form: str | None = None
    instruments: tuple[str, ...] | None = None
    pace: str | None = None
    ensemble: int | None = None
    minor: bool | None = None
    metre: str | None = None


# Of several genres named, the first in this order wins: the metre and the feel before the repertoire.
_GENRE_WORDS: tuple[tuple[str, str], ...] = (
    ("bossa", r"bossa(?:[\s-]nova)?s?|samba|brazil(?:ian)?|latin"),
    ("waltz", r"waltz(?:es)?|three[\s-]four|3/4|in three"),
    ("ballad", r"ballads?|torch song|lullaby"),
    ("rhythm_changes", r"rhythm[\s-]changes"),
    ("hard_bop", r"hard[\s-]?bop|soul[\s-]jazz|funky|gospel"),
    ("bebop", r"be[\s-]?bop|(?<!hard )(?<!hard-)(?<!post )(?<!post-)bop"),
    ("modal", r"modal|dorian|lydian|phrygian|mixolydian|post[\s-]?bop|spiritual"),
    ("cool", r"cool(?:[\s-]jazz)?|west[\s-]coast|chamber jazz"),
    ("blues", r"blues|bluesy|12[\s-]bar|twelve[\s-]bar"),
    ("swing", r"swing(?:ing|s)?|swung|standards?|big band|mainstream"),
)
_FORM_WORDS: tuple[tuple[str, str], ...] = (
    ("rhythm_changes", r"rhythm[\s-]changes"),
    ("blues", r"blues|12[\s-]bar|twelve[\s-]bar"),
    ("abac", r"abac"),
    ("aaba", r"aaba|32[\s-]bar|standards?|ii[\s-]?v[\s-]?i"),
    ("modal", r"modal|dorian|lydian|phrygian|mixolydian|vamp"),
)
_MOOD_WORDS: tuple[tuple[str, str], ...] = (
    ("melancholic", r"melanchol(?:ic|y)|sad|wistful|lonely|nostalgic|sorrowful|bittersweet"),
    ("romantic", r"romantic|tender|love|intimate|candlelit|warm|lush|sensual"),
    ("intense", r"intense|fiery|aggressive|powerful|passionate|dramatic"),
    ("energetic", r"energetic|lively|hot|burning|driving|upbeat|blistering|exciting|hard[\s-]swinging"),
    ("dark", r"dark|moody|noir|mysterious|brooding|smoky|late[\s-]night|midnight"),
    ("playful", r"playful|quirky|fun|funny|humorous|whimsical|cheeky"),
    ("bright", r"bright|happy|sunny|cheerful|joyful|joyous|optimistic"),
    (
        "relaxed",
        r"relaxed|relaxing|laid[\s-]?back|mellow|chill|calm|gentle|smooth|easy|lounge|quiet|soft|peaceful",
    ),
)
_PACE_WORDS: tuple[tuple[str, str], ...] = (
    ("very_slow", r"very slow|extremely slow"),
    ("very_fast", r"very fast|blistering|breakneck|burning|extremely fast"),
    ("medium_slow", r"medium[\s-]slow|slow[\s-]medium|mid[\s-]slow"),
    ("medium_up", r"medium[\s-](?:up|fast)(?:[\s-]?tempo)?|up[\s-]medium|brisk"),
    ("medium", r"medium|mid[\s-]?tempo|moderate(?:ly)?|walking tempo"),
    ("fast", r"fast|up[\s-]?tempo|quick|rapid|upbeat|presto"),
    ("slow", r"slow(?:ly)?|down[\s-]?tempo|largo|adagio"),
)
_ENSEMBLE_WORDS: tuple[tuple[int, str], ...] = (
    (6, r"sextet|septet|octet|big band"),
    (5, r"quintet"),
    (4, r"quartet"),
    (3, r"trio"),
    (2, r"duo|duet"),
    (1, r"solo (?:piano|guitar|bass|drums|vib\w*|sax\w*|organ)|unaccompanied"),
)
# Word -> instrument, longest first, so that "muted trumpet" is not also a trumpet.
_INSTRUMENT_WORDS: tuple[tuple[str, str], ...] = (
    ("muted_trumpet", r"(?:harmon[\s-])?muted? trumpets?|trumpet with (?:a )?(?:harmon )?mute|harmon mute"),
    ("electric_piano", r"electric piano|e[\s-]piano|fender rhodes|rhodes|wurlitzer"),
    ("synth_pad", r"synth(?:esi[sz]er)?(?:[\s-]pads?)?|pads?"),
    ("alto_sax", r"alto(?:[\s-]sax(?:ophone)?)?"),
    ("tenor_sax", r"tenor(?:[\s-]sax(?:ophone)?)?"),
    ("sax", r"sax(?:ophone)?s?"),
    ("brushes", r"brush(?:es|ed drums|work|ed)?"),
    ("drums", r"drums?(?:[\s-](?:kit|set))?|drummer"),
    ("guitar", r"(?:nylon|acoustic|electric|jazz|archtop)?[\s-]?guitars?"),
    ("vibraphone", r"vibraphone|vibes"),
    ("bass", r"(?:(?:double|upright|acoustic|walking)[\s-])?bass(?! clarinet| trombone)"),
    ("piano", r"(?:grand )?pianos?|pianist"),
    ("organ", r"(?:hammond )?organ|b[\s-]?3"),
    ("trumpet", r"trumpets?|fl[uü]gelhorn|cornet"),
    ("trombone", r"trombones?"),
    ("clarinet", r"clarinets?"),
    ("flute", r"flutes?"),
)
# Players -> the genre and the sound that their names stand for.
_PLAYERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"bill evans", "modal", ("piano", "bass", "brushes")),
    (r"coltrane|trane", "modal", ("tenor_sax",)),
    (r"miles(?: davis)?", "modal", ("muted_trumpet",)),
    (r"mccoy tyner|herbie hancock|keith jarrett", "modal", ("piano",)),
    (r"wayne shorter|joe henderson", "modal", ("tenor_sax",)),
    (r"bobby hutcherson", "modal", ("vibraphone",)),
    (r"charlie parker|yardbird|sonny stitt", "bebop", ("alto_sax",)),
    (r"dizzy(?: gillespie)?|fats navarro", "bebop", ("trumpet",)),
    (r"bud powell|thelonious monk|monk", "bebop", ("piano",)),
    (r"j\.?\s?j\.? johnson|curtis fuller", "bebop", ("trombone",)),
    (r"art blakey|jazz messengers|horace silver", "hard_bop", ("trumpet", "tenor_sax")),
    (r"lee morgan|clifford brown|freddie hubbard", "hard_bop", ("trumpet",)),
    (r"sonny rollins|dexter gordon|hank mobley", "hard_bop", ("tenor_sax",)),
    (r"cannonball(?: adderley)?", "hard_bop", ("alto_sax",)),
    (r"jimmy smith|larry young", "hard_bop", ("organ", "guitar")),
    (r"grant green|kenny burrell", "hard_bop", ("guitar",)),
    (r"chet baker|gerry mulligan", "cool", ("trumpet",)),
    (r"dave brubeck|brubeck|paul desmond|lee konitz", "cool", ("alto_sax",)),
    (r"milt jackson|modern jazz quartet|mjq", "cool", ("vibraphone",)),
    (r"jim hall", "cool", ("guitar",)),
    (r"jobim|jo[aã]o gilberto|gilberto", "bossa", ("guitar",)),
    (r"stan getz|getz", "cool", ("tenor_sax",)),
    (r"herbie mann", "bossa", ("flute",)),
    (r"wes montgomery|joe pass|django(?: reinhardt)?", "swing", ("guitar",)),
    (r"oscar peterson|ahmad jamal|red garland|erroll garner|art tatum", "swing", ("piano", "bass", "drums")),
    (r"benny goodman|artie shaw", "swing", ("clarinet",)),
    (r"lester young|coleman hawkins|ben webster", "swing", ("tenor_sax",)),
    (r"(?:count )?basie|(?:duke )?ellington|louis armstrong", "swing", ("trumpet", "tenor_sax")),
)
_NOT = r"(?:no|without|minus|leave out|drop the|except)\s+(?:the\s+|any\s+)?"


def _first(words: tuple[tuple[str, str], ...] | tuple[tuple[int, str], ...], text: str) -> str | int | None:
    return next((name for name, pattern in words if re.search(rf"\b(?:{pattern})\b", text)), None)


def parse_tags(prompt: str) -> Tags:
    """Read genre, tempo, key, mood, form and instruments from a prompt's words, whatever their case.

    Genre words count before players' names; "no drums" and "without piano" leave an instrument out.

    Raises:
        ValueError: where the prompt names a tempo ("400 bpm") outside 40 to 320.
    """
    text = re.sub(r"\s+", " ", prompt.lower()).strip()
    genre = _first(_GENRE_WORDS, text)
    players = [(style, band) for name, style, band in _PLAYERS if re.search(rf"\b(?:{name})\b", text)]
    if genre is None and players:
        genre = players[0][0]
    form = _first(_FORM_WORDS, text)
    instruments = _instruments(text, genre)
    for _, band in players:
        left_out = {name[1:] for name in instruments if name.startswith("-")}
        instruments += tuple(name for name in band if name not in instruments and name not in left_out)
    key = _key(prompt)
    minor = None
    if key is None and re.search(r"\bminor\b", text):
        minor = True
    elif key is None and re.search(r"\bmajor\b", text):
        minor = False
    return Tags(
        genre=genre,  # type: ignore[arg-type]
        tempo=_tempo(text),
        key=key,
        mood=_first(_MOOD_WORDS, text),  # type: ignore[arg-type]
        form=form,  # type: ignore[arg-type]
        instruments=instruments or None,
        pace=_first(_PACE_WORDS, text),  # type: ignore[arg-type]
        ensemble=_first(_ENSEMBLE_WORDS, text),  # type: ignore[arg-type]
        minor=minor,
        metre=_metre(text),
    )


_COUNTS = {"two": "2/4", "three": "3/4", "four": "4/4", "five": "5/4", "six": "6/8", "seven": "7/4", "nine": "9/8"}


def _metre(text: str) -> str | None:
    match = re.search(r"(?<![\d/])(2/4|3/4|4/4|5/4|6/4|7/4|3/8|6/8|9/8|12/8|2/2|7/8|5/8)(?!\d)", text)
    if match:
        return match.group(1)
    count = r"\bin (two|three|four|five|six|seven|nine)(?: (four|eight))?\b(?! (?:keys|bars|choruses|minutes|parts))"
    match = re.search(count, text)
    if match and match.group(2):
        counts = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "nine": 9}
        return f"{counts[match.group(1)]}/{4 if match.group(2) == 'four' else 8}"
    return _COUNTS[match.group(1)] if match else None


def _tempo(text: str) -> float | None:
    match = re.search(r"\b(\d+(?:\.\d+)?)\s*(?:bpm|beats per minute|b\.p\.m\.?)", text)
    unit = r"\s*(?:k?hz|s\b|sec|bars?)"
    match = match or re.search(
        rf"\b(?:tempo|at|♩\s?=)\s*(?:of\s*|=\s*)?(\d{{2,3}}(?:\.\d+)?)\b(?!{unit})", text
    )
    return check_tempo(float(match.group(1))) if match else None


def _key(prompt: str) -> str | None:
    accidental = r"(?:#|b|♯|♭|[\s-]?sharp|[\s-]?flat)"
    mode = r"(?:\s*-?\s*(?:minor|major|min|maj))"
    patterns = (
        rf"\b(?:in|key of)\s+(?:the key of\s+)?([A-G]{accidental}?(?:m\b|{mode}\b)?)(?![\w'])",
        rf"\b([A-G]{accidental}?{mode})\b",
        rf"\b([A-G]{accidental}?m)\b",
        r"\b([A-G][#b♯♭])(?![\w])",
        r"\b([A-G])(?=\s+blues\b)",
        # In lower case only where it cannot be the article: "in f minor", "in bb", and "in a minor" at the
        # end.
        rf"(?i)\bin\s+([b-g]{accidental}?{mode})\b",
        r"(?i)\bin\s+([b-g](?:#|b|♭|♯))(?!\w)",
        rf"(?i)\bin\s+(a{accidental}{mode}?)(?!\w)",
        rf"(?i)\bin\s+(a{mode})\s*(?:$|[,.;])",
    )
    for pattern in patterns:
        match = re.search(pattern, prompt)
        if match and not (match.group(1) == "A" and not re.search(r"\b(?:in|of) A\s*(?:$|[,.;])", prompt)):
            return canonical_key(match.group(1))
    return None


def _instruments(text: str, genre: str | int | None) -> tuple[str, ...]:
    found: list[str] = []
    for name, pattern in _INSTRUMENT_WORDS:
        instrument = ("alto_sax" if genre in ("bebop", "cool") else "tenor_sax") if name == "sax" else name
        for sign, expression in (("-", rf"\b{_NOT}(?:{pattern})\b"), ("", rf"(?<!\w)(?:{pattern})\b")):
            text, count = re.subn(expression, " , ", text)
            if count and instrument not in found:
                found.append(sign + canonical_instrument(instrument))
    if "-drums" in found and "brushes" not in found:
        found.append("-brushes")  # "no drums" means no kit
    order = {name: position for position, name in enumerate(INSTRUMENTS)}
    return tuple(sorted(dict.fromkeys(found), key=lambda name: order[name.lstrip("-")]))
