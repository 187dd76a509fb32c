"""What the words of a prompt ask for: genre, tempo, key, mood, form, instruments."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .vocabulary import HORNS, INSTRUMENTS, canonical_instrument, canonical_key, check_tempo


@dataclass(frozen=True)
class Tags:
    """The parts of a prompt that a chart can follow; None where the prompt leaves them open.

    Attributes:
        genre: one of `GENRES`. tempo: in BPM, where the prompt gives a number. key: one of `KEYS`.
        mood: one of `MOODS`. form: one of `rtjazz_hf.band.forms.FORMS`.
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
    ("samba", r"samba(?! nova)(?:[\s-]jazz)?s?|batucada|samba[\s-]can[cç][aã]o"),
    ("afro", r"afro(?![\s-](?:cuban|latin|jazz)(?! (?:6/8|12/8|3/4)))(?:[\s-]cuban)?|bemb[eé]|nanigo"),
    (
        "mambo",
        r"mambo|son(?:[\s-](?:montuno|cubano|clave))?|montuno|afro[\s-]cuban|cu-?bop|latin[\s-]jazz|cha[\s-]?cha"
        r"(?:[\s-]?cha)?|guaguanc[oó]|rumba|guajira|guaracha",
    ),
    ("bossa", r"bossa(?:[\s-]nova)?s?|brazil(?:ian)?|latin"),
    ("gypsy", r"gypsy(?:[\s-](?:swing|jazz))?|manouche|hot club|la pompe"),
    ("second_line", r"second[\s-]line|new[\s-]orleans|mardi[\s-]gras|street[\s-]beat"),
    (
        "fast_waltz",
        r"(?:very |blistering )?(?:fast|up[\s-]?tempo|quick|brisk|up)[\s-]+(?:jazz[\s-]+)?waltz(?:es)?|waltz in one",
    ),
    ("waltz", r"waltz(?:es)?|three[\s-]four|3/4|in three"),
    ("ballad", r"ballads?|torch song|lullaby"),
    ("rhythm_changes", r"rhythm[\s-]changes"),
    ("hard_bop", r"hard[\s-]?bop|gospel"),
    ("funk", r"(?:jazz[\s-])?funk(?:y)?(?:[\s-]jazz)?|soul[\s-]jazz|boogaloo|acid jazz"),
    ("bebop", r"be[\s-]?bop|(?<!hard )(?<!hard-)(?<!post )(?<!post-)bop"),
    ("even_eighths", r"(?:even|straight)[\s-](?:8ths?|eighths?|quavers?)|ecm|nordic|scandinavian"),
    ("shuffle", r"shuffle[sd]?|boogie(?:[\s-]woogie)?"),
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
_NOT = (
    r"\b(?:no|without|minus|sans|not|skip|omit|exclude|excluding|leave out|leaving out|take out|drop|except(?: for)?"
    r"|(?:do not|don'?t|never)(?: (?:use|play|want|add|include))?(?: any| a)?|mut(?:e|ing)(?= (?:the|all|any|every)\b))"
)
_ARTICLE = r"(?:the |any |a |an |all |every )?"
_HORNS = r"horns?|horn section|brass|winds?"
# What people ask for and this band has not, and what to say of it.
_MISSING: tuple[tuple[str, str], ...] = (
    ("nobody sings", r"vocals?|vocalists?|sing(?:er|ers|ing)|sung|lyrics|scat(?:ting)?|choir|crooner|voice"),
    (
        "the band has no such instrument",
        r"violins?|violas?|cellos?|strings?|string section|orchestra|harps?|banjo|accordions?|bandoneon|harmonica"
        r"|tuba|sousaphone|oboe|bassoon|(?:french )?horn player|congas?|bongos?|timbales|percussion|marimba|xylophone"
        r"|glockenspiel|soprano(?:[ -]sax(?:ophone)?)?|bari(?:tone)?(?:[ -]sax(?:ophone)?)?|bass clarinet|steel drums?"
        r"|sitar|ukulele|mandolin|turntables?|electric bass|fretless(?: bass)?|sub[ -]?bass|808s?",
    ),
    (
        "the band plays jazz alone",
        r"rock(?!ing)|metal|punk|hip[ -]?hop|trap|techno|house music|drum (?:and|&|n) bass|dubstep|reggae|country"
        r"|edm|k-?pop|pop song|disco|salsa|tango|flamenco|classical",
    ),
    (
        "the tempo stays as it is; change it while it plays, or in the chart",
        r"accelerando|ritardando|rubato|accelerat(?:e|ing)|speed(?:s|ing)? up|slow(?:s|ing)? down|double[ -]time"
        r"|half[ -]time",
    ),
    ("the key stays that of the chart; write the change into a chart", r"modulat(?:e|es|ing|ion)|key changes?"),
    (
        "the sound is that of the recording; treat it afterwards",
        r"reverb|echo|lo-?fi|vinyl|crackle|tape hiss|distortion|distorted|wah(?:-wah)?|applause|audience|8d audio",
    ),
    ("the length is an argument: duration", r"\d+ ?(?:minutes?|seconds?|min|sec)\b(?: long)?|fade[ -]?(?:out|in)"),
)


