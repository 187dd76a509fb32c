"""Measures by which every model is judged, and their report."""

from __future__ import annotations

from .metrics import (
    band_difference,
    band_energies,
    longest_silence,
    mel_distance,
    pitch_correlation,
    rms_dbfs,
    sanity,
    semitone_correlation,
    si_sdr,
)
from .obedience import (
    beat_f_measure,
    beat_scores,
    chord_rank_rate,
    chord_rates,
    chord_score,
    drift,
)

__all__ = [
    "band_difference",
    "band_energies",
    "beat_f_measure",
    "beat_scores",
    "chord_rank_rate",
    "chord_rates",
    "chord_score",
    "drift",
    "evaluate",
    "longest_silence",
    "mel_distance",
    "pitch_correlation",
    "rms_dbfs",
    "sanity",
    "semitone_correlation",
    "si_sdr",
]


def __getattr__(name: str):
    # The report needs torch and the pipeline; the measures do not.
    if name == "evaluate":
        from .report import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
