"""Labelled music at other tempi: what ten minutes of one player have not.

A player of fast tunes is asked for ballads. What is learnt of the recordings alone is learnt as part of their tempo,
and is gone elsewhere; so a style learns from stretched copies of them too. Their key stays: shifted by three semitones,
takes are two to eight times as far from their player's others, to the audio tower, as stretched with their tempo kept.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..audio import SAMPLE_RATE
from ..music.lead_sheet import LeadSheet
from ..music.vocabulary import check_tempo
from .augment import limit_peak

SLOWEST, FASTEST = 60.0, 230.0  # of charts that the models know well, in beats per minute
_SLOWER, _FASTER = 2.5, 2.0  # times; no further was tried


def stretch(audio: np.ndarray, speed: float) -> np.ndarray:
    """`(channels, samples)` at 48 kHz played `speed` times as fast, its pitch unchanged.

    Signalsmith Stretch (python-stretch): its clicks stay within 3 ms of their places and are 8 ms wide at half speed,
    those of a phase vocoder 22 ms.

    Returns:
        float32 `(channels, round(samples / speed))`, to a sample.
    """
    try:
        from python_stretch.Signalsmith import Stretch
    except ImportError as error:
        raise ImportError("python-stretch is not installed; run: pip install 'rtjazz-hf[train]'") from error
    engine = Stretch()
    engine.preset(len(audio), float(SAMPLE_RATE))
    engine.setTimeFactor(speed)
    return engine.process(np.ascontiguousarray(audio, dtype=np.float32))


def retime(audio: np.ndarray, sheet: LeadSheet, tempo: float) -> tuple[np.ndarray, LeadSheet]:
    """Music `(2, samples)` and its lead sheet at another tempo; it swings as it did.

    Raises:
        ValueError: a tempo that lead sheets do not have.
    """
    other = dataclasses.replace(sheet, tempo=check_tempo(tempo))
    return limit_peak(stretch(audio, tempo / sheet.tempo)), other


def other_tempi(tempo: float, count: int, rng: np.random.Generator) -> list[float]:
    """`count` tempi for music of `tempo`, one in each part of the range that it can be stretched to, evenly by ratio,
    the slowest first."""
    low = np.log(min(tempo, max(SLOWEST, tempo / _SLOWER)))
    high = np.log(max(tempo, min(FASTEST, tempo * _FASTER)))
    parts = (np.arange(count) + rng.random(count)) / max(count, 1)
    return np.exp(low + parts * (high - low)).tolist()


__all__ = ["FASTEST", "SLOWEST", "other_tempi", "retime", "stretch"]
