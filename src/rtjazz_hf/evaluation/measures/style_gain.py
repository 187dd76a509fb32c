"""What a personal adapter brings: how much nearer generated clips come to the player, and what obedience it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .embeddings import ClipEmbedding
from .frechet import frechet_distance
from .obedience import Heard, beat_scores, chord_rates

LEAST_GAIN = 0.3  # share by which a distance must fall
LEAST_OWN = 0.8  # share of clips that must be nearer to their own player than to the other
MOST_LOST = 0.05  # of chord or beat obedience


def mean_cosine(clips: Sequence[ClipEmbedding], takes: Sequence[ClipEmbedding]) -> float:
    """Mean cosine of every clip's whole embedding with the centre of the takes'."""
    return float(np.mean([clip.whole @ _centre(takes) for clip in clips]))


def style_gain(
    base: Sequence[ClipEmbedding],
    adapted: Sequence[ClipEmbedding],
    own: Sequence[ClipEmbedding],
    other: Sequence[ClipEmbedding],
) -> dict[str, float]:
    """Distances of clips of the same charts and seeds, without and with an adapter, to a player's held-out takes.

    Args:
        base, adapted: generated clips. own, other: held-out takes of the player, and of another.

    Returns:
        frechet_base, frechet_adapted (squared, of window features), cosine_base, cosine_adapted (to the centre of the
        takes); frechet_gain, cosine_gain: share by which the distance fell (that of a cosine is 1 - cosine);
        own_share, own_share_base: share of clips nearer to the own player than to the other by cosine.

    Raises:
        ValueError: a set is empty.
    """
    sets = {"base": base, "adapted": adapted, "own": own, "other": other}
    if empty := [name for name, clips in sets.items() if not clips]:
        raise ValueError(f"no clips of {', '.join(empty)}: each of base, adapted, own and other needs some")
    real = np.concatenate([take.features for take in own])
    measures: dict[str, float] = {}
    for name, clips in (("base", base), ("adapted", adapted)):
        measures[f"frechet_{name}"] = frechet_distance(np.concatenate([c.features for c in clips]), real)
        measures[f"cosine_{name}"] = mean_cosine(clips, own)
    measures["frechet_gain"] = 1 - measures["frechet_adapted"] / max(measures["frechet_base"], 1e-9)
    measures["cosine_gain"] = 1 - (1 - measures["cosine_adapted"]) / max(1 - measures["cosine_base"], 1e-9)
    measures["own_share"] = _own_share(adapted, own, other)
    measures["own_share_base"] = _own_share(base, own, other)
    return measures


def obedience(clips: Sequence[np.ndarray], sheets: Sequence) -> dict[str, float]:
    """Mean `chord_rates` (the chart's, and its rotations') and beat F-measure of clips and their lead sheets."""
    rows = []
    for audio, sheet in zip(clips, sheets, strict=True):
        heard = Heard(audio)
        true, rotated, _ = chord_rates(heard, sheet)
        rows.append((true, rotated, beat_scores(heard, sheet)["f"]))
    chords, rotated, beats = np.nanmean(np.array(rows, dtype=np.float64), axis=0)
    return {"chords": float(chords), "chords_rotated": float(rotated), "beats": float(beats)}


def verdicts(
    gain: Mapping[str, float], before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, bool]:
    """Whether each thing asked of an adapter holds: `gain` of `style_gain`, the others of `obedience`."""
    return {
        "nearer by Frechet distance": gain["frechet_gain"] >= LEAST_GAIN,
        "nearer by cosine": gain["cosine_gain"] >= LEAST_GAIN,
        "nearer to the own player": gain["own_share"] >= LEAST_OWN,
        "chords kept": before["chords"] - after["chords"] <= MOST_LOST,
        "beats kept": before["beats"] - after["beats"] <= MOST_LOST,
    }


def _centre(takes: Sequence[ClipEmbedding]) -> np.ndarray:
    mean = np.mean([take.whole for take in takes], axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-9)


def _own_share(clips, own, other) -> float:
    near, far = _centre(own), _centre(other)
    return float(np.mean([clip.whole @ near > clip.whole @ far for clip in clips]))


__all__ = ["LEAST_GAIN", "LEAST_OWN", "MOST_LOST", "mean_cosine", "obedience", "style_gain", "verdicts"]
