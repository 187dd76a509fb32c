"""iReal Pro: links (`irealb://`, `irealbook://`), playlists, html exports; and links of our own charts.

The format: https://www.irealpro.com/ireal-pro-custom-chord-chart-protocol; `irealb` links are the same text with
characters moved about in blocks of 50 and three short forms.
"""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from ..music.chart import ParsedChart
from ..music.chart_header import Header
from ..music.chords import Chord
from ..music.metre import Metre
from ..music.unfolding import MAX_BARS, Jump, WrittenBar
from ..music.vocabulary import MAX_TEMPO, MIN_TEMPO, canonical_key
from .written import bar_of, last_span, spans_of, take_words, times_in, without_segno

_LINK = re.compile(r"ireal(b|book)://([^\"'<>\s]+)")
_PREFIX = "1r34LbKcu7"
_BLOCK = 50
_TOKEN = re.compile(
    r"""(?P<metre>T\d\d)
      | (?P<label>\*[A-Za-z])
      | (?P<ending>N\d)
      | (?P<comment><[^>]*>)
      | (?P<alternative>\([^()]*\))
      | (?P<chord>[A-GW][b\#]?(?:sus|alt|add|[+\-^\dhob\#])*(?:\*[^*]*\*)?(?:/[A-G][\#b]?)?)
      | (?P<simile>[xr])
      | (?P<slash>p)
      | (?P<silent>n)
      | (?P<line>[|\[\]{}Z])
      | (?P<sign>[SQf])
      | (?P<cell>\ )
      | (?P<passed>[,lsYUX\r\n\t])
      | (?P<stray>.)""",
    re.VERBOSE | re.DOTALL,
)
_SECTION = r"(?i)(?:intro|verse|chorus|refrain|bridge|trio|interlude|vamp|head|solos?|tag|outro)(?:\s+\w)?"
_MOST_BARS_EARLY = 4  # a row of a page
_MOST_CHARACTERS = 20_000  # of one tune's music; 512 bars have less


@dataclass(frozen=True)
class IRealTune:
    """One tune of a link or playlist; `chart()` reads it."""

    title: str
    composer: str
    style: str
    key: str
    tempo: str
    music: str

    def chart(self) -> ParsedChart:
        """The tune, ready to play.

        Raises:
            ValueError: what cannot be read or played, naming the bar.
        """
        header = Header(title=self.title, composer=self.composer, style=self.style)
        try:
            header.key = canonical_key(self.key.strip().replace("-", "m")) if self.key.strip() else None
        except ValueError:
            header.remarks.append(f"the key {self.key!r} was not read")
        if self.tempo.strip().isdigit() and MIN_TEMPO <= int(self.tempo) <= MAX_TEMPO:
            header.tempo = float(self.tempo)
        reader = _MusicReader()
        reader.read(self.music)
        return ParsedChart.of(reader.finish(), header, reader.remarks)


def find_tunes(text: str) -> list[IRealTune]:
    """The tunes of every link in a text or html page, in order; none where there is no link."""
    return [tune for kind, body in _links(text) for tune in _split(kind, body)]


def _links(text: str) -> Iterator[tuple[str, str]]:
    whole = re.fullmatch(r"\s*ireal(b|book)://(.*?)\s*", text)
    if whole:  # a link on its own, not encoded perhaps
        yield whole.group(1), urllib.parse.unquote(whole.group(2), errors="replace")
        return
    for match in _LINK.finditer(text):
        yield match.group(1), urllib.parse.unquote(html.unescape(match.group(2)), errors="replace")


def _split(kind: str, body: str) -> Iterator[IRealTune]:
    fields = body.split("=")
    if kind == "b":
        for at in (index for index, each in enumerate(fields) if index >= 6 and each.startswith(_PREFIX)):
            title, composer, _, style, key, _ = fields[at - 6 : at]
            tempo = fields[at + 2] if at + 2 < len(fields) else ""
            music = _plain_music(fields[at].removeprefix(_PREFIX))
            yield IRealTune(title.strip(), composer.strip(), style.strip(), key, tempo, music)
        return
    for first in range(0, len(fields) - 5, 6):
        title, composer, style, key, _, music = fields[first : first + 6]
        yield IRealTune(title.strip(), composer.strip(), style.strip(), key, "", music)


