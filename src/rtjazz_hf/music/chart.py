"""Chord charts as text: bars, repeats, endings and jumps, several chords a bar, any metre."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .chart_header import Header
from .chart_reader import MAX_CHORDS_PER_BAR, ChartReader
from .metre import MOST_BEATS, Metre
from .practice import Rest, practised
from .spans import MIN_SPAN_BEATS, ChordSpan
from .unfolding import MAX_BARS, WrittenBar, unfold

__all__ = [
    "MAX_BARS",
    "MAX_CHORDS_PER_BAR",
    "MIN_SPAN_BEATS",
    "ChordSpan",
    "ParsedChart",
    "check_beats_per_bar",
    "format_chart",
    "parse_chart",
]

_MAX_CHARACTERS = 40_000
Bar = tuple[ChordSpan, ...]


@dataclass(frozen=True)
class ParsedChart:
    """A chart with its repeats and jumps written out: for each bar that is played, the chords in it.

    Attributes:
        bars: the chords of each bar. metres: the metre of each bar.
        written: the bars as they stand on paper. order: which of them is played when.
        title, composer, style: as the chart says. key, tempo, swing: None where it does not say.
        rests: players who rest by the clock.
        remarks: what was read and is not played, or had to be understood, a line each.
    """

    bars: tuple[Bar, ...]
    metres: tuple[Metre, ...]
    written: tuple[WrittenBar, ...] = ()
    order: tuple[int, ...] = ()
    title: str = ""
    composer: str = ""
    style: str = ""
    key: str | None = None
    tempo: float | None = None
    swing: float | None = None
    rests: tuple[Rest, ...] = ()
    remarks: tuple[str, ...] = ()
    says_metre: bool = True

    @property
    def spans(self) -> tuple[ChordSpan, ...]:
        return tuple(span for bar in self.bars for span in bar)

    @cached_property
    def metre(self) -> Metre:
        """The one that most bars are in."""
        return Counter(self.metres).most_common(1)[0][0]

    @property
    def beats_per_bar(self) -> float:
        """Quarter notes of most bars; a whole number where it is one."""
        return whole(self.metre.beats)

    @property
    def num_beats(self) -> float:
        return whole(math.fsum(metre.beats for metre in self.metres))

    @property
    def labels(self) -> tuple[tuple[int, str], ...]:
        """The sections: the bar, from 0, at which each begins, as it is played, and its name."""
        names = [(place, self.written[index].label) for place, index in enumerate(self.order)]
        return tuple((place, name) for place, name in names if name)

    def to_text(self, header: bool = True) -> str:
        """The chart as text, written out, which `parse_chart` reads back to the same bars.

        Args:
            header: whether title, key, tempo and swing stand above.
        """
        lines = []
        if header:
            said = (
                ("title", self.title),
                ("composer", self.composer),
                ("style", self.style),
                ("key", self.key),
            )
            lines += [f"{name}: {' '.join(str(value).split())}" for name, value in said if value]
            numbers = (("tempo", self.tempo), ("swing", self.swing))
            lines += [f"{name}: {value:g}" for name, value in numbers if value is not None]
            lines += [f"rests: {', '.join(map(str, self.rests))}"] if self.rests else []
        text = format_chart(self.spans, self.beats_per_bar, [str(metre) for metre in self.metres])
        return "\n".join([*lines, text])

    @classmethod
    def of(
        cls,
        written: Sequence[WrittenBar],
        header: Header,
        remarks: Sequence[str] = (),
        says_metre: bool = True,
    ) -> ParsedChart:
        """The chart of bars as they are written, in the order in which they are played."""
        order, more = unfold(written)
        return cls(
            bars=tuple(written[index].spans for index in order),
            metres=tuple(written[index].metre for index in order),
            written=tuple(written),
            order=tuple(order),
            title=header.title,
            composer=header.composer,
            style=header.style,
            key=header.key,
            tempo=header.tempo,
            swing=header.swing,
            rests=header.rests,
            remarks=(*header.remarks, *remarks, *more),
            says_metre=says_metre or header.metre is not None,
        )


def whole(beats: float) -> float:
    """`beats` as an int where it is a whole number."""
    return round(beats) if math.isclose(beats, round(beats), abs_tol=1e-9) else beats


def check_beats_per_bar(beats_per_bar: float) -> float:
    """`beats_per_bar`, where it is a number of quarter notes that a bar can have."""
    known = isinstance(beats_per_bar, (int, float)) and not isinstance(beats_per_bar, bool)
    if not known or not 0 < beats_per_bar <= MOST_BEATS or not float(beats_per_bar * 4).is_integer():
        raise ValueError(
            f"unsupported metre of {beats_per_bar!r} beats a bar: choose 3 (3/4), 4 (4/4) or others, 1 to {MOST_BEATS}"
        )
    return whole(beats_per_bar)


def parse_chart(
    text: str, beats_per_bar: float | None = None, alternatives: bool = False, metre: Metre | None = None
) -> ParsedChart:
    """Read a chord chart.

    A chart is bars between `|` or line ends. In a bar, chords share the beats as players mean it (`Dm7 G7`, and three
    chords of 4/4 are 2 + 1 + 1), or `/` and `.` stand for the beats on which a chord goes on (`Dm7 / / G7`), or a
    chord names its own beats in quarter notes (`Dm7:1.5 G7:2.5`). `%` repeats the bar before, `%%` the two before.

    Form: `|: .. :|`, `[: :]` and `{ }` repeat (`:| x3` three times), `[1` and `[2` begin endings; `D.C.`, `D.S.`,
    `al Fine`, `al Coda`, `al 2nd ending`, `To Coda`, `Coda`, `Segno` and `Fine` in words or signs. `[A]`, `A:` and
    names such as `Bridge` are sections. `N.C.` is a rest of the band, `<Dm7>` a held chord, `Dm7!` a stopped one,
    `(break)` a bar that the lead plays alone. Chords in brackets, `(A7)` or `[A7]`, are alternatives. A metre such as
    `3/4` or `6/8` holds from its bar on. Above the chords, lines such as `title: ..`, `key: Gm`, `tempo: 132`,
    `swing: 0.6`, `notation: german` are read, and to practise `transpose: +2`, `only bars: 9-16`, `all keys: fourths`
    and `rests: piano/2`; `# ..` is a comment. What is not played is told in `remarks`.

    Args:
        text: the chart.
        beats_per_bar: quarter notes a bar; by default what the chart says, or else 4.
        alternatives: play the chords in brackets, each instead of the one it stands after.
        metre: of a chart that says nothing of it.

    Raises:
        ValueError: for an empty chart, an unknown chord (naming its bar), a form that cannot be played, or more than
            512 bars once repeats are written out.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError("empty chart: write chords between bar lines, e.g. 'Dm7 | G7 | Cmaj7 | %'")
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"the chart has {len(text)} characters: at most {_MAX_CHARACTERS} are read")
    header = Header(alternatives=alternatives)
    reader = ChartReader(header)
    if beats_per_bar is not None:
        beats_per_bar = check_beats_per_bar(beats_per_bar)
        metre = metre_of_beats(beats_per_bar)
    reader.metre = metre or reader.metre
    reader.read(text)
    written = reader.finish()
    chart = ParsedChart.of(written, header, reader.remarks, reader.says_metre)
    if beats_per_bar is not None and not any(metre.beats == beats_per_bar for metre in chart.metres):
        raise ValueError(
            f"the chart says {chart.metre} but beats_per_bar={beats_per_bar}: leave one of them out"
        )
    return practised(chart, header.practice)


