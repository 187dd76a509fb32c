"""Frechet audio distance: how far the distribution of one set of clips is from that of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..writing import verdict
from .embeddings import ClipEmbedding

MOST_RATIO = 2.0  # of the distance between two disjoint sets of held-out takes
_SPLITS = 40
_SIZES = 6
_DRAWS = 20
_LEAST_CLIPS = 4


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance between the normal distributions that fit two sets of features `(windows, width)`.

    |mean_x - mean_y|^2 + tr(cov_x + cov_y - 2 (cov_x cov_y)^(1/2)) (Kilgour et al., 2019, section 3). The trace of
    the root is taken as the nuclear norm of cov_x^(1/2) cov_y^(1/2), which holds for covariances of any rank: fewer
    windows than dimensions cost no numerical care, only the bias that `frechet_infinity` takes away.

    Raises:
        ValueError: fewer than two windows in a set, or widths that differ.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"features of shape {x.shape} and {y.shape}: give (windows, width) of one width, two windows or more."
        )
    mean_x, mean_y = x.mean(0), y.mean(0)
    root_x = np.linalg.qr((x - mean_x) / np.sqrt(len(x) - 1), mode="r")
    root_y = np.linalg.qr((y - mean_y) / np.sqrt(len(y) - 1), mode="r")
    cross = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    distance = np.sum((mean_x - mean_y) ** 2) + np.sum(root_x**2) + np.sum(root_y**2) - 2 * cross
    return max(float(distance), 0.0)


def frechet_infinity(
    clips: Sequence[np.ndarray],
    same: Sequence[np.ndarray],
    other: Sequence[np.ndarray],
    seed: int = 0,
) -> float:
    """The Frechet distance to real takes that infinitely many clips would have: free of the bias of small sets.

    The distance falls with the number of clips as a + b / n; a is extrapolated by least squares (FAD-infinity, Gui
    et al., 2024, section 3). Whole clips are drawn and not windows, since the windows of a take are much alike, and
    none is held against the take that it has its chart from, or chance would be taken for likeness. For real takes
    it is near 0, and may fall below.

    Args:
        clips: features `(windows, width)` of each clip. same: of the takes with the same charts, in the same order.
        other: of further takes.

    Raises:
        ValueError: fewer than four clips.
    """
    most = min(len(clips), len(other))
    if most < _LEAST_CLIPS or len(same) != len(clips):
        raise ValueError(
            f"{len(clips)} clips, {len(same)} takes of their charts and {len(other)} others: give as many clips as "
            f"takes, and {_LEAST_CLIPS} of all or more."
        )
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.linspace(max(2, most // 4), most, _SIZES).astype(int))
    values = []
    for size in sizes:
        distances = []
        for _ in range(_DRAWS):
            order = rng.permutation(len(clips))
            chosen, rest = order[:size], order[size:]
            pool = [same[i] for i in rest] + list(other)
            reference = [pool[i] for i in rng.permutation(len(pool))[:size]]
            distances.append(
                frechet_distance(np.concatenate([clips[i] for i in chosen]), np.concatenate(reference))
            )
        values.append(np.mean(distances))
    return float(np.polyfit(1.0 / sizes, values, 1)[1])


def split_distance(takes: Sequence[np.ndarray], size: int, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the Frechet distance between two disjoint random sets of `size` takes."""
    rng = np.random.default_rng(seed)
    distances = []
    for _ in range(_SPLITS):
        order = rng.permutation(len(takes))[: 2 * size]
        one, two = (np.concatenate([takes[i] for i in half]) for half in (order[:size], order[size:]))
        distances.append(frechet_distance(one, two))
    return float(np.mean(distances)), float(np.std(distances))


def frechet_part(
    sets: Mapping[str, Sequence[ClipEmbedding]],
    embedder_name: str = "our tower",
    seed: int = 0,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Frechet audio distance of generated clips to held-out takes, beside what real takes and broken ones have.

    How far apart two sets of real takes are is the yardstick, and it depends on their size; so all sets have the
    same number of clips, and the yardstick is the mean over random splits of all held-out takes into two disjoint
    sets of that size (one split alone may be off by half). Clips that share charts with the takes they are held
    against have an easy life: so the distance to the other takes, whose charts they do not share, must also be at
    most twice that of the renders of their charts to the same.

    Args:
        sets: embeddings of clips of one length. "generated": by the model; "held_out": the takes whose charts it
            played, in the same order; "held_out_b": other held-out takes, none of them in "held_out". Any others
            ("reconstruction", "shuffled", "noise", ...) become reference rows.

    Returns:
        The figures, and the rows of the table. to_held_out, to_others: name -> distance to either set of takes;
        yardstick, yardstick_std; infinity: name -> `frechet_infinity`; ratio: generated over yardstick;
        ratio_to_others: generated over renders, to the other takes.

    Raises:
        ValueError: where one of the three sets is missing, or has fewer than four clips.
    """
    missing = [name for name in ("generated", "held_out", "held_out_b") if not sets.get(name)]
    size = min((len(clips) for clips in sets.values()), default=0)
    if missing or size < _LEAST_CLIPS:
        raise ValueError(
            f"sets {', '.join(f'{name} ({len(clips)})' for name, clips in sets.items())}: FAD needs generated, "
            f"held_out and held_out_b, with {_LEAST_CLIPS} clips or more in each."
        )
    features = {name: [clip.features for clip in clips[:size]] for name, clips in sets.items()}
    joined = {name: np.concatenate(clips) for name, clips in features.items()}
    takes, others = features["held_out"], features["held_out_b"]
    every = [clip.features for name in ("held_out", "held_out_b") for clip in sets[name]]
    yardstick, deviation = split_distance(every, size, seed)
    to_held_out = {
        name: frechet_distance(values, joined["held_out"])
        for name, values in joined.items()
        if name != "held_out"
    }
    to_others = {
        name: frechet_distance(values, joined["held_out_b"])
        for name, values in joined.items()
        if name != "held_out_b"
    }
    infinity = {
        name: frechet_infinity(clips, takes, others, seed)
        for name, clips in features.items()
        if name != "held_out_b"
    }
    ratio = to_held_out["generated"] / max(yardstick, 1e-12)
    ratio_to_others = to_others["generated"] / max(to_others["held_out"], 1e-12)
    references = ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}"
        for name, value in to_held_out.items()
        if name not in ("generated", "held_out_b")
    )
    told = [
        f"{to_held_out['generated']:.3g}, of held-out sets {yardstick:.3g} +- {deviation:.2g} ({ratio:.2f} x)",
        f"to other takes {to_others['generated']:.3g}, of renders {to_others['held_out']:.3g} "
        f"({ratio_to_others:.2f} x)",
        f"without the bias of small sets {infinity['generated']:.3g}, of renders {infinity['held_out']:.3g}",
        references,
    ]
    row = verdict(
        f"FAD ({embedder_name}) of {size} generated clips to the held-out takes of their charts",
        f"<= {MOST_RATIO:g} x that of two disjoint held-out sets of the same size",
        "; ".join(text for text in told if text),
        max(ratio, ratio_to_others) <= MOST_RATIO,
    )
    figures = {
        "embedder": embedder_name, "clips": size, "windows": len(joined["generated"]),
        "dimensions": joined["generated"].shape[1], "to_held_out": to_held_out, "to_others": to_others,
        "yardstick": yardstick, "yardstick_std": deviation, "infinity": infinity, "ratio": ratio,
        "ratio_to_others": ratio_to_others,
    }  # fmt: skip
    return figures, [row]


__all__ = ["frechet_distance", "frechet_infinity", "frechet_part", "split_distance"]
