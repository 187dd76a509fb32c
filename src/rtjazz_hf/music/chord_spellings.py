"""How chord symbols are written, in many dialects, turned into the one that `chords` builds notes from."""

from __future__ import annotations

import re
import unicodedata

NOTATIONS = ("letters", "german", "solfege")

_ACCIDENTAL = r"(?:##|bb|#|b)?"
_SOLFEGE = {
    "do": "C",
    "re": "D",
    "ré": "D",
    "mi": "E",
    "fa": "F",
    "sol": "G",
    "la": "A",
    "si": "B",
    "ti": "B",
}
_SOLFEGE_ROOT = re.compile(rf"(Do|DO|R[eé]|R[EÉ]|Mi|MI|Fa|FA|Sol|SOL|La|LA|Si|SI)({_ACCIDENTAL})")
_GERMAN_ROOT = re.compile(r"([CDFGAH]isis|[CDFGAH]is|[CDFGH]es(?!us)|Es(?!us)|As(?!us)|[A-H])([#b]?)")
_SLASH_BASS = re.compile(r"[/\\]\s*\(?([A-Ga-g](?:##|bb|#|b)?)\)?\s*$")
_DEGREE_BASS = re.compile(r"/(b{0,2}|#)(1[0-3]|[1-9])$")

# Signs that fonts and keyboards offer for the same thing.
_SIGNS = str.maketrans(
    {
        "♭": "b", "♯": "#", "𝄫": "bb", "𝄪": "##", "♮": "", "–": "-", "−": "-", "‐": "-", "—": "-",
        "º": "°", "˚": "°", "⁰": "°", "ᵒ": "°", "∅": "ø", "Ø": "ø", "⌀": "ø", "△": "Δ", "∆": "Δ", "▵": "Δ",
        "▲": "Δ", "⁺": "+", "⁻": "-", "’": "'",
    }
)  # fmt: skip

# Spellings, longest meaning first; each line turns one dialect into the one that pychord and _spell_out read.
_DIALECT: tuple[tuple[str, str], ...] = (
    (r"(?<=[A-Za-z])\.", ""),  # dim. alt. maj. min.
    (r"^(?:ø|ø7|h|h7|half-?dim(?:inished)?7?|hdim7?)$", "m7b5"),
    (r"^(?:ø|h|hdim)(9|11|13)", r"m\1b5"),
    (r"^(?:ø|h(?:dim)?)7?(?=add|[b#])", "m7b5"),
    (r"[Δ^]", "maj7"),
    (r"maj77", "maj7"),
    (r"maj7(9|11|13|6)", r"maj\1"),
    (r"^(?:DIM|Dim|diminished)", "dim"),
    (r"^(?:AUG|Aug|augmented)", "aug"),
    (r"(?:SUS|Sus)", "sus"),
    (r"(?:ADD|Add)", "add"),
    (r"^(?:°|o(?!mit)|0(?=$|7$|7[^\d]|9))", "dim"),
    (r"^(?:minor|Minor|MINOR|min|Min|MIN|mi|Mi|MI)(?!n)", "m"),
    (r"^-5$", "b5"),  # a flat fifth, not a minor chord
    (r"^-", "m"),
    (r"(7|9|11|13)M(?![a-z])", r"maj\1"),  # 7M, as in Brazil
    (r"(?:[Mm]ajor|Maj|MAJ|Ma(?!dd)|MA|ma(?=[679]|1[13]|$))", "maj"),
    (r"M", "maj"),
    (r"^mmaj$", "mmaj7"),
    (r"^m[#+]7$", "mmaj7"),  # a raised seventh
    (r"^m[+]5$", "m#5"),
    (r"^m(?:\+|aug)", "m#5"),
    (r"^m#57", "m7#5"),
    (r"^maj(?=add)", ""),  # a major triad and a tone
    (r"maj(9|11|13)7", r"maj\1"),  # 9M7
    (r"^dim(?:7addmaj7|maj77)$", "dimmaj7add13"),
    (r"^dimaddmaj7$", "dimmaj7"),
    (r"^m(b6|b13)maj7$", r"mmaj7\1"),
    (r"^67$", "7add13"),
    (r"^dom(?:inant)?$", "7"),
    (r"^dom(?:inant)?", ""),
    (r"^[+]5$|^5[+]$|^[#]5$", "aug"),
    (r"^5-$", "b5"),
    (r"^(?:\+|aug)(7|9|11|13)", r"\1#5"),
    (r"^(?:\+|aug)maj7", "maj7#5"),
    (r"^(?:\+|aug)maj9", "maj9#5"),
    (r"^\+", "aug"),
    (r"(7|9)(?:\+|aug)$", r"\1#5"),
    (r"(?<=\d)\+(?=\d)", "#"),
    (r"(?<=\d)-(?=\d)", "b"),
    (r"^(m?(?:maj)?)6/?9", r"\g<1>69"),
    (r"^(m?)6add9", r"\g<1>69"),
    (r"sus2/?4", "sus24"),
    (r"sus(?![24])", "sus4"),
    (r"^sus4([679]|11|13)(?=$|[^\d])", r"\1sus4"),
    (r"^sus4([b#](?:9|11|13))", r"7sus4\1"),
    (r"^(m?)maj(6|69)?$", r"\1\2"),
    (r"^(m?(?:maj)?)7add9$", r"\g<1>9"),
    (r"^(m?(?:maj)?13)add9$", r"\1"),
    (r"^9add13$", "13"),
    (r"^(?:7?alt(?:ered)?)7?$", "7alt"),
    (r"^4$", "sus4"),
    (r"^m4$", "madd11"),
    (r"^7(?:sus)?4$", "7sus4"),
)

