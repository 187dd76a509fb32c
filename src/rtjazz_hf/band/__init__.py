"""The band: the leader who writes charts, and the musicians who play them as notes."""

from __future__ import annotations

from .band_leader import random_lead_sheet, write_lead_sheet
from .ensemble import PARTS, Band, check_parts, conditions_of
from .fitting import fit_melody
from .parts import ScoreWarning
from .phrases import PhraseMemory
from .score import Score, ScoreControl, ScoreNote
from .tune import Tune

__all__ = [
    "PARTS", "Band", "PhraseMemory", "Score", "ScoreControl", "ScoreNote", "ScoreWarning", "Tune", "check_parts",
    "conditions_of", "fit_melody", "random_lead_sheet", "write_lead_sheet",
]  # fmt: skip
