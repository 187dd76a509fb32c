"""Full-reference judges that nobody here trained: Zimtohrli and ViSQOL, and the valleys between partials.

All take a reference and a copy, float32 `(2, samples)` at 48 kHz that lie sample on sample. Zimtohrli and ViSQOL give a
mean opinion score from 1 to 5 that follows listening tests on other sounds than these, so they compare codecs on the
same clips and say little alone; neither hears a tone that stands a few cents off (`tuning` does).
"""

from __future__ import annotations

import contextlib
import functools
import io
from typing import Any

import numpy as np

from .metrics import SAMPLE_RATE, as_audio

_RATE = 24_000  # C7 and its neighbours lie far below half of it
_BINS_PER_OCTAVE = 36
_HOP = 512
_QUIET = 60.0  # dB below the loudest frame of the reference: a frame that is not looked at


def _need(package: str, install: str) -> ImportError:
    return ImportError(f"this measure needs {package}: pip install {install}, or 'rtjazz-hf[eval]'")


@functools.cache
def _zimtohrli() -> Any:
    try:
        import zimtohrli
    except ImportError as error:
        raise _need("Zimtohrli", "zimtohrli") from error
    return zimtohrli


@functools.cache
def _visqol() -> Any:
    try:
        from visqol import VisqolApi
    except ImportError as error:
        raise _need("ViSQOL", "visqol-python") from error
    api = VisqolApi()
    api.create(mode="audio")
    return api


def check_installed() -> None:
    """Raises ImportError where a judge, or librosa, is missing: before hours of work, not after."""
    _zimtohrli(), _visqol()
    try:
        import librosa  # noqa: F401
    except ImportError as error:
        raise _need("librosa", "librosa") from error


def zimtohrli(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Zimtohrli's opinion score, 1 to 5 (github.com/google/zimtohrli), the mean of left and right."""
    package = _zimtohrli()
    judge = package.Pyohrli()
    pairs = zip(as_audio(reference), as_audio(estimate))
    return float(np.mean([package.mos_from_zimtohrli(judge.distance(a, b)) for a, b in pairs]))


def visqol(reference: np.ndarray, estimate: np.ndarray) -> float:
    """ViSQOL's opinion score in audio mode, 1 to 5 (Chinen et al., 2020, arXiv:2004.09584), of the mid signal.

    NaN for clips shorter than a second, or silent: it has no patches to compare.
    """
    a, b = (as_audio(audio).mean(0).astype(np.float64) for audio in (reference, estimate))
    if len(a) < SAMPLE_RATE or not a.any() or not b.any():
        return float("nan")
    with contextlib.redirect_stdout(io.StringIO()):
        return float(_visqol().measure_from_arrays(a, b, SAMPLE_RATE).moslqo)


def peaks_over_valleys(audio: np.ndarray, heard: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """How far partials stand out: the 90th over the 20th percentile of a constant-Q frame from C3 to C7, in dB, the
    mean over frames; and which frames were looked at (by default those within 60 dB of the loudest)."""
    import librosa

    mono = librosa.resample(as_audio(audio).mean(0), orig_sr=SAMPLE_RATE, target_sr=_RATE)
    bins = np.abs(
        librosa.cqt(
            mono, sr=_RATE, hop_length=_HOP, fmin=librosa.note_to_hz("C3"), n_bins=4 * _BINS_PER_OCTAVE,
            bins_per_octave=_BINS_PER_OCTAVE, tuning=0.0,
        )
    )  # fmt: skip
    if heard is None:
        level = 10 * np.log10((bins**2).sum(0) + 1e-20)
        heard = level > level.max() - _QUIET
    high, low = np.percentile(bins, (90, 20), axis=0)
    return float(np.mean(20 * np.log10((high[heard] + 1e-7) / (low[heard] + 1e-7)))), heard


def valley_loss(reference: np.ndarray, estimate: np.ndarray) -> float:
    """dB by which `peaks_over_valleys` of the reference exceeds the copy's: noise fills the gaps between partials."""
    stands_out, heard = peaks_over_valleys(reference)
    return stands_out - peaks_over_valleys(estimate, heard)[0]


__all__ = ["check_installed", "peaks_over_valleys", "valley_loss", "visqol", "zimtohrli"]
