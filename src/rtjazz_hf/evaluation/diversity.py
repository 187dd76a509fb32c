"""Does a model play something new: distances between seeds, and to the nearest training take."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from rtjazz_hf.audio import whole_or_not_at_all

from .embeddings import ClipEmbedding, TowerEmbedder
from .writing import verdict

if TYPE_CHECKING:
    from rtjazz_hf.corpus.dataset import TakeRecord
    from rtjazz_hf.style import RealTimeJazzStyleEncoder

LEAST_DIVERSITY = 0.5  # of real takes' own
LEAST_NOVELTY = 0.8  # of held-out takes' own
_CHUNK = 1024


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
    real_name: str = "takes of one genre and band",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How much seeds of one prompt differ, beside how much real takes do of which one would say the same.

    Args:
        seeds: for each prompt, embeddings of clips of several seeds. real: groups of real takes of one caption
            class (`group_by` with `caption_class`), or of one chart composed and rendered several times.

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
        f"diversity: mean distance between seeds, {len(seeds)} prompts",
        f">= {LEAST_DIVERSITY:g} x that of {real_name}",
        told,
        ok,
    )
    return {"generated": ours, "real": theirs, "ratio": ratio, "prompts": len(seeds)}, [row]


# --- the nearest training take -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainIndex:
    """Unit vectors of windows of the training takes, `(windows, dim)`, and how many `takes` they are of."""

    unit: np.ndarray
    takes: int

    def distances(self, clips: Sequence[ClipEmbedding]) -> np.ndarray:
        """Cosine distance of every window of `clips` to the nearest training window, `(windows,)`."""
        windows = np.concatenate([clip.unit for clip in clips])
        nearest = [
            (windows[start : start + _CHUNK] @ self.unit.T).max(1) for start in range(0, len(windows), _CHUNK)
        ]
        return 1.0 - np.concatenate(nearest)

    @classmethod
    def from_store(cls, folder: str | os.PathLike, style_encoder: RealTimeJazzStyleEncoder) -> TrainIndex:
        """The clips that `corpus.latent_store.embed_takes` embedded of the training takes.

        Raises:
            FileNotFoundError: no embeddings there. ValueError: those of another style encoder, or of no take.
        """
        from rtjazz_hf.corpus.latent_store import claim, fingerprint

        folder = Path(folder)
        if not (folder / "styles.json").is_file():
            raise FileNotFoundError(f"'{folder}' has no styles.json; embed its takes with embed_takes.")
        claim(folder / "styles.json", "style embeddings", encoder=fingerprint(style_encoder))
        rows = []
        for path in sorted((folder / "styles").glob("[!.]*.safetensors")):
            label = folder / "takes" / f"{path.stem}.json"
            if label.is_file() and json.loads(label.read_text())["split"] == "train":
                with safe_open(path, framework="numpy") as file:
                    rows.append(file.get_tensor("audio"))
        if not rows:
            raise ValueError(f"'{folder}' holds no embeddings of training takes.")
        return cls(np.concatenate(rows).astype(np.float32), len(rows))

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
            ValueError: no takes.
        """
        from tqdm.auto import tqdm

        from .instrument_probe import tower_signature

        takes = list(takes)
        if not takes:
            raise ValueError("there are no training takes to compare with; give load_takes(folder, 'train').")
        chosen = [
            takes[i] for i in np.unique(np.linspace(0, len(takes) - 1, min(most, len(takes))).astype(int))
        ]
        names = json.dumps([str(take.path) for take in chosen])
        signature = tower_signature(embedder)
        if cache is not None and Path(cache).is_file():
            with safe_open(cache, framework="numpy") as file:
                known = file.get_tensor("signature")
                same = known.shape == signature.shape and np.allclose(known, signature, atol=1e-3)
                if same and file.metadata()["takes"] == names:
                    return cls(file.get_tensor("unit"), len(chosen))
        rows = [
            embedder(take.audio()).unit
            for take in tqdm(chosen, desc="training takes", unit="take", disable=not progress)
        ]
        unit = np.concatenate(rows)
        if cache is not None:
            with whole_or_not_at_all(Path(cache)) as partial:
                save_file({"unit": unit, "signature": signature}, partial, metadata={"takes": names})
        return cls(unit, len(chosen))


def neighbours_part(
    index: TrainIndex, sets: Mapping[str, Sequence[ClipEmbedding]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Distance of windows to the nearest training window: a model that replays its corpus is closer than held-out
    takes are.

    It looks at style, five seconds at once: a tune lifted note by note with other instruments would escape it.

    Args:
        sets: "generated" and "held_out" (takes that are not in the index); others become reference rows.

    Returns:
        The figures (name -> median and tenth percentile of the distances; ratio of the medians), and the row.

    Raises:
        ValueError: where "generated" or "held_out" is missing.
    """
    if not sets.get("generated") or not sets.get("held_out"):
        raise ValueError(f"the sets are {', '.join(sets) or 'none'}: give generated and held_out.")
    figures: dict[str, Any] = {"training_windows": len(index.unit), "training_takes": index.takes}
    for name, clips in sets.items():
        distances = index.distances(clips)
        figures[name] = {"median": float(np.median(distances)), "p10": float(np.percentile(distances, 10))}
    ratio = figures["generated"]["median"] / max(figures["held_out"]["median"], 1e-9)
    figures["ratio"] = ratio
    references = "".join(
        f", {name.replace('_', ' ')} {figures[name]['median']:.3f}"
        for name in sets
        if name not in ("generated", "held_out")
    )
    row = verdict(
        f"distance to the nearest of {len(index.unit)} training windows ({index.takes} takes), median",
        f">= {LEAST_NOVELTY:g} x that of held-out takes",
        f"{figures['generated']['median']:.3f} (held-out takes {figures['held_out']['median']:.3f}{references}): "
        f"{ratio:.2f} x",
        ratio >= LEAST_NOVELTY,
    )
    return figures, [row]


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


__all__ = ["TrainIndex", "diversity_part", "group_by", "neighbours_part", "pairwise_distance"]
