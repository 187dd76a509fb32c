"""Chord charts as text: bars, repeats, endings, several chords a bar."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .chords import Chord
from .vocabulary import BEATS_PER_BAR

MAX_BARS = 512
MAX_CHORDS_PER_BAR = 8
MIN_SPAN_BEATS = 0.01
_MAX_CHARACTERS = 40_000

_TIME_SIGNATURE = re.compile(r"\s*(\d+)\s*/\s*(\d+)(?=[\s|]|$)")
_TOKENS = re.compile(
    r"""(?P<open>\|{0,2}:(?![:\d]))(?=[^|]|$)      # |:  ||:
      | (?P<close>:\|{1,2}(?:\s*x\s*(?P<times>\d+))?)  # :|  :||  :| x3
      | (?P<ending>(?:\|\s*)?\[\s*(?P<which>\d)\.?(?=\s|$)|\|?(?P<which2>\d)\.(?=\s|$))  # [1  |[2  |1.  2.
      | (?P<double>\|\||\|\])                      # || |]
      | (?P<bar>\|)
      | (?P<newline>\n)
      | (?P<label>\[[A-Za-z][\w\s]{0,15}\])        # a rehearsal mark: [A]
      | (?P<word>[^\s|\[\]]+?(?=:\||[\s|\[\]]|$))
      | (?P<space>\s)
      | (?P<stray>.)""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class ChordSpan:
    """A chord and how many beats (quarter notes) it sounds."""

    chord: Chord
    beats: float

    def __post_init__(self) -> None:
        if not isinstance(self.chord, Chord):
            raise ValueError(f"a chord span needs a Chord, not {self.chord!r}: use Chord.parse('Dm7')")
        if not (math.isfinite(self.beats) and self.beats >= MIN_SPAN_BEATS):
            raise ValueError(f"a chord of {self.beats!r} beats: expected {MIN_SPAN_BEATS} beats or more")


@dataclass(frozen=True)
class ParsedChart:
    """A chart with its repeats written out: for each bar, the chords in it."""

    bars: tuple[tuple[ChordSpan, ...], ...]
    beats_per_bar: int

    @property
    def spans(self) -> tuple[ChordSpan, ...]:
        return tuple(span for bar in self.bars for span in bar)

    @property
    def num_beats(self) -> int:
        return len(self.bars) * self.beats_per_bar


def check_beats_per_bar(beats_per_bar: int) -> int:
    """`beats_per_bar`, where it is 3 or 4."""
    if isinstance(beats_per_bar, bool) or beats_per_bar not in BEATS_PER_BAR:
        raise ValueError(f"unsupported metre of {beats_per_bar!r} beats a bar: choose 3 (3/4) or 4 (4/4)")
    return int(beats_per_bar)


