"""The band: the leader who writes charts, and the musicians who play them as notes."""

from __future__ import annotations

from .band_leader import random_lead_sheet, write_lead_sheet
from .score import Score, ScoreControl, ScoreNote

__all__ = ["Score", "ScoreControl", "ScoreNote", "random_lead_sheet", "write_lead_sheet"]
