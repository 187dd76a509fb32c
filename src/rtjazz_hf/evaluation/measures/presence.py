"""Are the asked instruments heard, and muted ones gone: the instrument probe on clips with and without a player."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf.music import INSTRUMENTS

from ..writing import verdict
from .embeddings import WINDOW_SECONDS, ClipEmbedding, Embedder
from .instrument_probe import ABSENT, PRESENT, InstrumentProbe, playing_shares

if TYPE_CHECKING:
    from rtjazz_hf.music import LeadSheet

    from ..takes import HeldOutTake

LEAST_HEARD = LEAST_GONE = 0.8


@dataclass(frozen=True)
class MutedPair:
    """The same music twice, with and without one player: `full` and `muted` `(2, samples)` from t = 0 of
    `lead_sheet`, which is of `full`."""

    instrument: str
    full: np.ndarray
    muted: np.ndarray
    lead_sheet: LeadSheet


def choose_mutes(
    lead_sheets: Sequence[LeadSheet],
    probe: InstrumentProbe,
    duration: float,
    seed: int = 0,
    seconds: float = WINDOW_SECONDS,
) -> list[str | None]:
    """For each sheet a player to mute, every instrument as often as can be; the clip is then asked for twice with
    the same seed, once with `lead_sheet.without(instrument)`.

    Chosen are those that the probe can judge, that play through at least one window of the first `duration`
    seconds, and that do not play alone; None where a sheet has no such player.
    """
    rng = np.random.default_rng(seed)
    counts = dict.fromkeys(probe.instruments, 0)
    chosen: list[str | None] = [None] * len(lead_sheets)
    for place in rng.permutation(len(lead_sheets)):
        sheet = lead_sheets[place]
        starts = np.arange(max(1, int(duration // seconds))) * seconds
        shares = playing_shares(sheet, starts, min(seconds, duration))
        band = [
            name
            for name in probe.instruments
            if (shares[:, INSTRUMENTS.index(name)] >= PRESENT).any() and len(sheet.instruments) > 1
        ]
        if band:
            least = min(counts[name] for name in band)
            name = str(rng.choice([name for name in band if counts[name] == least]))
            counts[name] += 1
            chosen[place] = name
    return chosen


def stem_pairs(takes: Sequence[HeldOutTake], duration: float) -> list[MutedPair]:
    """Every player of rendered takes muted in turn, which their stems allow exactly (`held_out_takes(stems=True)`).

    Raises:
        ValueError: takes without stems.
    """
    pairs = []
    for take in takes:
        if not take.stems:
            raise ValueError(f"take {take.name} has no stems; compose some: held_out_takes(num, stems=True).")
        full = take.audio(duration)
        for name, stem in take.stems.items():
            muted = full - stem[:, : full.shape[1]]
            if len(take.stems) > 1:
                pairs.append(MutedPair(name, full, muted, take.lead_sheet))
    return pairs


def pair_scores(probe: InstrumentProbe, embedder: Embedder, pairs: Sequence[MutedPair]) -> dict[str, Any]:
    """Score pairs of clips with and without a player.

    Each clip is judged as a whole: by the mean logit of the windows in which, by the sheet, the player plays. Heard:
    at or above the instrument's threshold with it. Gone: below it without. Lower: lower without than with.

    Returns:
        heard, gone, lower: shares of the pairs. pairs: how many could be judged. instruments: the same for each.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for pair in pairs:
        if pair.instrument not in probe.instruments:
            continue
        full, muted = embedder(pair.full), embedder(pair.muted)
        count = min(len(full.starts), len(muted.starts))
        shares = playing_shares(pair.lead_sheet, full.starts[:count], full.seconds)
        plays = np.flatnonzero(shares[:, INSTRUMENTS.index(pair.instrument)] >= PRESENT)
        if not plays.size:
            continue
        column = probe.index(pair.instrument)
        with_it, without = (
            float(probe.logits(clip.features[plays])[:, column].mean()) for clip in (full, muted)
        )
        found.setdefault(pair.instrument, []).append((with_it, without))

    def shares_of(values: list[tuple[float, float]]) -> dict[str, Any]:
        logits = np.array(values, dtype=np.float64).reshape(-1, 2)
        if not len(logits):
            return {"heard": float("nan"), "gone": float("nan"), "lower": float("nan"), "pairs": 0}
        return {
            "heard": float((logits[:, 0] >= 0).mean()),
            "gone": float((logits[:, 1] < 0).mean()),
            "lower": float((logits[:, 1] < logits[:, 0]).mean()),
            "pairs": len(logits),
        }

    every = [value for values in found.values() for value in values]
    return {
        **shares_of(every),
        "instruments": {name: shares_of(found[name]) for name in INSTRUMENTS if name in found},
    }


