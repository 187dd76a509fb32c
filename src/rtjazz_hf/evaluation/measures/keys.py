"""The key that a clip is in, beside the one that was asked; and the tempo over many charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf.music import KEYS
from rtjazz_hf.music.vocabulary import transpose_key

from ..writing import verdict
from .obedience import chroma

if TYPE_CHECKING:
    from rtjazz_hf.music import LeadSheet

MOST_TEMPO_ERROR = 0.01
LEAST_OF_RENDERS = 0.9
# How well each pitch class, from the tonic up, was judged to fit a key (Krumhansl and Kessler, 1982, table 2).
MAJOR_PROFILE = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR_PROFILE = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def key_fits(mean_chroma: np.ndarray) -> np.ndarray:
    """Correlation of a chroma `(12,)` with the profile of each of `KEYS`, `(24,)` (Krumhansl, 1990, chapter 4)."""
    profiles = np.array(
        [np.roll(profile, tonic) for profile in (MAJOR_PROFILE, MINOR_PROFILE) for tonic in range(12)]
    )
    profiles = profiles - profiles.mean(1, keepdims=True)
    centred = np.asarray(mean_chroma, dtype=np.float64) - np.mean(mean_chroma)
    scale = np.linalg.norm(profiles, axis=1) * np.linalg.norm(centred)
    return profiles @ centred / np.maximum(scale, 1e-12)


def find_key(audio: np.ndarray) -> str | None:
    """The key in `KEYS` whose profile correlates best with the chroma of `(channels, samples)` at 48 kHz, every
    moment counting alike whatever its level; None for silence."""
    frames = chroma(audio)
    totals = frames.sum(1, keepdims=True)
    sounding = totals[:, 0] > 1e-3 * max(float(totals.max()), 1e-6)
    if not sounding.any():
        return None
    return KEYS[int(np.argmax(key_fits((frames[sounding] / totals[sounding]).mean(0))))]


def key_score(asked: str, found: str | None) -> float:
    """1 for the key, 0.5 for one a fifth above, 0.3 for its relative, 0.2 for its parallel key, else 0: MIREX's
    weighted score (mir_eval)."""
    try:
        import mir_eval
    except ImportError as error:
        raise ImportError("the key score needs mir_eval: pip install 'rtjazz-hf[eval]'") from error
    if found is None:
        return 0.0
    return float(mir_eval.key.weighted_score(_as_words(asked), _as_words(found)))


def key_part(
    generated: Sequence[np.ndarray],
    renders: Sequence[np.ndarray],
    lead_sheets: Sequence[LeadSheet],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Keys of clips against the keys of their sheets, beside the composed renders of the same sheets.

    Jazz leaves its key often and a blues has no plain mode, so the measure finds the key of the renders only so
    often: what counts is how near the generated clips come to that.

    Returns:
        The figures (for generated and renders: exact, weighted; rotated: the renders' keys against those of
        other sheets, which is chance), charts (asked and found), and the row.

    Raises:
        ValueError: numbers of clips and sheets differ, or are none.
    """
    if not lead_sheets or not len(generated) == len(renders) == len(lead_sheets):
        raise ValueError(
            f"{len(generated)} clips, {len(renders)} renders and {len(lead_sheets)} sheets: give as many of each."
        )
    asked = [sheet.key for sheet in lead_sheets]
    found, of_renders = ([find_key(np.nan_to_num(clip)) for clip in clips] for clips in (generated, renders))

    def scores(keys: Sequence[str | None], right: Sequence[str]) -> dict[str, float]:
        return {
            "exact": float(np.mean([key == true for key, true in zip(keys, right)])),
            "weighted": float(np.mean([key_score(true, key) for key, true in zip(keys, right)])),
        }

    turns = [scores(of_renders, [transpose_key(key, turn) for key in asked]) for turn in range(1, 12)]
    figures: dict[str, Any] = {
        "generated": scores(found, asked),
        "renders": scores(of_renders, asked),
        "rotated": {name: float(np.mean([turn[name] for turn in turns])) for name in ("exact", "weighted")},
        "charts": [
            {"asked": one, "generated": two, "render": three}
            for one, two, three in zip(asked, found, of_renders)
        ],
    }
    ours, theirs = figures["generated"], figures["renders"]
    row = verdict(
        f"key of {len(asked)} charts, weighted score",
        f">= {LEAST_OF_RENDERS:g} of the renders' own",
        f"{ours['weighted']:.2f} (renders {theirs['weighted']:.2f}, chance {figures['rotated']['weighted']:.2f}); "
        f"exact {ours['exact']:.0%} (renders {theirs['exact']:.0%})",
        ours["weighted"] >= LEAST_OF_RENDERS * theirs["weighted"],
    )
    return figures, [row]


def tempo_part(
    generated: Sequence[float], renders: Sequence[float] = ()
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Median of the relative tempo errors of `beat_scores` over charts, beside the renders' own.

    An error of NaN (no beat was found) counts as wholly wrong.

    Returns:
        The figures (median, share_within: of clips within 1%; renders_median), and the row.
    """
    errors = np.nan_to_num(np.array(generated, dtype=np.float64), nan=1.0)
    if not errors.size:
        raise ValueError("there are no tempo errors; give those of at least one chart.")
    median, within = float(np.median(errors)), float((errors < MOST_TEMPO_ERROR).mean())
    theirs = float(np.median(np.nan_to_num(np.array(renders), nan=1.0))) if len(renders) else float("nan")
    beside = f" (renders {theirs:.2%})" if len(renders) else ""
    row = verdict(
        f"tempo error of {errors.size} charts, median",
        f"< {MOST_TEMPO_ERROR:.0%}",
        f"{median:.2%}{beside}; {within:.0%} of clips within {MOST_TEMPO_ERROR:.0%}",
        median < MOST_TEMPO_ERROR,
    )
    return {"median": median, "share_within": within, "renders_median": theirs}, [row]


def _as_words(key: str) -> str:
    return f"{key[:-1]} minor" if key.endswith("m") else f"{key} major"


__all__ = ["find_key", "key_fits", "key_part", "key_score", "tempo_part"]
