"""Every player of a clip alone: the same score and seed, told one player at a time, in time with the mix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ..audio import SAMPLE_RATE
from ..band import Score
from ..music import LeadSheet
from ..music.vocabulary import canonical_instrument

BAND_CENTRES = (31.25, 62.5, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0)  # Hz, an octave each
MOST_DB = 24.0  # that a band of the stems is turned up or down
LEAST_LEVEL, MOST_LEVEL = -60.0, 12.0  # dB of a player
_AT_ONCE = 4  # players in one batch
_PASSES = 6


def play_stems(
    play: Callable[..., Any],
    prompt: Any,
    sheet: LeadSheet,
    score: Score,
    mix: np.ndarray,
    generator_of: Callable[[], torch.Generator],
    **options: Any,
) -> dict[str, np.ndarray]:
    """Each player of a score alone, as long as the mix, their sum in the mix's balance by octaves.

    The flow plays every player anew, from the mix's own noise, told the player's notes and that the others are silent.
    It sets each at a level of its own liking, so the stems go through one equaliser together: what is added in an
    octave is added to all of them, by a filter that moves nothing in time.

    Args:
        play: a pipeline, which is called.
        sheet, score: of the mix, as the pipeline's output has them. mix: `(2, samples)`.
        generator_of: called for each player, gives a generator as the mix's was.
        options: as the pipeline's call takes them.

    Returns:
        `(2, samples)` float32 by player, in the order of the band; the sum may go beyond [-1, 1].

    Raises:
        ValueError: the score has no notes.
    """
    seconds = mix.shape[-1] / SAMPLE_RATE
    start, end = sheet.beat_at(0.0), sheet.beat_at(seconds)
    players = [
        player
        for player in score.players
        if any(note.player == player and start - note.beats < note.start < end for note in score.notes)
    ]
    if not players:
        raise ValueError("there are no notes to make stems of: parts='free' tells none")
    stems: dict[str, np.ndarray] = {}
    for first in range(0, len(players), _AT_ONCE):
        some = players[first : first + _AT_ONCE]
        output = play(
            [prompt] * len(some),
            duration=seconds,
            lead_sheet=[sheet.without(*set(sheet.instruments) - {player}) for player in some],
            score=[score.without_players(set(score.players) - {player}) for player in some],
            generator=[generator_of() for _ in some],
            **options,
        )
        stems |= {player: np.asarray(audio)[:, : mix.shape[-1]] for player, audio in zip(some, output.audios)}
    return balanced(stems, mix)


def levels_of(text: str) -> dict[str, float]:
    """Read `"bass=-3,drums=+2"`: dB by player.

    Raises:
        ValueError: it is not written so, no such instrument, or beyond -60 to +12 dB.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            level = float(value.strip().lower().removesuffix("db"))
        except ValueError:
            level = math.nan
        if not equals or not LEAST_LEVEL <= level <= MOST_LEVEL:
            raise ValueError(
                f"levels {part.strip()!r}: write bass=-3,drums=+2, in dB from {LEAST_LEVEL:g} to +{MOST_LEVEL:g}"
            )
        found[canonical_instrument(name.strip())] = level
    return found


def at_levels(stems: Mapping[str, np.ndarray], levels: Mapping[str, float]) -> tuple[np.ndarray, float]:
    """The stems together, some of them louder or softer by dB, and by how many dB all were turned down for their sum
    to stay within [-1, 1]."""
    mix = sum(stem * np.float32(10 ** (levels.get(name, 0.0) / 20)) for name, stem in stems.items())
    peak = float(np.abs(mix).max(initial=0.0))
    over = max(1.0, peak)
    return mix / np.float32(over), 20 * math.log10(over)


def balanced(stems: Mapping[str, np.ndarray], mix: np.ndarray) -> dict[str, np.ndarray]:
    """The stems through one filter, so that their sum has the energies of the mix by octave bands.

    Its phase is zero: nothing moves in time. Between the bands' centres its gain in dB goes in straight lines over the
    logarithm of the frequency.
    """
    samples = mix.shape[-1]
    size = 1 << (samples + SAMPLE_RATE // 4).bit_length()
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    octave = np.log2(np.maximum(hertz, 1.0) / BAND_CENTRES[0])
    spectra = {name: np.fft.rfft(stem, size, axis=-1) for name, stem in stems.items()}
    together = (np.abs(sum(spectra.values())) ** 2).sum(0)
    wanted = _bands((np.abs(np.fft.rfft(mix, size, axis=-1)) ** 2).sum(0), octave)
    loudest = wanted.max()
    gain_db = np.zeros(len(BAND_CENTRES))
    for _ in range(_PASSES):  # the slopes of a band's neighbours reach into it
        curve = np.interp(octave, np.arange(len(BAND_CENTRES)), gain_db)
        found = _bands(together * 10 ** (curve / 10), octave)
        heard = (wanted > 1e-9 * loudest) & (found > 0)
        missing = np.where(heard, 10 * np.log10(np.maximum(wanted, 1e-30) / np.maximum(found, 1e-30)), 0.0)
        gain_db = np.clip(gain_db + missing, -MOST_DB, MOST_DB)
    curve = 10 ** (np.interp(octave, np.arange(len(BAND_CENTRES)), gain_db) / 20)
    return {
        name: np.fft.irfft(spectrum * curve, size, axis=-1)[:, :samples].astype(np.float32)
        for name, spectrum in spectra.items()
    }


def _bands(power: np.ndarray, octave: np.ndarray) -> np.ndarray:
    """Energies of the octave bands of a power spectrum."""
    index = np.round(octave).astype(int)
    return np.array([power[index == band].sum() for band in range(len(BAND_CENTRES))])


def band_differences(stems: Mapping[str, np.ndarray], mix: np.ndarray) -> np.ndarray:
    """The sum of the stems over the mix, in dB, by octave bands."""
    hertz = np.fft.rfftfreq(mix.shape[-1], 1 / SAMPLE_RATE)
    octave = np.log2(np.maximum(hertz, 1.0) / BAND_CENTRES[0])
    ours, theirs = (
        _bands((np.abs(np.fft.rfft(sound, axis=-1)) ** 2).sum(0), octave) for sound in (sum(stems.values()), mix)
    )
    return 10 * np.log10((ours + 1e-12) / (theirs + 1e-12))


__all__ = ["BAND_CENTRES", "at_levels", "balanced", "band_differences", "levels_of", "play_stems"]
