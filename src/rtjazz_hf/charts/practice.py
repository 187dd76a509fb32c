"""A chart made into something to practise: another key, all keys, a few of its bars."""

from __future__ import annotations

import dataclasses
import re

from ..music.chart import ParsedChart
from ..music.key_finding import estimate_key
from ..music.spans import ChordSpan
from ..music.unfolding import MAX_BARS
from ..music.vocabulary import SHARP_KEYS, note_to_pitch_class, tonic, transpose_key

ORDERS = {"fourths": 5, "semitones": 1}


def semitones_of(wish: str, chart: ParsedChart) -> int:
    """How far "+2", "-3" or a key such as "Bb" is from where the chart stands.

    Raises:
        ValueError: it is neither.
    """
    text = wish.strip()
    if re.fullmatch(r"[+-]?\d{1,2}", text) and abs(int(text)) <= 12:
        return int(text)
    if re.fullmatch(r"[A-G](?:#|b|♯|♭)?m?(?:in|aj|inor|ajor)?", text):
        here = tonic(chart.key or estimate_key(chart.spans))
        return (note_to_pitch_class(re.sub(r"m.*$", "", text)) - here + 6) % 12 - 6
    raise ValueError(f"transpose {wish!r}: give semitones from -12 to +12, or a key such as Bb")


def transposed(chart: ParsedChart, semitones: int) -> ParsedChart:
    """The chart `semitones` higher, written out."""
    if semitones % 12 == 0:
        return chart
    key = transpose_key(chart.key or estimate_key(chart.spans), semitones)
    sharps = key in SHARP_KEYS
    bars = tuple(
        tuple(
            ChordSpan(span.chord.transpose(semitones, sharps=sharps), span.beats, span.kind) for span in bar
        )
        for bar in chart.bars
    )
    return dataclasses.replace(chart, bars=bars, key=key, written=(), order=())


def in_all_keys(chart: ParsedChart, order: str = "fourths") -> ParsedChart:
    """A chorus in each of the twelve keys, up by fourths or by semitones.

    Raises:
        ValueError: an unknown order, or more bars than a chart may have.
    """
    if order not in ORDERS:
        raise ValueError(f"all keys by {order!r}: choose from {', '.join(ORDERS)}")
    if 12 * len(chart.bars) > MAX_BARS:
        raise ValueError(
            f"{len(chart.bars)} bars in twelve keys are {12 * len(chart.bars)}: at most {MAX_BARS} are played; "
            f"take some of the bars"
        )
    choruses = [transposed(chart, number * ORDERS[order]) for number in range(12)]
    bars = tuple(bar for chorus in choruses for bar in chorus.bars)
    return dataclasses.replace(chart, bars=bars, metres=chart.metres * 12, written=(), order=())


def cut(chart: ParsedChart, first: int, last: int) -> ParsedChart:
    """Bars `first` to `last` of the chart as it is played, counted from 1.

    Raises:
        ValueError: there are no such bars.
    """
    if not 1 <= first <= last <= len(chart.bars):
        raise ValueError(f"bars {first}-{last}: the chart has bars 1 to {len(chart.bars)} as it is played")
    return dataclasses.replace(
        chart, bars=chart.bars[first - 1 : last], metres=chart.metres[first - 1 : last], written=(), order=()
    )