def _scramble(block: str) -> str:
    """A block of 50 with the places 0-4 and 10-23 mirrored; done twice, it is as it was."""
    signs = list(block)
    for index in (*range(5), *range(10, 24)):
        signs[index], signs[49 - index] = signs[49 - index], signs[index]
    return "".join(signs)


def _scrambled(text: str) -> str:
    out = []
    while len(text) > _BLOCK:
        block, text = text[:_BLOCK], text[_BLOCK:]
        out.append(block if len(text) < 2 else _scramble(block))
    return "".join([*out, text])


def _plain_music(scrambled: str) -> str:
    return _scrambled(scrambled).replace("Kcl", "| x").replace("LZ", " |").replace("XyQ", "   ")


class _MusicReader:
    """Reads the cells of a tune into written bars."""

    def __init__(self) -> None:
        self.bars: list[WrittenBar] = []
        self.remarks: list[str] = []
        self.metre = Metre(4, 4)
        self._cells: list[tuple[Chord | None, str]] = []  # a chord, or nothing: an empty cell
        self._alternatives: list[tuple[int, str]] = []
        self._simile = ""
        self._half = (
            False  # whether a sign for two bars was just read, so that an empty bar is the second of them
        )
        self._start: dict[str, object] = {}
        self._end: list[str] = []  # words that belong to the bar that is being read
        self._inside = ""  # the bar line that has opened this bar, so that it counts though it is empty
        self._hold = False
        self._leave = False
        self._times: tuple[int, str] | None = None  # "3x" anywhere in a repeat: how often it is played

    def read(self, music: str) -> None:
        if len(music) > _MOST_CHARACTERS:
            raise ValueError(f"a tune of {len(music)} characters: at most {_MOST_CHARACTERS} are read")
        for match in _TOKEN.finditer(music):
            getattr(self, f"_take_{match.lastgroup}")(match.group())

    @property
    def _sounding(self) -> bool:
        return bool(self._simile) or any(chord is not None for chord, _ in self._cells)

    def _take_metre(self, token: str) -> None:
        if self._sounding:
            self._close()
        self.metre = Metre(12, 8) if token == "T12" else Metre(int(token[1]), int(token[2]))

    def _take_label(self, token: str) -> None:
        if self._sounding:
            self._close()
        self._start["label"] = {"*i": "Intro", "*V": "Verse"}.get(token, token[1:])

    def _take_ending(self, token: str) -> None:
        if self._sounding:
            self._close()
        number = int(token[1])
        if number:
            before = next((max(bar.endings) for bar in reversed(self.bars) if bar.endings), 0)
            if number == before == 1 and self.bars[-1].closes:
                self.remarks.append(
                    f"bar {len(self.bars) + 1}: a first ending once more is taken for the second"
                )
                number = 2
            self._start["endings"] = frozenset({number})

    def _take_comment(self, token: str) -> None:
        words = re.sub(r"^\*\d\d", "", token[1:-1]).strip()
        if words:
            self._end.append(words)

    def _take_alternative(self, token: str) -> None:
        chords = sum(1 for chord, _ in self._cells if chord is not None)
        inside = " ".join(re.findall(r"[A-GW][b#]?(?:sus|alt|add|[+\-^\dhob#])*(?:/[A-G][#b]?)?", token))
        if inside:
            self._alternatives.append((chords, inside))

    def _take_chord(self, token: str) -> None:
        named = re.sub(r"\*([^*]*)\*", r"\1", token)
        try:
            chord = Chord.parse(named)
        except ValueError as error:
            raise ValueError(f"bar {len(self.bars) + 1} of the chart: {error}") from None
        if chord.is_bass_alone:
            before = next((each for each, _ in reversed(self._cells) if each is not None), None)
            going_on = last_span(self.bars)
            before = before or (going_on.chord if going_on else None)
            chord = before.over(chord.symbol[1:]) if before is not None and not before.is_no_chord else chord
        self._cells.append((chord, "hold" if self._hold else "play"))
        self._hold = False

    def _take_simile(self, token: str) -> None:
        if self._sounding:
            self._close()
        self._simile = token

    def _take_slash(self, token: str) -> None:
        self._cells.append((None, "slash"))

    def _take_silent(self, token: str) -> None:
        self._cells.append((Chord.no_chord(), "rest"))

    def _take_cell(self, token: str) -> None:
        self._cells.append((None, ""))

    def _take_passed(self, token: str) -> None:
        pass

    def _take_stray(self, token: str) -> None:
        self.remarks.append(f"bar {len(self.bars) + 1}: {token!r} was not read")

    def _take_sign(self, token: str) -> None:
        if token == "f":
            self._hold = True
        elif token == "S":
            if self._sounding:
                self._close()
            self._start["segno"] = True
        elif self._sounding:
            self._leave = True  # at the end of this bar
        elif self._half and self._inside:  # in the empty bar after a sign for two
            self._coda_after(self.bars[-1])
        else:
            self._start["coda"] = True

    def _take_line(self, token: str) -> None:
        if self._inside == "[" and token in "[{" and not self._sounding:
            self._inside = ""  # between two double bar lines: the rest of a row on the page
        self._close()
        if token == "{":
            self._start["opens"] = True
        elif token == "}" and self.bars:
            self.bars[-1].closes = self._times[0] if self._times else 2
            self._times = None
        if token in "]Z}" and self.bars:
            self.bars[-1].double = True
        self._inside = token if token in "|[{" else ""

    def _close(self) -> None:
        cells, self._cells = self._cells, []
        words, self._end = self._end, []
        alternatives, self._alternatives = self._alternatives, []
        simile, self._simile = self._simile, ""
        leave, self._leave = self._leave, False
        sounding = bool(simile) or any(chord is not None for chord, _ in cells)
        slashes = any(kind == "slash" for _, kind in cells)
        empty = not sounding and not slashes and not alternatives
        whole = (
            self._inside != "" and len(cells) >= 3 and bool(self.bars)
        )  # an empty bar, not what lies between two signs
        if empty and whole and self._half:  # written already: a sign for two bars stands in the first of them
            self._half = False
            for name, value in self._start.items():
                setattr(self.bars[-1], name, value)
            self._start = {}
            self._take_end_words(words, self.bars[-1])
            if leave:
                self._coda_after(self.bars[-1])
            return
        if empty and not whole:
            if self.bars and words:
                self._take_end_words(words, self.bars[-1])
            self._start.pop("coda", None) if not self.bars else None
            return
        self._half = simile == "r"
        for spans in self._spans(cells, simile):
            if len(self.bars) >= MAX_BARS:
                raise ValueError(f"the chart has more than {MAX_BARS} bars: shorten it, charts loop anyway")
            bar = bar_of(spans, self.metre, self.bars)
            bar.alternatives = tuple(alternatives)
            for name, value in self._start.items():
                setattr(bar, name, value)
            self._start = {}
            self.bars.append(bar)
        bar = self.bars[-1]
        self._take_end_words(words, bar)
        if leave:
            self._coda_after(bar)

    def _coda_after(self, bar: WrittenBar) -> None:
        if any(each.to_coda or each.coda for each in self.bars[:-1]) and not bar.to_coda:
            self._start["coda"] = True  # the second sign: the coda begins after this bar
        else:
            bar.to_coda = True

    def _take_end_words(self, words: list[str], bar: WrittenBar) -> None:
        for each in words:
            if times := times_in(each):
                self._times = times, f"bar {bar.number}: {each!r} is not played"
            elif re.fullmatch(_SECTION, each):
                bar.label = bar.label or each
            elif re.fullmatch(r"(?i)break", each):
                self.remarks.append(f"bar {bar.number}: {each!r} is played on")
            elif not take_words(each, bar):
                self.remarks.append(f"bar {bar.number}: {each!r} is not played")
            elif "solo" in each.lower():
                self.remarks.append(f"bar {bar.number}: {each!r} is played in every chorus")

    def _spans(self, cells: list[tuple[Chord | None, str]], simile: str) -> list[tuple]:
        if simile:
            count = 1 if simile == "x" else 2
            if len(self.bars) < count:
                raise ValueError(
                    f"bar {len(self.bars) + 1} of the chart repeats a bar, but there is none before it"
                )
            return [bar.spans for bar in self.bars[-count:]]
        metre = self.metre
        before = last_span(self.bars)
        while (
            cells
            and cells[0] == (None, "")
            and sum(chord is not None for chord, _ in cells) == 1
            and (len(cells) > 4 or any(kind == "rest" for _, kind in cells))  # n in the middle is of the whole bar
        ):
            cells = cells[1:]
        chords = [(chord, kind) for chord, kind in cells if chord is not None]
        felt = [start for start, _, _, _ in metre.pulses]
        if len(chords) <= 1 and (not cells or cells[0][0] is not None):
            places = [0.0] * len(chords)
        elif len(cells) in (len(felt), metre.count, 2 * len(felt)):
            starts = (
                felt
                if len(cells) == len(felt)
                else [metre.beats * at / len(cells) for at in range(len(cells))]
            )
            places = [starts[at] for at, (chord, _) in enumerate(cells) if chord is not None]
        else:
            lengths = metre.share(len(chords)) if chords else ()
            places = [sum(lengths[:index]) for index in range(len(chords))]
        placed = [(at, chord, kind) for at, (chord, kind) in zip(places, chords, strict=True)]
        return [spans_of(placed, metre.beats, before)]

    def finish(self) -> list[WrittenBar]:
        self._close()
        if not self.bars:
            raise ValueError("empty chart: the tune has no chords")
        if self._times:
            self.remarks.append(self._times[1])
        self._jump_at_the_end_of_sections()
        self.remarks += without_segno(self.bars)
        signs = [bar for bar in self.bars if bar.to_coda or bar.coda]
        if len(signs) == 1 and not any(bar.jump and bar.jump.goal == "coda" for bar in self.bars):
            self.remarks.append(
                f"bar {signs[0].number}: the sign of a coda has no coda to go to, and is passed over"
            )
            signs[0].to_coda = signs[0].coda = False
        if sum(bool(bar.opens) for bar in self.bars) and not any(bar.closes for bar in self.bars):
            self.remarks.append("a repeat is opened and never closed: it is played once")
        return self.bars


    def _jump_at_the_end_of_sections(self) -> None:
        """Words such as "D.C. al Coda" begin some bars early, so as to fit: they hold for the end of their section."""
        for index in reversed(range(len(self.bars))):
            jump, at = self.bars[index].jump, index
            while jump and at + 1 < len(self.bars) and not self.bars[at].double:
                after = self.bars[at + 1]
                if after.label or after.endings or after.coda or after.opens or after.jump or after.fine:
                    break
                at += 1
            if jump and index < at <= index + _MOST_BARS_EARLY:
                self.bars[index].jump, self.bars[at].jump = None, jump