# Harte's shorthands (Harte et al., "Symbolic representation of musical chords", ISMIR 2005) that are not in the
# dialect: https://ismir2005.ismir.net/proceedings/1080.pdf
_HARTE = {
    "maj": "", "min": "m", "minmaj7": "mmaj7", "hdim7": "m7b5", "dim": "dim", "aug": "aug", "1": "no3no5",
    "maj6": "6", "min6": "m6", "5": "5", "sus2": "sus2", "sus4": "sus4",
}  # fmt: skip


def split_symbol(text: str, notation: str = "letters") -> tuple[str, str, str] | None:
    """Root, quality as written, and bass ("" where there is none; "°b7" where it is a degree); None: no chord.

    The root is "" where only a bass note is given: `/C`, or `W/C` as in iReal Pro.
    """
    if notation not in NOTATIONS:
        raise ValueError(f"unknown notation {notation!r} of chords: choose from {', '.join(NOTATIONS)}")
    plain = unicodedata.normalize("NFKC", text.translate(_SIGNS)).strip()
    if re.fullmatch(r"\([^()]*\)", plain):
        plain = plain[1:-1].strip()
    bass = _SLASH_BASS.fullmatch(plain.removeprefix("W"))
    if bass:
        return "", "", _note(bass.group(1), notation)
    found = _root(plain, notation)
    if found is None:
        return None
    name, rest = found
    if rest.startswith(":") and notation == "letters":
        return _split_harte(name, rest[1:])
    bass = _SLASH_BASS.search(rest)
    if bass:
        return name, rest[: bass.start()], _note(bass.group(1), notation)
    if notation != "letters" or _SOLFEGE_ROOT.match(plain):
        head, _, tail = rest.rpartition("/")
        below = _root(tail, notation) if tail else None
        if below is not None and not below[1]:
            return name, head, below[0]
    return name, rest, ""


def _note(written: str, notation: str) -> str:
    found = _root(written[:1].upper() + written[1:], notation)
    return found[0] if found else written


