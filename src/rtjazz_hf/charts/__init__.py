"""What musicians own, read into charts: iReal Pro, MusicXML, MIDI, ChordPro, words with chords, plain text."""

from __future__ import annotations

from .ireal import to_link
from .opening import (
    Tune,
    chart_text,
    choose_tune,
    chorus_bars,
    looks_like_file,
    read_chart,
    read_tunes,
    sent_text,
)

__all__ = [
    "Tune",
    "chart_text",
    "choose_tune",
    "chorus_bars",
    "looks_like_file",
    "read_chart",
    "read_tunes",
    "sent_text",
    "to_link",
]
