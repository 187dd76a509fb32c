"""ChordPro songs, and words with chords over them: sheets whose chords come without bar lines."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

from ..music.chart import ParsedChart, parse_chart
from ..music.chart_tokens import is_chord, is_chordlike, is_music, plain_line, split_words

_DIRECTIVE = re.compile(r"\s*\{\s*([A-Za-z_]+)(?:-[\w!]+)?\s*(?:[:\s]\s*(.*?))?\s*\}\s*")
_SHORT = {
    "t": "title", "st": "subtitle", "su": "subtitle", "c": "comment", "ci": "comment", "cb": "comment",
    "soc": "start_of_chorus", "eoc": "end_of_chorus", "sov": "start_of_verse", "eov": "end_of_verse",
    "sob": "start_of_bridge", "eob": "end_of_bridge", "sog": "start_of_grid", "eog": "end_of_grid",
    "sot": "start_of_tab", "eot": "end_of_tab",
}  # fmt: skip
_HEADER = {
    "title": "title",
    "key": "key",
    "tempo": "tempo",
    "time": "time",
    "composer": "composer",
    "artist": "by",
}
_INLINE = re.compile(r"\[([^\[\]]{1,30})\]")
_ONE_BAR_EACH = "the sheet has no bar lines: every chord is taken to last a bar"


def is_chordpro(text: str) -> bool:
    """Whether a text has ChordPro's directives, or chords in square brackets among words."""
    if any(
        (match := _DIRECTIVE.fullmatch(line)) and _known(match.group(1)) for line in text.splitlines()[:400]
    ):
        return True
    if "|" in text:
        return False
    inline = [name for name in _INLINE.findall(text) if is_chord(name)]
    return len(inline) >= 2 and re.search(r"\[[A-G][^\[\]\s]{0,12}\]\s*[a-zA-Z']{2,}", text) is not None


def _known(name: str) -> bool:
    name = _SHORT.get(name.lower(), name.lower())
    return name in (*_HEADER, "comment", "subtitle", "capo", "meta") or name.startswith(
        ("start_of_", "end_of_")
    )


def read_chordpro(text: str) -> ParsedChart:
    """The chart of a ChordPro song: its grids, or else its chords, a bar each.

    Raises:
        ValueError: no chords, or what `parse_chart` refuses.
    """
    header: list[str] = []
    grid: list[str] = []
    bars: list[str] = []
    remarks: list[str] = []
    inside = ""
    metre = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = plain_line(raw)
        if directive := _DIRECTIVE.fullmatch(line):
            name, value = directive.group(1).lower(), (directive.group(2) or "").strip()
            name = _SHORT.get(name, name)
            if name == "meta" and " " in value:
                name, _, value = value.partition(" ")
            if name.startswith("start_of_"):
                inside = name.removeprefix("start_of_")
                label = value or inside.title()
                (grid if inside == "grid" else bars).append(
                    "" if inside == "grid" and not value else f"[{label[:24]}]"
                )
            elif name.startswith("end_of_"):
                inside = ""
            elif name == "time":
                metre = value
                bars.append(f"|{value}|")
            elif name in _HEADER and value:
                header.append(f"{_HEADER[name]}: {value}")
            elif name == "comment" and value and len(value) < 25 and re.fullmatch(r"[\w\s'-]+", value):
                bars.append(f"[{value}]")
            elif value or name not in ("new_page", "np", "column_break", "colb"):
                remarks.append(f"line {number} was not read: {line.strip()[:60]!r}")
        elif inside == "grid":
            if line.strip():
                grid.append(_grid_line(line))
        elif inside == "tab" or line.lstrip().startswith("#"):
            continue
        else:
            bars += [
                name.strip() for name in _INLINE.findall(line) if name.strip() and not name.startswith("*")
            ]
    if any(row.strip() for row in grid):
        body = [f"time: {metre}"] if metre else []
        chart = parse_chart("\n".join([*header, *body, *grid]))
        return _with_remarks(chart, remarks)
    return _with_remarks(parse_chart("\n".join([*header, _bars_text(bars)])), [*remarks, _ONE_BAR_EACH])


def _grid_line(line: str) -> str:
    """A grid's row as a line of a chart: margins at its sides are labels, `|.` ends, `~` joins chords of a cell."""
    line = re.sub(r"\|\.", "||", line).replace("~", " ")
    line = re.sub(r"(%{1,2})(?:\s*\.)+", r"\1", line)  # a simile fills its bar
    first = line.find("|")
    label, rest = (line[:first].strip(), line[first:]) if first > 0 else ("", line)
    last = max(rest.rfind("|"), rest.rfind("}"))
    rest = rest[: last + 1] if last > 0 and not re.search(r":\|?\s*$", rest) else rest
    return (f"[{label}] " if label else "") + rest


def _bars_text(bars: list[str]) -> str:
    """One chord a bar; `[A7]` from the source is a chord here, section names come as `[name]`."""
    out: list[str] = []
    pending = ""
    for word in bars:
        if re.fullmatch(r"\|\d+/\d+\|", word):
            pending += word.strip("|") + " "
        elif word.startswith("[") and word.endswith("]"):
            pending += word + " "
        else:
            out.append(pending + word)
            pending = ""
    return " | ".join(out)


def is_chords_over_words(text: str) -> bool:
    """Whether a text has lines of chords without a bar line, and lines of words between them."""
    if re.search(r"[|𝄆𝄇]", text):
        return False
    lines = [plain_line(line) for line in text.splitlines()]
    pairs = sum(
        _is_chord_row(one) and bool(two.strip()) and not is_music(two) for one, two in pairwise(lines)
    )
    return pairs >= 2


def _is_chord_row(line: str) -> bool:
    words = [word for word in split_words(line.strip()) if word]
    return bool(words) and all(is_chordlike(word) for word in words) and any(is_chord(word) for word in words)


def read_chords_over_words(text: str) -> ParsedChart:
    """The chart of a sheet of words with chords over them, a bar each chord; the words are left out.

    Raises:
        ValueError: what `parse_chart` refuses.
    """
    lines = [plain_line(line) for line in text.splitlines()]
    first = next(index for index, line in enumerate(lines) if _is_chord_row(line))
    header = [line for line in lines[:first] if line.strip()]
    out: list[str] = []
    for line in lines[first:]:
        if _is_chord_row(line):
            out += [" | ".join(split_words(line.strip()))]
        elif re.fullmatch(r"\s*(?:\[[^\]]{1,24}\]|[A-Z][\w '-]{1,23}:)\s*", line):
            out.append(line.strip())
    chart = parse_chart("\n".join([*header, *out]))
    return _with_remarks(chart, [_ONE_BAR_EACH])


def _with_remarks(chart: ParsedChart, remarks: list[str]) -> ParsedChart:
    return dataclasses.replace(chart, remarks=(*chart.remarks, *remarks))
