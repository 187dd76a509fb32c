"""How far a round trip pulls tones that move: cents error of vibrato, glide, scoop, quarter tone and partials.

The tones are made here, so their pitch is known at every sample. A partial of the copy is brought down to 0 Hz by
the phase that the original has (a lock-in), and what it still turns there is its error. Nothing is compared with a
transcription; on the original the measure has an error of 0.1 cents.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .metrics import SAMPLE_RATE

FRAME, HOP = 2048, 512  # samples that an error is taken over, and step
MOVING_PARTIALS = range(3, 9)  # where the ear hears the pitch of a low tone (Plomp, 1967)
STILL_PARTIALS = range(1, 14)
NOTES = {"C3": 48, "G3": 55, "E4": 64}
SECONDS = 3.0
SETTLED = 0.5  # seconds before which nothing is judged: a stream begins in silence
_MOST = 100.0  # cents: a partial that is lost counts as one semitone


@dataclass(frozen=True)
class Tone:
    """A harmonic tone of known pitch: audio float32 `(2, samples)`, and the phase of its fundamental in turns."""

    audio: np.ndarray
    turns: np.ndarray


def _vibrato(time: np.ndarray) -> np.ndarray:
    return 30 * np.sin(2 * np.pi * 5.5 * time)


def _glide(time: np.ndarray) -> np.ndarray:
    """Three semitones up in a second and down in the next."""
    return 300 * (1 - np.abs(1 - time % 2))


def _scoop(time: np.ndarray) -> np.ndarray:
    """From 150 cents below, each half second anew."""
    return -150 * np.exp(-(time % 0.5) / 0.06)


MOVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "vibrato": _vibrato,
    "glide": _glide,
    "scoop": _scoop,
    "quarter_tone": lambda time: np.full_like(time, 50.0),
}
"""Name -> seconds to cents above the note."""


def make_tone(note: int, cents: np.ndarray, partials: int = 16, slope: float = 1.0) -> Tone:
    """A tone whose partial k has the amplitude `0.15 / k ** slope`, `cents` (samples,) above a MIDI note."""
    hertz = 440.0 * 2.0 ** ((note - 69 + cents / 100) / 12)
    turns = np.cumsum(hertz) / SAMPLE_RATE
    starts = np.random.default_rng(note).random(partials)  # scattered, as in music: no peak where all meet
    signal = sum(
        0.15 / k**slope * np.cos(2 * np.pi * (k * turns + starts[k - 1])) for k in range(1, partials + 1)
    )
    return Tone(np.stack([signal, signal]).astype(np.float32), turns)


def partial_errors(tone: Tone, copy: np.ndarray, partials: range) -> tuple[np.ndarray, np.ndarray]:
    """Cents by which partials of `copy` (2, samples) stand off in each frame, and their power: (frames, partials).

    A partial is what lies within a Hann window of `FRAME` samples around where it should be.
    """
    mid = copy.astype(np.float64).mean(0)
    window = np.hanning(FRAME + 1)[:-1]
    first = int(SETTLED * SAMPLE_RATE)
    errors, powers = [], []
    hertz = np.gradient(tone.turns[: len(mid)]) * SAMPLE_RATE
    hertz = np.lib.stride_tricks.sliding_window_view(hertz[first:], FRAME)[::HOP].mean(1)
    for k in partials:
        down = mid * np.exp(-2j * np.pi * k * tone.turns[: len(mid)])
        smooth = np.lib.stride_tricks.sliding_window_view(down[first:], FRAME)[::HOP] @ window
        ahead = np.lib.stride_tricks.sliding_window_view(down[first + 1 :], FRAME)[::HOP] @ window
        ahead = ahead[: len(smooth)]
        smooth = smooth[: len(ahead)]
        turned = np.angle(ahead * smooth.conj()) / (2 * np.pi) * SAMPLE_RATE  # Hz off
        right = k * hertz[: len(smooth)]
        errors.append(1200 * np.log2(np.maximum(right + turned, 0.5 * right) / right))
        powers.append(np.abs(smooth) ** 2)
    return np.clip(np.stack(errors, 1), -_MOST, _MOST), np.stack(powers, 1)


def _still_error(tone: Tone, copy: np.ndarray) -> float:
    """Mean over partials of how far the strongest line within a semitone of each stands off, in cents."""
    mid = copy.astype(np.float64).mean(0)[int(SETTLED * SAMPLE_RATE) :]
    length = 1 << 19  # zeros make the grid fine: a line is found to a tenth of a cent
    power = np.abs(np.fft.rfft(mid * np.hanning(len(mid)), length))
    fundamental = (tone.turns[-1] - tone.turns[0]) / (len(tone.turns) - 1) * SAMPLE_RATE
    errors = []
    for k in STILL_PARTIALS:
        right = k * fundamental
        low, high = (int(right * 2 ** (x / 1200) * length / SAMPLE_RATE) for x in (-_MOST, _MOST))
        found = (low + int(power[low:high].argmax())) * SAMPLE_RATE / length
        errors.append(abs(1200 * np.log2(found / right)))
    return float(np.mean(errors))


def tuning_errors(round_trip: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """Median cents error of each of `MOVES` (partials 3 to 8, frames of 43 ms), and the mean one of partials 1 to 13
    of `NOTES`: "vibrato", ..., "quarter_tone", "partials_C3", "partials_G3", "partials_E4".

    Args:
        round_trip: float32 `(2, samples)` at 48 kHz to a copy of the same length; it gets all tones one after the
            other in one clip of 45 s.
    """
    time = np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    still = [make_tone(note, np.zeros_like(time), slope=0.5) for note in NOTES.values()]
    moving = [[make_tone(note, move(time)) for note in NOTES.values()] for move in MOVES.values()]
    tones = [*itertools.chain(*moving), *still]
    copy = round_trip(np.concatenate([tone.audio for tone in tones], axis=1))
    copies = iter(np.split(copy[:, : len(tones) * len(time)], len(tones), axis=1))
    result = {}
    for name, row in zip(MOVES, moving):
        errors = [partial_errors(tone, next(copies), MOVING_PARTIALS)[0].ravel() for tone in row]
        result[name] = float(np.median(np.abs(np.concatenate(errors))))
    return result | {f"partials_{name}": _still_error(tone, next(copies)) for name, tone in zip(NOTES, still)}


def asked_pitch_error(audio: np.ndarray, hertz: np.ndarray) -> float:
    """Median cents by which what is played stands off the pitch that was asked for: partials 3 to 8, frames of 43 ms.

    A partial counts where it is at most 30 dB under the strongest of its frame, and a frame where it is at most 40 dB
    under the loud ones: a tone that is not there has no pitch.

    Args:
        audio: `(2, samples)` at 48 kHz. hertz: `(samples,)`, what was asked; NaN where nothing is judged. The first
            `SETTLED` seconds are not.

    Returns:
        100 at most, a partial that is a semitone off; NaN where nothing is heard.
    """
    length = min(len(hertz), audio.shape[1])
    hertz = hertz[:length]
    judged = np.isfinite(hertz)
    turns = np.cumsum(np.where(judged, hertz, 1.0)) / SAMPLE_RATE
    errors, powers = partial_errors(Tone(audio, turns), audio[:, :length], MOVING_PARTIALS)
    first = int(SETTLED * SAMPLE_RATE)
    whole = np.lib.stride_tricks.sliding_window_view(judged[first:], FRAME)[::HOP].all(1)[: len(errors)]
    loudest = powers.max(1)
    heard = whole & (loudest > 1e-4 * np.quantile(loudest, 0.9))
    counts = heard[:, None] & (powers > 1e-3 * loudest[:, None])
    return float(np.median(np.abs(errors[counts]))) if counts.any() else float("nan")


__all__ = ["MOVES", "NOTES", "Tone", "asked_pitch_error", "make_tone", "partial_errors", "tuning_errors"]
