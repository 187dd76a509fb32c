"""Every measure of a codec's round trip, by one name each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import judges, metrics

MEASURES: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], float], str, bool]] = {
    "si_sdr": ("SI-SDR", metrics.si_sdr, "dB", True),
    "snr": ("SNR", metrics.snr, "dB", True),
    "mel_distance": ("mel distance", metrics.mel_distance, "dB", False),
    "multi_mel_distance": ("multi-resolution mel distance", metrics.multi_mel_distance, "dB", False),
    "pitch_correlation": ("pitch correlation (contrast)", metrics.pitch_correlation, "", True),
    "semitone_correlation": ("semitone correlation (plain)", metrics.semitone_correlation, "", True),
    "onset_sharpness_error": ("onset sharpness error", metrics.onset_sharpness_error, "dB", False),
    "loudness_error": ("loudness error", metrics.loudness_error, "LU", False),
    "stereo_width_error": ("stereo-width error", metrics.stereo_width_error, "dB", False),
}
"""Name -> (title, function of reference and estimate, unit, whether more is better)."""

JUDGES: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], float], str, bool]] = {
    "zimtohrli": ("Zimtohrli, opinion score", judges.zimtohrli, "", True),
    "visqol": ("ViSQOL, opinion score", judges.visqol, "", True),
    "valley_loss": ("valleys between partials filled", judges.valley_loss, "dB", False),
}
"""The same, of measures that take a second each or want packages of their own: in reports, not in every round trip."""

BAND_NAMES = tuple(f"{centre:g}" for centre in metrics.OCTAVE_CENTRES)


def measure_round_trip(reference: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """Everything that is measured of a round trip of `(2, samples)` at 48 kHz, the two lying sample on sample.

    Returns:
        The `MEASURES` by name, and of every octave band `band_error_HZ` (energy of the estimate less that of the
        reference, dB) and `band_snr_HZ` (dB), HZ being a band's centre: 62.5, 125, ... 16000. NaN where a measure
        has no answer: waveform measures of a silent reference, SI-SDR of a constant one, loudness of less than 0.4 s,
        attacks where there are none.

    Raises:
        ValueError: for no stereo clips, no samples, or NaN or infinite samples.
    """
    reference, estimate = _checked(reference, estimate)
    unanswered = set() if reference.any() else {"snr"}
    if np.ptp(reference) == 0:
        unanswered.add("si_sdr")
    scores = {
        name: float("nan") if name in unanswered else measure(reference, estimate)
        for name, (_, measure, _, _) in MEASURES.items()
    }
    bands = (("band_error", metrics.band_difference), ("band_snr", metrics.band_snr))
    for name, measure in bands:
        values = measure(reference, estimate)
        scores |= {f"{name}_{band}": float(value) for band, value in zip(BAND_NAMES, values)}
    return scores


def judge_round_trip(reference: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """The `JUDGES` of a round trip by name; of a silent reference, and of less than a second, they say nothing: NaN.

    Raises:
        ValueError: as `measure_round_trip`. ImportError: a judge is not installed ('rtjazz-hf[eval]').
    """
    reference, estimate = _checked(reference, estimate)
    if not reference.any() or reference.shape[1] < metrics.SAMPLE_RATE:
        return dict.fromkeys(JUDGES, float("nan"))
    return {name: judge(reference, estimate) for name, (_, judge, _, _) in JUDGES.items()}


def _checked(reference: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both over their common length, once they can be measured."""
    reference, estimate = metrics.as_audio(reference), metrics.as_audio(estimate)
    for name, audio in (("reference", reference), ("estimate", estimate)):
        if audio.shape[0] != 2:
            raise ValueError(
                f"{name} has shape {audio.shape}; allowed is (2, samples): repeat a mono signal."
            )
        if not np.isfinite(audio).all():
            raise ValueError(f"{name} holds NaN or infinite samples; clean it first.")
    samples = min(reference.shape[1], estimate.shape[1])
    return reference[:, :samples], estimate[:, :samples]
