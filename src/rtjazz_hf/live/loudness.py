"""A clip at the loudness that is asked for, its peaks below what players bear (ITU-R BS.1770-4, EBU R 128)."""

from __future__ import annotations

import math

import numpy as np
import soxr

from ..audio import SAMPLE_RATE, as_channels, measure_loudness

QUIETEST, LOUDEST = -40.0, -8.0  # LUFS that may be asked for
CEILING = -1.0  # dBTP
_HOP = 64  # samples of one gain: 1.3 ms
_LOOK = 6  # hops before and after a peak in which the gain goes down and up again: 8 ms
_NEAR = 0.1  # dB


def check_loudness(lufs: float) -> float:
    """`lufs`, if it may be asked for.

    Raises:
        ValueError: it may not.
    """
    if not QUIETEST <= lufs <= LOUDEST:  # NaN too
        raise ValueError(
            f"loudness {lufs:g} LUFS: choose from {QUIETEST:g} to {LOUDEST:g}; -16 is usual for listening"
        )
    return float(lufs)


def true_peak(audio: np.ndarray, sampling_rate: int = SAMPLE_RATE) -> float:
    """The highest level between samples too, in dBTP, of `(channels, samples)`: of the sound at four times the rate."""
    peak = max(float(np.abs(each).max(initial=0.0)) for each in (audio, _oversampled(audio, sampling_rate)))
    return 20.0 * math.log10(peak) if peak else -math.inf


def set_loudness(audio: np.ndarray, lufs: float, sampling_rate: int = SAMPLE_RATE) -> np.ndarray:
    """`audio` `(channels, samples)` made as loud as `lufs`, its true peaks under -1 dBTP; silence stays silence.

    Peaks that would be too high are turned down, 8 ms around each; where there are so many that the music gets softer
    by it, the rest is turned up for it, as far as that goes.

    Raises:
        ValueError: a loudness out of range, or less than 0.4 s. ImportError: pyloudnorm is not installed.
    """
    check_loudness(lufs)
    audio = as_channels(audio)
    gain = lufs - measure_loudness(audio, sampling_rate)
    if not math.isfinite(gain):
        return audio
    for _ in range(8):
        made = limited(audio * np.float32(10.0 ** (gain / 20.0)), sampling_rate)
        missing = lufs - measure_loudness(made, sampling_rate)
        if missing < _NEAR:
            break
        gain += missing
    return made


def limited(audio: np.ndarray, sampling_rate: int) -> np.ndarray:
    """`audio` with its true peaks turned down to just under -1 dBTP, and nothing else."""
    ceiling = 10.0 ** ((CEILING - _NEAR) / 20.0)
    over = np.abs(_oversampled(audio, sampling_rate)).max(axis=0)
    hops = -(-audio.shape[1] // _HOP)
    over = np.pad(over[: 4 * _HOP * hops], (0, max(0, 4 * _HOP * hops - len(over))))
    gains = np.minimum(1.0, ceiling / np.maximum(over.reshape(hops, 4 * _HOP).max(axis=1), 1e-9))
    if gains.min(initial=1.0) == 1.0:
        return audio
    # The lowest gain around, then a mean of no more of them than that looked at: nowhere above what is allowed.
    padded = np.pad(gains, 2 * _LOOK, constant_values=1.0)
    lowest = np.lib.stride_tricks.sliding_window_view(padded, 2 * _LOOK + 1).min(axis=1)
    window = np.hanning(2 * _LOOK + 1)
    smooth = np.convolve(lowest, window / window.sum(), mode="valid")
    at = (np.arange(audio.shape[1]) + 0.5) / _HOP - 0.5
    limited = audio * np.interp(at, np.arange(hops), smooth).astype(np.float32)
    above = true_peak(limited, sampling_rate) - CEILING  # what filters leave
    return limited * np.float32(10.0 ** (-max(0.0, above) / 20.0))


def _oversampled(audio: np.ndarray, sampling_rate: int) -> np.ndarray:
    return soxr.resample(audio.T, sampling_rate, 4 * sampling_rate).T


__all__ = ["CEILING", "LOUDEST", "QUIETEST", "check_loudness", "limited", "set_loudness", "true_peak"]
