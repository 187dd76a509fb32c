"""The language: chords, charts, the beat grid, lead sheets and their per-frame features, words and their tags."""

from __future__ import annotations

import sys
from typing import Any

from .chart import ChordSpan, ParsedChart, parse_chart
from .chords import Chord
from .features import FEATURE_SLICES, LEAD_SHEET_DIM, rotated_chords, without_chords
from .lead_sheet import LeadSheet, Position, Section
from .metre import Metre
from .tags import Tags, parse_tags
from .vocabulary import (
    BEATS_PER_BAR,
    GENRES,
    GROOVE_GENRES,
    INSTRUMENTS,
    KEYS,
    LEAD_INSTRUMENTS,
    MAX_TEMPO,
    MIN_TEMPO,
    MOODS,
    ROLES,
)

__all__ = [
    "BEATS_PER_BAR",
    "FEATURE_SLICES",
    "GENRES",
    "GROOVE_GENRES",
    "INSTRUMENTS",
    "KEYS",
    "LEAD_INSTRUMENTS",
    "LEAD_SHEET_DIM",
    "MAX_TEMPO",
    "MIN_TEMPO",
    "MOODS",
    "ROLES",
    "Chord",
    "ChordSpan",
    "LeadSheet",
    "Metre",
    "ParsedChart",
    "Position",
    "Section",
    "Tags",
    "parse_chart",
    "parse_tags",
    "rotated_chords",
    "without_chords",
]


def __getattr__(name: str) -> Any:
    if name in ("random_lead_sheet", "write_lead_sheet"):  # the band leader's, who used to live here
        return getattr(sys.modules["rtjazz_hf"], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