def parse_chart(text: str, beats_per_bar: int | None = None) -> ParsedChart:
    """Read a chord chart.

    A chart is bars between `|` or line ends. In a bar, chords share the beats evenly (`Dm7 G7`), or `/` and
    `.` stand for the beats on which a chord goes on (`Dm7 / / G7`), or a chord names its own beats (`Dm7:1.5
    G7:2.5`). `%` repeats the bar before. `|: .. :|` repeats (`:| x3` plays three times), with `[1` and `[2`
    for first and second endings. A leading `3/4` or `4/4` gives the metre, `[A]` marks are passed over,
    `N.C.` is no chord.

    Args:
        text: the chart.
        beats_per_bar: 3 or 4; by default what the chart says, or else 4.

    Raises:
        ValueError: for an empty chart, an unknown chord (naming its bar), an unbalanced repeat, a metre
            other than 3/4 and 4/4, or more than 512 bars once repeats are written out.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError("empty chart: write chords between bar lines, e.g. 'Dm7 | G7 | Cmaj7 | %'")
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"the chart has {len(text)} characters: at most {_MAX_CHARACTERS} are read")
    if beats_per_bar is not None:
        beats_per_bar = check_beats_per_bar(beats_per_bar)
    signature = _TIME_SIGNATURE.match(text)
    if signature:
        beats, unit = int(signature.group(1)), int(signature.group(2))
        if unit != 4 or beats not in BEATS_PER_BAR:
            raise ValueError(f"unsupported time signature {beats}/{unit}: choose 3/4 or 4/4")
        if beats_per_bar not in (None, beats):
            raise ValueError(
                f"the chart says {beats}/4 but beats_per_bar={beats_per_bar}: leave one of them out"
            )
        beats_per_bar, text = beats, text[signature.end() :]
    reader = _ChartReader(beats_per_bar or 4)
    for match in _TOKENS.finditer(text):
        reader.take(match)
    return ParsedChart(bars=reader.finish(), beats_per_bar=reader.beats_per_bar)


Bar = tuple[ChordSpan, ...]


class _ChartReader:
    """Collects bars token by token; `bars` are written out, `_start` is where an open repeat begins."""

    def __init__(self, beats_per_bar: int) -> None:
        self.beats_per_bar = beats_per_bar
        self.bars: list[Bar] = []
        self._words: list[str] = []
        self._written = 0  # bars as written, for messages
        self._start: int | None = None  # first bar of the open repeat
        self._ending: int | None = None  # where the first ending begins, once it has begun
        self._pending: list[Bar] | None = None  # body of a repeat whose second ending is awaited
        self._after_line = True  # a bar line here closes no bar

    def take(self, match: re.Match[str]) -> None:
        kind = match.lastgroup if match.lastgroup not in ("times", "which", "which2") else None
        kind = kind or ("close" if match.group("close") else "ending")
        token = match.group().strip()
        if kind == "word":
            self._words.append(token)
            self._after_line = False
        elif kind == "bar":
            if not self._words and not self._after_line:
                raise ValueError(
                    f"bar {self._written + 1} of the chart is empty: write a chord, or % to repeat one"
                )
            self._close_bar()
        elif kind in ("newline", "double", "label"):
            self._close_bar()
            self._after_line = True
        elif kind == "open":
            self._close_bar()
            if self._start is not None:
                raise self._unbalanced(f"'{token}' opens a repeat inside another")
            self._check_second_ending()
            self._start, self._after_line = len(self.bars), True
        elif kind == "close":
            self._close_bar()
            self._close_repeat(int(match.group("times") or 2))
            self._after_line = True
        elif kind == "ending":
            self._close_bar()
            self._open_ending(int(match.group("which") or match.group("which2")))
            self._after_line = True
        elif kind == "stray":
            raise ValueError(f"unexpected {token!r} in bar {self._written + 1} of the chart")

    def finish(self) -> tuple[Bar, ...]:
        self._close_bar()
        if self._start is not None:
            raise self._unbalanced("'|:' is never closed")
        self._check_second_ending()
        if not self.bars:
            raise ValueError("empty chart: it has no chords. Write e.g. 'Dm7 | G7 | Cmaj7 | %'")
        return tuple(self.bars)

    def _unbalanced(self, what: str) -> ValueError:
        return ValueError(
            f"unbalanced repeat at bar {max(self._written, 1)} of the chart: {what}. Write '|: Dm7 | G7 :|', "
            f"with endings '|: Dm7 |[1 G7 :|[2 Cmaj7 |'"
        )

    def _check_second_ending(self) -> None:
        if self._pending is not None:
            raise self._unbalanced("a first ending '[1 ..:|' needs its second, '[2'")

    def _close_repeat(self, times: int) -> None:
        if self._start is None:
            # By custom a lone ":|" repeats from the start of the piece; here it is far more often a slip.
            raise self._unbalanced("':|' closes a repeat that no '|:' opens")
        body = self.bars[self._start :]
        if not body:
            raise self._unbalanced("the repeat has no bars")
        if not 1 <= times <= MAX_BARS:
            raise ValueError(f"a repeat played {times} times: expected 1 to {MAX_BARS}")
        if self._ending is None:
            self._extend(body * (times - 1))
        else:
            if times != 2:
                raise self._unbalanced("a repeat with endings is played twice")
            self._pending = self.bars[self._start : self._ending]
        self._start = self._ending = None

    def _open_ending(self, which: int) -> None:
        if which == 1 and self._start is not None and self._ending is None:
            self._ending = len(self.bars)
        elif which == 2 and self._pending is not None:
            self._extend(self._pending)
            self._pending = None
        else:
            raise self._unbalanced(f"ending {which} is out of place (first '[1' inside '|: :|', then '[2')")

    def _extend(self, bars: list[Bar]) -> None:
        if len(self.bars) + len(bars) > MAX_BARS:
            raise ValueError(
                f"the chart has more than {MAX_BARS} bars with its repeats: shorten it, charts loop anyway"
            )
        self.bars.extend(bars)

    def _close_bar(self) -> None:
        if self._words:
            self._check_second_ending()
            self._written += 1
            words, self._words = self._words, []
            self._extend([self._read_bar(words)])
        self._after_line = False

    def _read_bar(self, words: list[str]) -> Bar:
        where = f"bar {self._written} of the chart"
        if words == ["%"]:
            if not self.bars:
                raise ValueError(f"{where} is '%', but there is no bar before it to repeat")
            return self.bars[-1]
        if "%" in words:
            raise ValueError(
                f"{where} mixes '%' with chords: '%' stands alone and repeats the whole bar before"
            )
        # A chord and the beats it names for itself; no chord where a slash lets the one before sound on.
        entries: list[tuple[Chord | None, float | None]] = []
        for word in words:
            if word in ("/", "."):
                if not entries and not self.bars:
                    raise ValueError(f"{where} begins with {word!r}: no chord sounds there yet")
                entries.append((None if entries else self.bars[-1][-1].chord, None))
                continue
            name, _, beats = word.partition(":")
            try:
                chord = Chord.parse(name)
                length = float(beats) if beats else None
            except ValueError as error:
                hint = " (a metre stands at the start, 3/4 or 4/4)" if re.fullmatch(r"\d+/\d+", word) else ""
                reason = (
                    error if not beats or "chord" in str(error) else f"{word!r} is not a chord and its beats"
                )
                raise ValueError(f"{where}: {reason}{hint}") from None
            entries.append((chord, length))
        return self._time_bar(entries, bool({"/", "."} & set(words)), where)

    def _time_bar(self, entries: list[tuple[Chord | None, float | None]], slashes: bool, where: str) -> Bar:
        beats_per_bar = self.beats_per_bar
        timed = [beats for _, beats in entries if beats is not None]
        if timed:
            if len(timed) < len(entries) or not math.isclose(sum(timed), beats_per_bar, abs_tol=1e-6):
                raise ValueError(
                    f"{where}: chords that name their beats must all do so and fill {beats_per_bar} beats"
                )
            return tuple(ChordSpan(chord, beats) for chord, beats in entries if chord and beats)
        if slashes:
            if len(entries) != beats_per_bar:
                raise ValueError(
                    f"{where} has {len(entries)} beats of chords and slashes: "
                    f"a {beats_per_bar}/4 bar needs {beats_per_bar}"
                )
            spans: list[ChordSpan] = []
            for chord, _ in entries:
                if chord is None:
                    spans[-1] = ChordSpan(spans[-1].chord, spans[-1].beats + 1.0)
                else:
                    spans.append(ChordSpan(chord, 1.0))
            return tuple(spans)
        if len(entries) > MAX_CHORDS_PER_BAR:
            raise ValueError(f"{where} has {len(entries)} chords: at most {MAX_CHORDS_PER_BAR} fit")
        return tuple(ChordSpan(chord, beats_per_bar / len(entries)) for chord, _ in entries if chord)


def format_chart(spans: tuple[ChordSpan, ...], beats_per_bar: int) -> str:
    """The chart text of `spans`, which `parse_chart` reads back to the same chords at the same beats."""
    bars: list[list[tuple[Chord, float]]] = [[]]
    room = float(beats_per_bar)
    for span in spans:
        left = span.beats
        while left > 1e-6:
            part = min(left, room)
            bars[-1].append((span.chord, part))
            left, room = left - part, room - part
            if room <= 1e-6:
                bars.append([])
                room = float(beats_per_bar)
    lines: list[str] = []
    for bar in bars:
        if bar:
            text = _format_bar(bar, beats_per_bar)
            lines.append("%" if lines and text == _last_written(lines) else text)
    return f"{beats_per_bar}/4 " + " | ".join(lines)


def _last_written(lines: list[str]) -> str:
    return next(line for line in reversed(lines) if line != "%")


def _format_bar(bar: list[tuple[Chord, float]], beats_per_bar: int) -> str:
    share = beats_per_bar / len(bar)
    if len(bar) <= MAX_CHORDS_PER_BAR and all(math.isclose(beats, share, rel_tol=1e-9) for _, beats in bar):
        return " ".join(chord.symbol for chord, _ in bar)
    if all(float(beats).is_integer() for _, beats in bar):
        return " ".join(chord.symbol + " /" * (int(beats) - 1) for chord, beats in bar)
    return " ".join(f"{chord.symbol}:{float(beats)!r}" for chord, beats in bar)