# ----------------------------------------------------------------------------------------------------------
# links of our own
# ----------------------------------------------------------------------------------------------------------
def to_link(chart: ParsedChart) -> str:
    """An `irealb://` link of a chart, form and all.

    Raises:
        ValueError: chords at places that iReal Pro's cells cannot say, or a metre that it does not know.
    """
    music = "".join(_bar_text(bar, chart.written[index - 1] if index else None)
                    for index, bar in enumerate(chart.written)) + "Z "  # fmt: skip
    music = re.sub(r"(?<=[\]}])\|", "", music)
    fields = [
        chart.title or "Untitled",
        chart.composer or "Composer Unknown",
        "",
        chart.style or "Medium Swing",
    ]
    key = (chart.key or "C").replace("m", "-")
    tempo = f"{chart.tempo:.0f}" if chart.tempo else "0"
    fields += [key, "", _PREFIX + _scrambled(music), "", tempo, "0"]
    return "irealb://" + urllib.parse.quote("=".join(field.replace("=", "-") for field in fields[:6])
                                            + "=" + "=".join(fields[6:]))  # fmt: skip


def _bar_text(bar: WrittenBar, before: WrittenBar | None) -> str:
    double = before is None or before.double or before.jump
    text = "{" if bar.opens else "[" if double else "" if before and before.closes else "|"
    text += f"*{bar.label[0]}" if bar.label and bar.label[0].isalpha() else ""
    if before is None or before.metre != bar.metre:
        text += {"12/8": "T12"}.get(str(bar.metre), f"T{bar.metre.count}{bar.metre.unit}")
    text += "".join(f"N{number}" for number in sorted(bar.endings)[:1])
    text += "S" if bar.segno else ""
    text += "Q" if bar.coda else ""
    text += _cells(bar)
    text += "Q" if bar.to_coda else ""
    text += "<Fine>" if bar.fine else ""
    text += f"<{_jump_words(bar.jump)}>" if bar.jump else ""
    text += f"<{bar.closes}x>" if bar.closes > 2 else ""
    return text + ("}" if bar.closes else "]" if bar.double or bar.jump else "")


