"""Opens whatever a musician brings, by what is in it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..music.chart import ParsedChart, parse_chart
from .chordpro import is_chordpro, is_chords_over_words, read_chordpro, read_chords_over_words
from .ireal import find_tunes
from .midi import read_midi
from .musicxml import read_musicxml, unpack_mxl

MAX_BYTES = 16 << 20
SUFFIXES = (
    ".musicxml", ".xml", ".mxl", ".mid", ".midi", ".txt", ".chart", ".cho", ".chopro", ".chordpro", ".crd", ".pro",
    ".html", ".htm", ".irealb", ".ireal",
)  # fmt: skip


@dataclass(frozen=True)
class Tune:
    """A tune of a file or link, which `chart()` reads.

    Attributes:
        title: as it is written there; "" where nothing says. format: what it was in.
    """

    title: str
    format: str
    read: Callable[[], ParsedChart] = dataclasses.field(repr=False, compare=False)

    def chart(self) -> ParsedChart:
        """Raises ValueError where it cannot be played, naming the bar and the reason."""
        return self.read()


def looks_like_file(text: str) -> bool:
    """Whether a text is the name of a file of chords rather than a chart: one line that ends as such files do."""
    plain = text.strip()
    return "\n" not in plain and "|" not in plain and len(plain) < 1024 and plain.lower().endswith(SUFFIXES)


def read_tunes(source: str | Path | bytes) -> list[Tune]:
    """The tunes in a file (`Path`), in a file's bytes, or in a text: a link, a playlist, a chart.

    A text is never opened as a file here: give a `Path` for that.

    Raises:
        ValueError: nothing that is known, too large, or not readable. OSError: the file cannot be opened.
    """
    if isinstance(source, Path):
        return _read_file(source)
    if isinstance(source, bytes):
        return _of_bytes(source)
    if not isinstance(source, str):
        raise ValueError(f"charts are read from a Path, bytes or text, not from {type(source).__name__}")
    if len(source) > MAX_BYTES:
        raise ValueError(f"{len(source)} characters: at most {MAX_BYTES} are read")
    return _of_text(source)


def read_chart(source: str | Path | bytes, tune: str | int | None = None) -> ParsedChart:
    """One tune of a file, bytes or text, ready to play.

    Args:
        source: as `read_tunes` takes it.
        tune: its title, or a part of it, or its number from 1, where there are several.

    Raises:
        ValueError: several tunes and none chosen, no such tune, or one that cannot be played. OSError: no such file.
    """
    tunes = read_tunes(source)
    return choose_tune(tunes, tune).chart()


def choose_tune(tunes: list[Tune], wanted: str | int | None) -> Tune:
    """The tune that a title, a part of one, or a number from 1 means."""
    if wanted is None:
        if len(tunes) > 1:
            some = ", ".join(f"{number} {each.title!r}" for number, each in enumerate(tunes[:8], 1))
            raise ValueError(f"there are {len(tunes)} tunes: choose one by its number or title ({some}, ...)")
        return tunes[0]
    if isinstance(wanted, int) or wanted.isdigit():
        number = int(wanted)
        if not 1 <= number <= len(tunes):
            raise ValueError(f"tune {number}: there are {len(tunes)}")
        return tunes[number - 1]
    for matches in (str.__eq__, str.startswith, str.__contains__):
        for each in tunes:
            if matches(each.title.lower(), wanted.lower()):
                return each
    raise ValueError(f"no tune is called {wanted!r}: there are {', '.join(each.title for each in tunes[:8])}")


def chart_text(chords: str | Path, tune: str | int | None = None) -> str:
    """What a chart argument means, as text in the chart language: a file is read, other text is left as it is.

    Opens a file where a `Path` is given, or a text that is the name of one (`looks_like_file`): for calls of people
    on their own machine, never for what others send.

    Raises:
        ValueError: it cannot be read or played. OSError: no such file.
    """
    if isinstance(chords, Path) or (isinstance(chords, str) and looks_like_file(chords)):
        return read_chart(Path(chords), tune).to_text()
    return sent_text(chords, tune)


def sent_text(chords: str, tune: str | int | None = None) -> str:
    """As `chart_text`, for text that others send: nothing is ever opened.

    Raises:
        ValueError: as `read_chart`; the name of a file is refused as such.
    """
    if not isinstance(chords, str):
        return chords
    if looks_like_file(chords):
        raise ValueError(
            f"{chords.strip()[:80]!r} is the name of a file: send its contents, files are not opened here"
        )
    if re.match(r"\s*ireal(?:b|book)://", chords) or is_chordpro(chords) or is_chords_over_words(chords):
        return read_chart(chords, tune).to_text()
    return chords


@lru_cache(maxsize=64)
def chorus_bars(chords: str) -> int:
    """Bars of a chart, as text, with its repeats written out: lead sheets have it several times.

    Raises:
        ValueError: as `sent_text`.
    """
    return len(parse_chart(sent_text(chords)).bars)


def _read_file(path: Path) -> list[Tune]:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path.name} has {size} bytes: at most {MAX_BYTES} are read")
    if not path.is_file():
        raise ValueError(f"{path.name} is not a file")
    try:
        tunes = _of_bytes(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    return [dataclasses.replace(each, title=each.title or path.stem) for each in tunes]


def _of_bytes(data: bytes) -> list[Tune]:
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes: at most {MAX_BYTES} are read")
    if data[:4] == b"MThd":
        return [_tune("MIDI", lambda: read_midi(data))]
    if data[:4] == b"PK\x03\x04":
        return [_tune("MusicXML", lambda: read_musicxml(unpack_mxl(data)))]
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n\x00\xff\xfe")
    if head[:5] == b"<?xml" or head[:6].lower() == b"<score" or b"<\x00?\x00x\x00m\x00l" in data[:64]:
        return [_tune("MusicXML", lambda: read_musicxml(data))]
    if b"\x00" in data[:4096] and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(
            "this is no chart that is known: bring MusicXML, .mxl, MIDI, iReal Pro, ChordPro or text"
        )
    return _of_text(_decode(data))


def _decode(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _of_text(text: str) -> list[Tune]:
    if re.search(r"ireal(?:b|book)://", text):
        tunes = find_tunes(text)
        if not tunes:
            raise ValueError("the iReal Pro link has no tune in it: copy it whole, from irealb:// to its end")
        return [Tune(each.title, "iReal Pro", each.chart) for each in tunes]
    if re.match(r"\s*<(?:!doctype|html)", text, re.IGNORECASE):
        raise ValueError("the page has no iReal Pro link in it (irealb://...)")
    if re.match(r"\s*<\?xml|\s*<score-", text):
        return [_tune("MusicXML", lambda: read_musicxml(text.encode()))]
    if is_chordpro(text):
        title = re.search(r"\{\s*(?:title|t)\s*:\s*([^{}\n]{1,80})\}", text, re.IGNORECASE)
        return [Tune(title.group(1).strip() if title else "", "ChordPro", lambda: read_chordpro(text))]
    if is_chords_over_words(text):
        return [_tune("words with chords", lambda: read_chords_over_words(text))]
    return [_tune("text", lambda: parse_chart(text))]


def _tune(kind: str, read: Callable[[], ParsedChart]) -> Tune:
    return Tune("", kind, read)
