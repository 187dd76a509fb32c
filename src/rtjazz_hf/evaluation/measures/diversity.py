"""Does a model play something new: distances between seeds, and to the nearest training take."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from rtjazz_hf.audio import SAMPLE_RATE
from rtjazz_hf.runtime.files import whole_or_not_at_all

from ..writing import verdict
from .embeddings import ClipEmbedding, Embedder, TowerEmbedder
from .instrument_probe import tower_signature
from .metrics import as_audio

if TYPE_CHECKING:
    from rtjazz_hf.corpus.dataset import TakeRecord

LEAST_DIVERSITY = 0.8  # of renders' of the same charts
LEAST_NOVELTY = 0.8  # of held-out takes' own
HOP_SECONDS = 0.5
_SHRINKAGE = 1e-3


# --- seeds ---------------------------------------------------------------------------------------------


def pairwise_distance(clips: Sequence[ClipEmbedding]) -> float:
    """Mean cosine distance between any two of the clips; NaN for fewer than two."""
    if len(clips) < 2:
        return float("nan")
    wholes = np.stack([clip.whole for clip in clips])
    return float(1.0 - (wholes @ wholes.T)[np.triu_indices(len(clips), 1)].mean())


def group_by(clips: Sequence[ClipEmbedding], classes: Sequence[Hashable]) -> list[list[ClipEmbedding]]:
    """Clips of one class together; classes of fewer than two are left out."""
    groups: dict[Hashable, list[ClipEmbedding]] = {}
    for clip, name in zip(clips, classes, strict=True):
        groups.setdefault(name, []).append(clip)
    return [group for group in groups.values() if len(group) > 1]


def diversity_part(
    seeds: Sequence[Sequence[ClipEmbedding]],
    real: Sequence[Sequence[ClipEmbedding]],
    real_name: str = "the same charts, composed and rendered anew",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How much seeds of one chart differ, beside how much real takes do.

    Args:
        seeds: for each chart, embeddings of clips of several seeds. real: groups of renders of one chart, composed
            anew for each; or where none can be made of real takes of one caption class (`group_by` with
            `caption_class`), which differ more: by chart, key and tempo too.

    Returns:
        The figures (generated, real: mean cosine distances; ratio), and the row of the table.
    """
    ours = _nanmean([pairwise_distance(group) for group in seeds])
    theirs = _nanmean([pairwise_distance(group) for group in real])
    ratio = ours / theirs if theirs > 0 else float("nan")
    told, ok = "not measured: give two clips or more of a prompt, and real takes", None
    if np.isfinite(ratio):
        told, ok = f"{ours:.3f} ({real_name} {theirs:.3f}): {ratio:.2f} x", ratio >= LEAST_DIVERSITY
    row = verdict(
        f"diversity: mean distance between seeds, {len(seeds)} charts",
        f">= {LEAST_DIVERSITY:g} x that of {real_name}",
        told,
        ok,
    )
    return {"generated": ours, "real": theirs, "ratio": ratio, "charts": len(seeds)}, [row]


# --- the nearest training take -----------------------------------------------------------------------------


def hopping_features(embedder: Embedder, audio: np.ndarray, hop: float = HOP_SECONDS) -> np.ndarray:
    """Features of windows that begin every `hop` seconds in `(2, samples)`: `(windows, width)`, in no order of time.

    A moment of training music is found again only by a window that begins where one of the index does, or nearly.
    """
    audio = as_audio(audio)
    first = embedder(audio)
    if len(first.starts) < 2:
        return first.features
    offsets = np.arange(hop, first.seconds - 1e-6, hop)
    later = [embedder(audio[:, round(offset * SAMPLE_RATE) :]).features for offset in offsets]
    return np.concatenate([first.features, *later])