def _jump_words(jump: Jump) -> str:
    goals = {"coda": " al Coda", "fine": " al Fine", "": ""}
    return ("D.S." if jump.to_sign else "D.C.") + goals.get(jump.goal, f" al {jump.goal}nd ending")


def _cells(bar: WrittenBar) -> str:
    felt = [start for start, _, _, _ in bar.metre.pulses]
    at, starts = 0.0, []
    for span in bar.spans:
        starts.append(at)
        at += span.beats
    finer = [
        [bar.metre.beats * place / count for place in range(count)]
        for count in (2 * len(felt), bar.metre.count)
    ]
    for grid in (felt, *finer):
        cells = [" "] * len(grid)
        for start, span in zip(starts, bar.spans):
            place = next((index for index, each in enumerate(grid) if abs(each - start) < 1e-6), None)
            if place is None:
                break
            cells[place] = ("f" if span.kind == "hold" else "") + _chord_text(span.chord)
        else:
            joined = ""
            for cell in cells:
                joined += ("," if joined and joined[-1] != " " and cell != " " else "") + cell
            return joined
    places = ", ".join(f"{each:g}" for each in starts)
    raise ValueError(f"bar {bar.number}: iReal Pro has no cells for chords at beats {places}")


def _chord_text(chord: Chord) -> str:
    if chord.is_no_chord:
        return "n"
    name = chord.symbol
    bass = f"/{name.rpartition('/')[2]}" if chord.bass != chord.root else ""
    root = re.match(r"[A-G](?:##|bb|#|b)?", name)
    if root is None:
        return f"W{name}"
    quality = chord.quality.replace("(", "").replace(")", "")
    swaps = (
        ("m7b5", "h7"),
        ("mM7", "-^7"),
        ("mM9", "-^9"),
        ("maj", "^"),
        ("dim", "o"),
        ("aug", "+"),
        ("sus4", "sus"),
    )
    for ours, theirs in swaps:
        quality = quality.replace(ours, theirs)
    quality = re.sub(r"^m(?!aj)", "-", quality)
    plain = re.fullmatch(r"(?:sus|alt|add|[+\-^\dhob#])*", quality) is not None
    return root.group() + (quality if plain else f"*{chord.quality}*") + bass
