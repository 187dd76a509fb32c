"""Lead sheets: chord charts, the beat grid, per-frame features, and the band leader that writes charts."""

from __future__ import annotations

from .band_leader import random_lead_sheet, write_lead_sheet
from .chart import ChordSpan, ParsedChart, parse_chart
from .chords import Chord
from .features import FEATURE_SLICES, LEAD_SHEET_DIM, rotated_chords, without_chords
from .lead_sheet import LeadSheet, Position, Section
from .metre import Metre
from .tags import Tags, parse_tags
from .vocabulary import (
    BEATS_PER_BAR,
    GENRES,
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
    "random_lead_sheet",
    "rotated_chords",
    "without_chords",
    "write_lead_sheet",
]
