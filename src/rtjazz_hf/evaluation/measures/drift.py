"""Does a performance change as it goes on: harmony and spectrum of its second minute beside its start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .metrics import SAMPLE_RATE, band_energies, longest_silence
from .obedience import Heard, chord_hits

if TYPE_CHECKING:
    from rtjazz_hf.music import LeadSheet

Stretch = tuple[float, float]  # from, to in seconds of the clip
Place = tuple[float, float]  # beat of the form at which a chord starts, and beats it lasts


def window_levels(audio: np.ndarray | Heard, seconds: float) -> np.ndarray:
    """Octave-band energies in dB of every whole window of `seconds`, `(windows, bands)`."""
    heard = Heard.of(audio)
    size = round(seconds * SAMPLE_RATE)
    starts = range(0, heard.audio.shape[1] - size + 1, size)
    return np.stack([band_energies(heard.audio[:, start : start + size]) for start in starts])


def drift(
    audio: np.ndarray | Heard,
    lead_sheet: LeadSheet,
    early: Stretch = (0.0, 10.0),
    late: Stretch = (60.0, 120.0),
    *,
    form_beats: float | None = None,
    more_starts: Sequence[tuple[np.ndarray | Heard, LeadSheet]] = (),
) -> dict[str, Any]:
    """A late stretch of a performance against its start, so that nothing but drift makes them differ.

    - Bands: the level of `early` against the mean level of the windows in `late` that are as long. (A long stretch
      against a short one would seem louder: a mean of decibels lies below the decibels of a mean.)
    - Chords: some are easier to hear than others, so the same bars are compared: those of `late` whose place in the
      form lies in `early`, chord for chord. On composed performances, which do not drift, all of `late` scores up to 12
      points above such an `early`.
    - Ten seconds hold few chords: `more_starts` are further clips that start elsewhere in the form, and the chords of
      their `early` stretch count too. (Their levels do not: no two performances have the same mix.)

    Args:
        audio: `(channels, samples)` at 48 kHz from t = 0 of `lead_sheet`, which should be a `takes.steady` one.
        early, late: seconds; `late` at least as long as `early`.
        form_beats: after how many beats the chart repeats; those of the sheet by default.
        more_starts: clips of the same chart with their sheets, whose `beat_offset` tells where they start.

    Returns:
        band_db: octave bands, late minus early, dB; max_band_db: the largest difference.
        levels: of each window as long as `early`, dB, `(windows, bands)`.
        chord_early, chord_late: hit rates of the same bars; chord_change: late minus early (-0.1 is 10 points lower),
        NaN where no bar of `early` returns; chord_counts: chords judged in each. chord_late_all: of all of `late`.
        longest_silence_s.

    Raises:
        ValueError: stretches that the clip does not have.
    """
    heard = Heard.of(audio)
    length = early[1] - early[0]
    if (
        not (0 <= early[0] < early[1] <= late[0] < late[1] <= heard.seconds + 0.05)
        or late[1] - late[0] < length
    ):
        raise ValueError(
            f"early {early} and late {late} of a clip of {heard.seconds:.1f} s: give stretches inside it, one after "
            f"the other, the late one no shorter."
        )
    form = lead_sheet.num_beats if form_beats is None else form_beats
    bands = _levels(heard, late, length).mean(0) - _levels(heard, early, length)[0]
    early_hits: list[tuple[Place, bool]] = []
    for start, sheet in ((heard, lead_sheet), *more_starts):
        early_hits += _placed(start, sheet, early, form)
    late_hits = _placed(heard, lead_sheet, late, form)
    both = {place for place, _ in early_hits} & {place for place, _ in late_hits}
    before = [hit for place, hit in early_hits if place in both]
    after = [hit for place, hit in late_hits if place in both]
    first, last = _rate(before), _rate(after)
    return {
        "band_db": bands,
        "max_band_db": float(np.abs(bands).max()),
        "levels": window_levels(heard, length),
        "chord_early": first,
        "chord_late": last,
        "chord_change": last - first,
        "chord_counts": [len(before), len(after)],
        "chord_late_all": _rate([hit for _, hit in late_hits]),
        "longest_silence_s": longest_silence(heard.audio),
    }


def sum_up_drift(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`drift` of several clips in one: means, and how far chance alone could move them (one standard error).

    Returns:
        band_db, band_error: mean over the clips and its standard error, `(bands,)`. max_band_db: of a single clip.
        chord_early, chord_late, chord_change, chord_late_all: over all chords of all clips; chord_error: standard
        error of the change, of a share of so many independent chords. longest_silence_s.
    """
    bands = np.array([clip["band_db"] for clip in clips])
    counts = np.array([clip["chord_counts"] for clip in clips], dtype=np.float64)  # (clips, early and late)
    rates = np.array([[clip["chord_early"], clip["chord_late"]] for clip in clips], dtype=np.float64)
    total = counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        early, late = np.nansum(rates * counts, axis=0) / total
        error = np.sqrt(early * (1 - early) / total[0] + late * (1 - late) / total[1])
    every = [clip["chord_late_all"] for clip in clips if not np.isnan(clip["chord_late_all"])]
    return {
        "clips": len(clips),
        "band_db": bands.mean(0),
        "band_error": bands.std(0, ddof=1) / len(bands) ** 0.5
        if len(bands) > 1
        else np.full(bands.shape[1], np.nan),
        "max_band_db": float(np.abs(bands).max()),
        "chord_early": float(early),
        "chord_late": float(late),
        "chord_change": float(late - early),
        "chord_error": float(error),
        "chord_counts": total.astype(int),
        "chord_late_all": float(np.mean(every)) if every else float("nan"),
        "longest_silence_s": max(clip["longest_silence_s"] for clip in clips),
    }


def _levels(heard: Heard, stretch: Stretch, length: float) -> np.ndarray:
    first, last = (round(second * SAMPLE_RATE) for second in stretch)
    return window_levels(heard.audio[:, first:last], length)


def _placed(
    audio: np.ndarray | Heard, lead_sheet: LeadSheet, stretch: Stretch, form_beats: float
) -> list[tuple[Place, bool]]:
    """Every chord that lies wholly in the stretch: its place in the form, and whether it was hit."""
    found = []
    for hit in chord_hits(audio, lead_sheet):
        if hit.start >= stretch[0] - 1e-6 and hit.end <= stretch[1] + 1e-6:
            start, end = lead_sheet.beat_at(hit.start), lead_sheet.beat_at(hit.end)
            found.append(((round(start % form_beats, 2) % form_beats, round(end - start, 2)), hit.hit))
    return found


def _rate(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if hits else float("nan")