def _first(words: tuple[tuple[str, str], ...] | tuple[tuple[int, str], ...], text: str) -> str | int | None:
    return next((name for name, pattern in words if re.search(rf"\b(?:{pattern})\b", text)), None)


def parse_tags(prompt: str) -> Tags:
    """Read genre, tempo, key, mood, form and instruments from a prompt's words, whatever their case.

    Genre words count before players' names; "no drums", "without piano and bass", "pianoless" and "mute the drums"
    leave an instrument out. `not_done` says what the words ask for that is in none of this.

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


def not_done(prompt: str) -> tuple[str, ...]:
    """What a prompt asks for and nobody plays, a line each; what it leaves out is not asked for."""
    text = re.sub(r"\s+", " ", prompt.lower()).strip()
    found = []
    for reason, pattern in _MISSING:
        for match in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", text):
            before = text[: match.start()]
            if not re.search(rf"(?:{_NOT}|\bwithout|\bno) (?:[\w-]+ (?:and|or|nor) )?{_ARTICLE}$", before):
                found.append(f"{match.group()!r}: {reason}")
    return tuple(dict.fromkeys(found))


def _tempo(text: str) -> float | None:
    number = r"(\d+(?:\.\d+)?)"
    match = (
        re.search(rf"(?<![\d.]){number}\s*(?:bpm|beats per minute|beats a minute|b\.p\.m\.?)", text)
        or re.search(rf"\b(?:bpm|b\.p\.m\.|tempo)\s*(?:of|is|[:=])?\s*{number}(?![\d%])", text)
        or re.search(rf"(?:♩|𝅘𝅥|\bquarter(?: note)?|\bcrotchet)\s*=\s*{number}", text)
    )
    if match:
        return check_tempo(float(match.group(1)))
    unit = r"\s*(?:k?hz|s\b|sec|bars?|%|percent|per ?cent|a\.?m|p\.?m|/|:|°|degrees|k\b|kbit|db|years)"
    about = r"(?:about\s+|around\s+|ca\.?\s+)?"
    match = re.search(rf"\bat\s+{about}(\d{{2,3}}(?:\.\d+)?)\b(?!\.?\d)(?!{unit})", text)
    return check_tempo(float(match.group(1))) if match else None


# Instruments that are called by the key they are built in: "Bb clarinet" says nothing of the tune's.
_TRANSPOSING = (
    r"(?i:(?:bass |alto |tenor |soprano )?(?:clarinets?|trumpets?|cornets?|sax(?:ophone)?s?|tenor|alto|soprano|horns?"
    r"|instruments?|parts?|flutes?|tubas?)\b)"
)


def _key(prompt: str) -> str | None:
    modal = re.search(
        r"(?i)\b([a-g](?:#|b|♯|♭|[\s-]sharp|[\s-]flat)?)[\s-]+"
        r"(dorian|phrygian|aeolian|locrian|lydian|mixolydian|ionian)\b",
        prompt,
    )
    if modal and modal.group(1) != "a":
        minor = modal.group(2).lower() in ("dorian", "phrygian", "aeolian", "locrian")
        return canonical_key(f"{modal.group(1)} {'minor' if minor else 'major'}")
    prompt = re.sub(rf"\b[A-Ga-g](?:#|b|♯|♭|[\s-]?flat|[\s-]?sharp)?[\s-]+(?={_TRANSPOSING})", " ", prompt)
    accidental = r"(?:#|b|♯|♭|[\s-]?sharp|[\s-]?flat)"
    mode = r"(?:\s*-?\s*(?:minor|major|min|maj))"
    patterns = (
        rf"(?i)\bkey(?:\s+of|:|\s+is|\s*=)?\s+([a-g]{accidental}?(?:m\b|{mode}\b)?)(?![\w'])",
        rf"(?i)\bin\s+([a-g][\s-]?(?:flat|sharp){mode}?)\b",
        r"(?i)\bin\s+([b-g])\s*(?:$|[,.;])",
        r"(?i)\b([a-g][b#♭♯]m?)\s+(?:blues|bossa|ballad|waltz|swing|vamp|bebop)\b",
        rf"(?i)\bin\s+([b-g]{accidental}?m)\b",
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
    text, left_out = _left_out(text)
    found: list[str] = [f"-{name}" for name in left_out]
    for name, pattern in _INSTRUMENT_WORDS:
        instrument = ("alto_sax" if genre in ("bebop", "cool") else "tenor_sax") if name == "sax" else name
        text, count = re.subn(rf"(?<!\w)(?:{pattern})\b", " , ", text)
        if count and instrument not in found:
            found.append(canonical_instrument(instrument))
    if "-drums" in found and "brushes" not in found:
        found.append("-brushes")  # "no drums" means no kit
    order = {name: position for position, name in enumerate(INSTRUMENTS)}
    return tuple(sorted(dict.fromkeys(found), key=lambda name: order[name.lstrip("-")]))


def _left_out(text: str) -> tuple[str, list[str]]:
    """The text without what it leaves out, and the instruments of that: "without drums and bass", "pianoless".

    "and" goes on with the list; a comma does where an "or" follows: "no drums, piano trio" has a piano.
    """
    text = re.sub(
        r"\b(piano|drum|bass|guitar|organ|horn|sax|trumpet|vibes?|cymbal)s?-?less\b",
        lambda found: f" no {found.group(1)} ,", text,
    )  # fmt: skip
    any_one = "|".join(f"(?:{pattern})" for _, pattern in (*_INSTRUMENT_WORDS, ("horns", _HORNS)))
    item = rf"(?:no )?{_ARTICLE}(?:{any_one})(?!\w)"
    left_out: list[str] = []

    def take(found: re.Match[str]) -> str:
        whole = found.group()
        if "," in whole and not re.search(r"\b(?:or|nor)\b", whole):
            first = re.match(rf"{_NOT} {item}(?: (?:and|or|nor|&) {item})*", whole)
            assert first is not None, "the list begins with one"
            kept, whole = whole[first.end() :], first.group()
        else:
            kept = ""
        for name, pattern in _INSTRUMENT_WORDS:
            whole, count = re.subn(rf"(?<!\w)(?:{pattern})(?!\w)", " , ", whole)
            if count:
                left_out.extend(("alto_sax", "tenor_sax") if name == "sax" else (canonical_instrument(name),))
        if re.search(rf"\b(?:{_HORNS})\b", whole):
            left_out.extend(HORNS)
        return f" , {kept}"

    lists = re.compile(rf"{_NOT} {item}(?:(?:, and |, or |, | and | or | nor | & ){item})*")
    count = 1
    while count:  # what a list leaves over may begin another
        text, count = lists.subn(take, text)
    return text, left_out
