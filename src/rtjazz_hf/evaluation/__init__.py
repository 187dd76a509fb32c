"""Measures by which every model is judged, and their report."""

from __future__ import annotations

from .measures.codec import measure_round_trip
from .measures.drift import drift
from .measures.metrics import (
    band_difference,
    band_energies,
    band_snr,
    longest_silence,
    loudness_error,
    mel_distance,
    multi_mel_distance,
    onset_sharpness_error,
    pitch_correlation,
    rms_dbfs,
    sanity,
    semitone_correlation,
    si_sdr,
    snr,
    stereo_width_error,
)
from .measures.obedience import (
    beat_f_measure,
    beat_scores,
    chord_rank_rate,
    chord_rates,
    chord_score,
)
from .measures.stereo import stereo_statistics

__all__ = [
    "band_difference",
    "band_energies",
    "band_snr",
    "beat_f_measure",
    "beat_scores",
    "chord_rank_rate",
    "chord_rates",
    "chord_score",
    "drift",
    "evaluate",
    "longest_silence",
    "loudness_error",
    "measure_round_trip",
    "mel_distance",
    "multi_mel_distance",
    "onset_sharpness_error",
    "pitch_correlation",
    "rms_dbfs",
    "sanity",
    "semitone_correlation",
    "si_sdr",
    "snr",
    "stereo_statistics",
    "stereo_width_error",
]


def __getattr__(name: str):
    # The report needs torch and the pipeline; the measures do not.
    if name == "evaluate":
        from .report import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