def band_scores(
    probe: InstrumentProbe, clips: Sequence[ClipEmbedding], lead_sheets: Sequence[LeadSheet]
) -> dict[str, Any]:
    """Whether clips have the bands of their sheets, whole clips judged by the mean logit of the windows concerned.

    Returns:
        heard: share right of (clip, instrument) where the sheet has it in a window at least. absent: of those where
        it plays nowhere in the clip. instruments: the same for each, with the number of clips that have it.
    """
    found: dict[str, tuple[list[bool], list[bool]]] = {name: ([], []) for name in probe.instruments}
    for clip, sheet in zip(clips, lead_sheets, strict=True):
        shares = playing_shares(sheet, clip.starts, clip.seconds)
        logits = probe.logits(clip.features)
        for column, name in enumerate(probe.instruments):
            share = shares[:, INSTRUMENTS.index(name)]
            if (plays := share >= PRESENT).any():
                found[name][0].append(bool(logits[plays, column].mean() >= 0))
            elif share.max() <= ABSENT:
                found[name][1].append(bool(logits[:, column].mean() < 0))

    def rate(values: list[bool]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return {
        "heard": rate([value for heard, _ in found.values() for value in heard]),
        "absent": rate([value for _, absent in found.values() for value in absent]),
        "instruments": {
            name: {"heard": rate(heard), "absent": rate(absent), "clips": len(heard)}
            for name, (heard, absent) in found.items()
        },
    }


def presence_part(
    probe: InstrumentProbe,
    embedder: Embedder,
    pairs: Sequence[MutedPair],
    reference_pairs: Sequence[MutedPair] = (),
    sets: Mapping[str, Sequence[ClipEmbedding]] | None = None,
    lead_sheets: Sequence[LeadSheet] = (),
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Instrument presence: asked instruments heard, muted ones gone.

    Args:
        probe, embedder: the probe and the tower that it was fitted on.
        pairs: generated with the whole band and with one muted, same seed. reference_pairs: rendered
            ones, of `stem_pairs`.
        sets: embeddings of whole clips by name ("generated", "held_out", "reconstruction", "noise", ...), each in
            the order of `lead_sheets`, for `band_scores`.

    Returns:
        The figures (pairs, renders, bands: set -> `band_scores`), and the rows.
    """
    figures: dict[str, Any] = {
        "judged": list(probe.instruments),
        "pairs": pair_scores(probe, embedder, pairs),
        "renders": pair_scores(probe, embedder, reference_pairs),
        "bands": {name: band_scores(probe, clips, lead_sheets) for name, clips in (sets or {}).items()},
    }
    ours, renders = figures["pairs"], figures["renders"]

    def beside(key: str) -> str:
        return f" (renders {renders[key]:.0%} of {renders['pairs']})" if renders["pairs"] else ""

    def row(what: str, key: str, least: float, more: str = "") -> dict[str, Any]:
        if not ours["pairs"]:
            return verdict(what, f">= {least:.0%}", "not measured: no pair of clips that can be judged", None)
        told = f"{ours[key]:.0%} of {ours['pairs']}{beside(key)}{more}"
        return verdict(what, f">= {least:.0%}", told, ours[key] >= least)

    lower = f"; lower than with it in {ours['lower']:.0%}"
    rows = [
        row("asked instrument heard (probe on our tower)", "heard", LEAST_HEARD),
        row("muted instrument gone, same seed", "gone", LEAST_GONE, lower),
    ]
    if figures["bands"]:
        told = "; ".join(
            f"{name.replace('_', ' ')} {scores['heard']:.0%} and {scores['absent']:.0%}"
            for name, scores in figures["bands"].items()
        )
        rows.append(
            verdict(
                "bands of the charts: players heard, and others not heard",
                "beside the renders' own",
                told,
                None,
            )
        )
    return figures, rows


__all__ = ["MutedPair", "band_scores", "choose_mutes", "pair_scores", "presence_part", "stem_pairs"]