def metre_of_beats(beats: float) -> Metre:
    """The usual metre of a bar of `beats` quarter notes."""
    for unit in (4, 8, 16):
        if (beats * unit / 4).is_integer():
            return Metre(round(beats * unit / 4), unit)
    raise ValueError(f"unsupported metre of {beats!r} beats a bar")


def format_chart(spans: Sequence[ChordSpan], beats_per_bar: float, metres: Sequence[str] = ()) -> str:
    """The chart text of `spans`, which `parse_chart` reads back to the same chords at the same beats.

    Args:
        metres: of each bar, where they are not all of `beats_per_bar` quarter notes.
    """
    usual = metre_of_beats(beats_per_bar)
    signs = [Metre.parse(metre) for metre in metres]

    def metre_of(index: int) -> Metre:
        return signs[index % len(signs)] if signs else usual

    bars: list[list[ChordSpan]] = [[]]
    room = metre_of(0).beats
    for span in spans:
        left = span.beats
        while left > 1e-6:
            part = min(left, room)
            bars[-1].append(ChordSpan(span.chord, max(part, MIN_SPAN_BEATS), span.kind))
            left, room = left - part, room - part
            if room <= 1e-6:
                bars.append([])
                room = metre_of(len(bars) - 1).beats
    lines: list[str] = []
    said: Metre | None = None
    last = ""
    for index, bar in enumerate(bars):
        if bar:
            metre = metre_of(index)
            text = _format_bar(bar, metre)
            sign = "" if metre == said else f"{metre} "
            lines.append(f"{sign}%" if text == last and not sign else sign + text)
            said, last = metre, text
    return " | ".join(lines)


def _format_bar(bar: list[ChordSpan], metre: Metre) -> str:
    words = [f"<{span.chord.symbol}>" if span.kind == "hold" else span.chord.symbol for span in bar]
    prefix = "(break) " if any(span.kind == "break" for span in bar) else ""
    beats = [span.beats for span in bar]
    if len(bar) <= MAX_CHORDS_PER_BAR and _close(beats, metre.share(len(bar))):
        return prefix + " ".join(words)
    felt = [length for _, length, _, _ in metre.pulses]
    slashed: list[str] = []
    at = 0
    for word, length in zip(words, beats):
        until = at + 1
        while until < len(felt) and sum(felt[at:until]) < length - 1e-9:
            until += 1
        if at >= len(felt) or not math.isclose(sum(felt[at:until]), length, rel_tol=1e-9):
            break
        slashed += [word] + ["/"] * (until - at - 1)
        at = until
    else:
        if at == len(felt):
            return prefix + " ".join(slashed)
    timed = [
        f"<{span.chord.symbol}:{float(span.beats)!r}>"
        if span.kind == "hold"
        else f"{word}:{float(span.beats)!r}"
        for word, span in zip(words, bar)
    ]
    return prefix + " ".join(timed)


def _close(some: Sequence[float], others: Sequence[float]) -> bool:
    return all(math.isclose(one, other, rel_tol=1e-9) for one, other in zip(some, others, strict=True))