@dataclass(frozen=True)
class TrainIndex:
    """Features of windows of training takes, back to back: `features` `(windows, width)` of `takes` takes.

    Distances are cosine distances of features whitened over the index, which weigh what tells one window from
    another rather than what all share. In the space of styles itself a replayed take is hardly nearer than a new one
    of its kind; whitened it is, through a codec too (0.14 beside 0.5 of new ones, on composed takes).
    """

    features: np.ndarray
    takes: int

    @cached_property
    def _whitening(self) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(np.cov(self.features.T.astype(np.float64)))
        return self.features.mean(0), vectors / np.sqrt(np.maximum(values, 0) + _SHRINKAGE * values.mean())

    def _whitened(self, features: np.ndarray) -> np.ndarray:
        mean, vectors = self._whitening
        white = ((features - mean) @ vectors).astype(np.float32)
        return white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-9)

    @cached_property
    def _white(self) -> np.ndarray:
        return self._whitened(self.features)

    def distance(self, features: np.ndarray) -> float:
        """How near a clip's windows `(windows, width)` come to any training window: the least distance, 0 to 2."""
        return float(1.0 - (self._whitened(features) @ self._white.T).max())

    @classmethod
    def from_takes(
        cls,
        takes: Iterable[TakeRecord],
        embedder: TowerEmbedder,
        most: int = 2000,
        cache: str | os.PathLike | None = None,
        progress: bool = False,
    ) -> TrainIndex:
        """Embed every window of up to `most` training takes (evenly spread), about 0.1 s each.

        Args:
            cache: a file to keep them in; used again if takes and tower are the same, else written anew.

        Raises:
            ValueError: no takes, or fewer than two windows in them.
        """
        from tqdm.auto import tqdm

        takes = list(takes)
        if not takes:
            raise ValueError("there are no training takes to compare with; give load_takes(folder, 'train').")
        chosen = [
            takes[i] for i in np.unique(np.linspace(0, len(takes) - 1, min(most, len(takes))).astype(int))
        ]
        names = json.dumps([str(take.path) for take in chosen])
        signature = tower_signature(embedder)
        if cache is not None and (known := _read_cache(Path(cache), names, signature)) is not None:
            return cls(known, len(chosen))
        rows = [
            embedder(take.audio()).features
            for take in tqdm(chosen, desc="training takes", unit="take", disable=not progress)
        ]
        features = np.concatenate(rows)
        if len(features) < 2:
            raise ValueError(f"{len(chosen)} training takes have {len(features)} window; give more.")
        if cache is not None:
            with whole_or_not_at_all(Path(cache)) as partial:
                save_file({"features": features, "signature": signature}, partial, metadata={"takes": names})
        return cls(features, len(chosen))


def _read_cache(path: Path, names: str, signature: np.ndarray) -> np.ndarray | None:
    """What `from_takes` kept; None where it is of other takes, of another tower, or broken."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            known = file.get_tensor("signature")
            same = known.shape == signature.shape and np.allclose(known, signature, atol=1e-3)
            return file.get_tensor("features") if same and file.metadata()["takes"] == names else None
    except Exception:  # safetensors has an error of its own; what is broken is made again
        return None


def neighbours_part(
    index: TrainIndex, embedder: Embedder, sets: Mapping[str, Sequence[np.ndarray]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How near clips come to the training takes: a model that replays its corpus comes nearer than held-out takes do.

    A clip counts by its nearest moment, of windows every half second. What is compared is how five seconds sound,
    instruments, register, rhythm and harmony at once: a tune lifted by another instrument escapes it.

    Args:
        embedder: that `index` was made with.
        sets: clips `(2, samples)` of one length by name: "generated" and "held_out" (takes that are not in the
            index); others ("reconstruction", "noise", training takes themselves) become reference rows.

    Returns:
        The figures (name -> median and least distance; ratio of the medians; nearer: share of generated clips
        nearer than any held-out one), and the row.

    Raises:
        ValueError: where "generated" or "held_out" is missing.
    """
    if not sets.get("generated") or not sets.get("held_out"):
        raise ValueError(f"the sets are {', '.join(sets) or 'none'}: give generated and held_out.")
    figures: dict[str, Any] = {"training_windows": len(index.features), "training_takes": index.takes}
    distances = {
        name: np.array([index.distance(hopping_features(embedder, clip)) for clip in clips])
        for name, clips in sets.items()
    }
    for name, values in distances.items():
        figures[name] = {"median": float(np.median(values)), "least": float(values.min())}
    ratio = figures["generated"]["median"] / max(figures["held_out"]["median"], 1e-9)
    nearer = float((distances["generated"] < distances["held_out"].min()).mean())
    figures |= {"ratio": ratio, "nearer": nearer}
    references = "".join(
        f", {name.replace('_', ' ')} {figures[name]['median']:.2f}"
        for name in sets
        if name not in ("generated", "held_out")
    )
    row = verdict(
        f"distance to the nearest of {len(index.features)} training windows ({index.takes} takes), median clip",
        f">= {LEAST_NOVELTY:g} x that of held-out takes",
        f"{figures['generated']['median']:.2f} (held-out takes {figures['held_out']['median']:.2f}{references}): "
        f"{ratio:.2f} x; {nearer:.0%} of clips nearer than any held-out take",
        ratio >= LEAST_NOVELTY,
    )
    return figures, [row]


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


__all__ = [
    "TrainIndex",
    "diversity_part",
    "group_by",
    "hopping_features",
    "neighbours_part",
    "pairwise_distance",
]