def _root(plain: str, notation: str) -> tuple[str, str] | None:
    """The root as a letter with accidentals, and what follows it."""
    if notation == "german":
        match = _GERMAN_ROOT.match(plain)
        if not match:
            return None
        letter, ending, sign = match.group(1)[0], match.group(1)[1:], match.group(2)
        letter, sign = {"H": ("B", sign), "B": ("B", "b" + sign)}.get(letter, (letter, sign))
        sign = {"is": "#", "isis": "##", "es": "b", "s": "b"}.get(ending, sign)
        return letter + sign, plain[match.end() :]
    match = _SOLFEGE_ROOT.match(plain)
    if match and (notation == "solfege" or _only_solfege(plain, match)):
        return _SOLFEGE[match.group(1).lower()] + match.group(2), plain[match.end() :]
    if notation == "solfege":
        return None
    match = re.match(rf"[A-G]{_ACCIDENTAL}", plain)
    if not match:
        return None
    # "Abb5" is A with a flat fifth only where a "b5" is left over that way: Ab + b5.
    name = match.group()
    if len(name) == 3 and name.endswith("bb") and plain[3:4] == "5":
        name = name[:2]
    return name, plain[len(name) :]


def _only_solfege(plain: str, match: re.Match[str]) -> bool:
    """Whether the root can be nothing but solfège: "Do7" is D diminished too, "Sol7" is only one thing."""
    return match.group(1).lower() != "do" and not re.match(r"Fa(?:dd|ug|lt)", plain)


def _split_harte(root: str, rest: str) -> tuple[str, str, str] | None:
    degree = _DEGREE_BASS.search(rest)
    rest, bass = (rest[: degree.start()], degree.group()[1:]) if degree else (rest, "")
    shorthand, _, added = rest.partition("(")
    quality = _HARTE.get(shorthand, shorthand)
    if "*" in added or (added and not added.endswith(")")):
        return None  # notes left out of a shorthand: not read
    return root, quality + (f"({added}" if added else ""), f"°{bass}" if bass else ""


def plain_quality(written: str) -> str | None:
    """A quality as anybody writes it in the plain dialect; None where it is not well formed."""
    quality = unicodedata.normalize("NFKC", written.translate(_SIGNS)).strip()
    if quality.count("(") != quality.count(")"):
        return None
    minor = re.match(r"(?:m(?!aj)|min|mi(?!n)|-|MI)", quality) is not None
    quality = re.sub(
        r"[(\[]([^()\[\]]*)[)\]]", lambda found: _figures(found.group(1), quality, minor), quality
    )
    quality = re.sub(r"[()\[\],\s]", "", quality)
    quality = re.sub(r"^(m?(?:maj|M|ma)?)6/9", r"\g<1>69", quality)
    quality = re.sub(
        r"(?<=[\w+°-])/((?:[b#+-]?(?:13|11|[2-79])|(?:13|11|[2-79])[+-]|[Mm]aj7|MAJ7|M[Aa]?7|ma7|add\d+)(?![\dM]))",
        lambda found: _figures(found.group(1), quality, minor),
        quality,
    )
    for pattern, plain in _DIALECT:
        quality = re.sub(pattern, plain, quality)
    return quality


def _figures(inside: str, quality: str, minor: bool) -> str:
    """What stands in brackets or after a slash, such as `b9/b13`, `5+`, `9` or `4`, as alterations."""
    parts = []
    for part in re.split(r"[,/;\s]+", inside.strip()):
        figure = re.fullmatch(r"([b#+-]?)(13|11|[2-79])([+-]?)", part)
        if not figure:
            parts.append(part)
            continue
        before, degree, after = figure.groups()
        sign = {"+": "#", "-": "b"}.get(before or after, before)
        if degree == "7":
            parts.append("maj7" if sign == "#" else degree)
        elif sign:
            parts.append(sign + degree)
        elif degree == "4":
            parts.append("add11" if minor else "sus4")
        elif degree == "5":
            parts.append("" if quality[:1] not in ("", "(") else "5")
        else:
            parts.append(f"add{degree}")
    return "".join(parts)
