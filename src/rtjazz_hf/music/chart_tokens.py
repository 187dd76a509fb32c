"""What the text of a chart is made of."""

from __future__ import annotations

import re

from .chords import Chord

_INSIDE = r"[^()\[\]]*(?:\([^()]*\)[^()\[\]]*)*"  # of brackets; chords in them may have their own
# One token after another; the first alternative that fits is taken.
TOKENS = re.compile(
    rf"""(?P<space>\s+)
      | (?P<times>[\[(]?\s*(?:[x×]\s*\d{{1,4}}|\d{{1,4}}\s*(?:[x×]|times\b))\s*[\])]?(?=[\s|\]]|$))
      | (?P<jump>[\[("“<]?\s*(?:D\.\s*[CS]\.?|D[CS](?![A-Za-z0-9#])|[Dd]a\s+[Cc]apo|[Dd]al\s+[Ss]egno)
          (?:\s*(?i:al|to|till|until)\s+(?i:the\s+)?
             (?P<goal>(?i:fine|(?:double\s+)?coda|end(?!ing)|\d(?:st|nd|rd|th)?\.?\s*(?:ending|end|volta|x)?\.?)|⊕|𝄌))?
          (?:\s*\(?(?P<rep>(?i:(?:no|con|senza|with|without|take)\s+(?:the\s+)?rep(?:eats?|\.)?))\)?)?
          \s*[\])"”>]?(?=[\s|\]:]|$))
      | (?P<sign>[\[("“<]?\s*
          (?:(?i:to)\s+(?:(?i:coda)\s*[⊕𝄌]?|[⊕𝄌])|(?i:coda|segno|fine|al\s+coda)|[𝄋𝄌⊕§])(?:\.|:(?![|\]]))?\s*[\])"”>]?
          (?=[\s|\]:,]|$))
      | (?P<close>:\|{{1,2}}:(?!\d)|:\|\]|:\|{{1,2}}|:\]|\}}\s*\{{|\}}|𝄇)
      | (?P<open>\|{{0,2}}:(?![:\d])(?=[^|]|$)|\[:|\[\|:|\|?\{{|𝄆)
      | (?P<ending>(?:\|\s*)?\[\s*\d(?:\s?[,&.–-]+\s?\d)*[.):]?\s*(?:\](?!\S)|(?=\s|$|[^\d\]\s](?![^\[]*\])))
          |\|?\d(?:\s?[,&.–-]+\s?\d)*\.(?=\s|$)
          |(?<=\|)\d(?=\s)
          |\[?\(?\d(?:st|nd|rd|th)\s+(?:ending|time|end|x)[:.]?\)?\]?)
      | (?P<metre>(?<![^\s|:\[\]{{}}])\d{{1,2}}/(?:16|[0-9]{{1,2}})(?:\(\d+(?:\+\d+)+\))?(?=[\s|]|$)|[𝄴𝄵])
      | (?P<double>\|\||\|\]|\[\||‖|𝄁|𝄂)
      | (?P<bracket>\[{_INSIDE}\]|\((?={_INSIDE}\)(?:[\s|\]:,]|$)){_INSIDE}\)|<[^<>|]{{1,40}}>|["“][^"“”]*["”])
      | (?P<bar>\||𝄀)
      | (?P<word>(?:[^\s|\[\]{{}}<>()":]|\([^()|]*\)|:(?![|\]])|(?<=[^\s|])<[^<>|\s]*>)+)
      | (?P<stray>.)""",
    re.VERBOSE | re.DOTALL,
)
_CHORDLIKE = re.compile(
    r"(?:[A-H]|Do|R[eé]|Mi|Fa|Sol|La|Si)(?:##|bb|#|b|♭|♯|is|es)?"
    r"(?:maj|Maj|MAJ|min|Min|MIN|MI|mi|ma|MA|Ma|m|M|dim|aug|sus|add|no|omit|alt|dom|hdim|h|[-+ø°º∅ØΔ△∆^o0-9#b♭♯(),./:⁰-⁹]|[A-G])*+!?"
)
_NOT_CHORDS = re.compile(
    r"%{1,2}|[/.\-,x]+|r|N\.?C\.?|n\.?c\.?|\./\.|\d+/\d+|\(.*\)|\[.*\]|𝄎|𝄏|W?/[A-G][b#]?"
)


def plain_line(line: str) -> str:
    """A line without its comment and with one kind of quotes and bars."""
    line = (
        line.replace("\t", " ").replace("\ufeff", "").replace("¦", "|").replace("│", "|").replace("｜", "|")
    )
    if re.match(r"\s*(?:#\s|;|//\s*[A-Za-z]|--)", line):
        return ""
    return line.rstrip()


def is_chord(word: str, notation: str = "letters") -> bool:
    """Whether a word is a chord."""
    try:
        Chord.parse(word, notation)
    except ValueError:
        return False
    return True


def is_chordlike(word: str, notation: str = "letters") -> bool:
    """Whether a word is a chord, or was meant as one."""
    word = word.strip("<>").rstrip("!")
    return is_chord(re.sub(r":\d+(?:\.\d+)?$", "", word), notation) or _CHORDLIKE.fullmatch(word) is not None


def is_music(line: str, notation: str = "letters") -> bool:
    """Whether a line is one of chords, with slips in them too, rather than of words."""
    if re.search(r"\||[𝄆𝄇𝄀𝄁𝄂‖]", line):
        return True
    if "http:" in line or "https:" in line:
        return False
    tokens = [match for match in TOKENS.finditer(line) if match.lastgroup != "space"]
    words = [word for match in tokens if match.group("word") for word in split_words(match.group("word"))]
    if not words:  # nothing but signs: [A], D.C. al Fine, (A7)
        return (
            bool(tokens)
            and all(not match.group("stray") for match in tokens)
            and not re.fullmatch(r"\s*[\[(<\"][^\]]*[\])>\"]\s*", line)
        )
    chords = [word for word in words if is_chordlike(word, notation)]
    others = [word for word in words if word not in chords and not _NOT_CHORDS.fullmatch(word)]
    return (bool(chords) or len(others) < len(words)) and not others


def split_alternative(word: str, notation: str = "letters") -> tuple[str, str]:
    """A chord and the one that stands in brackets at it, as in `Cmaj7(Am7)`; "" where nothing does."""
    if re.fullmatch(r"\([A-H].*\)", word) and is_chord(word[1:-1], notation):
        return "", word[1:-1]
    found = re.fullmatch(r"(.+?)\(([A-G][^()]*(?:\([^()]*\))?)\)", word)
    if found is None or is_chord(word, notation):
        return word, ""
    chord, alternative = found.groups()
    return (chord, alternative) if is_chord(chord, notation) and is_chord(alternative, notation) else (word, "")


def split_words(token: str) -> list[str]:
    """The chords and slashes in a word, or in several: `Dm7,G7`, `Dm7///`, `////`. Between commas nothing is a beat on
    which the chord goes on: `Bb6,,Cm7,F7`, and `G7,Ab7,G7,` of four."""
    found: list[str] = []
    slots = token.split(",")
    if len(slots) > 2 and ("" in slots[1:-1] or (len(slots) == 4 and slots[-1] == "")):
        token = ",".join(slot or "/" for slot in slots)
    for part in re.split(r"(?:,|\s+)(?![^(]*\))", token):
        if part in ("./.", "-", ""):
            found += [part] if part else []
            continue
        if re.fullmatch(r"/+|\.+", part):
            found += list(part)
            continue
        head = re.fullmatch(r"(.*?[^/])(/+)", part)
        if head:
            found += [head.group(1), *head.group(2)]
        else:
            found.append(part)
    return found
