"""Do clips sound like the words they were asked with: text-audio score, retrieval, and KL of tag posteriors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf.music import GENRES, INSTRUMENTS, MOODS

from ..writing import verdict
from .embeddings import ClipEmbedding, Embedder, derangement

if TYPE_CHECKING:
    from .instrument_probe import InstrumentProbe

GROUP_SIZE = 8
LEAST_RETRIEVAL = 0.7
MOST_KL = 0.3  # nats
TAGS = {"genre": GENRES, "mood": MOODS, "instruments": INSTRUMENTS}
_GROUPS = 500
_FLOOR = 1e-6


# --- score and retrieval ------------------------------------------------------------------------------


def different_groups(
    classes: Sequence[Hashable], size: int = GROUP_SIZE, count: int = _GROUPS, seed: int = 0
) -> np.ndarray:
    """Random groups of places in `classes` in which no class comes twice: `(count, size)`; `(0, size)` where there
    are not so many classes."""
    if len(set(classes)) < size:
        return np.zeros((0, size), dtype=int)
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        group: dict[Hashable, int] = {}
        for place in rng.permutation(len(classes)):
            group.setdefault(classes[place], int(place))
            if len(group) == size:
                break
        groups.append(list(group.values()))
    return np.array(groups)


def retrieval(similarity: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """How often a clip finds its own caption in its group, and a caption its own clip; NaN without groups.

    Args:
        similarity: `(texts, clips)`, pairs on the diagonal. groups: `(count, size)` of `different_groups`.
    """
    if not len(groups):
        return float("nan"), float("nan")
    truth = np.arange(groups.shape[1])
    parts = similarity[groups[:, :, None], groups[:, None, :]]  # (count, texts, clips)
    return float((parts.argmax(1) == truth).mean()), float((parts.argmax(2) == truth).mean())


def text_part(
    embedder: Embedder,
    sets: Mapping[str, Sequence[ClipEmbedding]],
    captions: Sequence[str],
    classes: Sequence[Hashable],
    seed: int = 0,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Text-audio score of clips and their captions (CLAP score), and retrieval among 8 different captions.

    Args:
        sets: embeddings of clips, each set in the order of `captions`: "generated", and as references
            "held_out", "noise", .... Held-out clips with another's caption are added as "held_out, shuffled".
        captions: what was asked. classes: of each caption; a group of 8 holds no class twice: see `caption_class`.

    Returns:
        The figures (name -> score, the mean cosine; retrieval_of_text; retrieval_of_audio), and the rows.
    """
    _check_lengths(sets, len(captions), "captions")
    if len(classes) != len(captions):
        raise ValueError(f"{len(captions)} captions have {len(classes)} classes; give one for each.")
    texts = embedder.text(captions)
    groups = different_groups(classes, seed=seed)
    figures: dict[str, Any] = {
        "embedder": embedder.name,
        "captions": len(captions),
        "groups": len(groups),
        "chance": 1 / GROUP_SIZE,
    }
    wholes = {name: np.stack([clip.whole for clip in clips]) for name, clips in sets.items()}
    if "held_out" in wholes:
        wholes["held_out, shuffled"] = wholes["held_out"][derangement(len(captions), seed)]
    for name, clips in wholes.items():
        similarity = texts @ clips.T
        of_text, of_audio = retrieval(similarity, groups)
        figures[name] = {
            "score": float(np.diagonal(similarity).mean()),
            "retrieval_of_text": of_text,
            "retrieval_of_audio": of_audio,
        }
    rows = []
    if "generated" in sets:
        scores = figures["generated"]
        others = [name for name in wholes if name != "generated"]
        if len(groups):
            told = f"{scores['retrieval_of_text']:.0%}; of the clip by its caption {scores['retrieval_of_audio']:.0%}"
            told += "".join(
                f"; {name.replace('_', ' ')} {figures[name]['retrieval_of_text']:.0%}" for name in others
            )
        else:
            told = f"not measured: fewer than {GROUP_SIZE} captions differ in genre or band"
        rows = [
            verdict(
                f"text retrieval among {GROUP_SIZE} different captions ({embedder.name})",
                f">= {LEAST_RETRIEVAL:.0%}",
                told,
                scores["retrieval_of_text"] >= LEAST_RETRIEVAL if len(groups) else None,
            ),
            verdict(
                f"text-audio score ({embedder.name}): mean cosine of {len(captions)} clips and captions",
                "beside the renders' own",
                f"{scores['score']:.3f}"
                + "".join(f", {name.replace('_', ' ')} {figures[name]['score']:.3f}" for name in others),
                None,
            ),
        ]
    return figures, rows


# --- tag posteriors ------------------------------------------------------------------------------------


def tag_posteriors(
    embedder: Embedder, clips: Sequence[ClipEmbedding], probe: InstrumentProbe | None = None
) -> dict[str, np.ndarray]:
    """Posteriors of tags, `(clips, tags)` each: genre, mood and instruments by the words for them (zero shot).

    The softmax over a closed list's words of their cosines with a window, at the temperature the towers were
    trained with, averaged over the clip's windows. With a `probe`, instruments are its posteriors instead, each for
    itself, since more than one plays.
    """
    posteriors = {}
    for kind, names in TAGS.items():
        if kind == "instruments" and probe is not None:
            posteriors[kind] = np.stack([probe.posteriors(clip.features).mean(0) for clip in clips])
            continue
        words = embedder.text([name.replace("_", " ") for name in names])
        rows = []
        for clip in clips:
            logits = clip.unit @ words.T / embedder.temperature
            exponents = np.exp(logits - logits.max(1, keepdims=True))
            rows.append((exponents / exponents.sum(1, keepdims=True)).mean(0))
        posteriors[kind] = np.stack(rows)
    return posteriors


def kl_divergence(reference: np.ndarray, other: np.ndarray, exclusive: bool = True) -> float:
    """Mean Kullback-Leibler divergence in nats of rows of posteriors, reference to other.

    Args:
        exclusive: each row is one distribution; else each entry is the posterior of a tag of its own, and the
            divergence is the mean over tags.
    """
    p, q = (np.clip(np.asarray(x, dtype=np.float64), _FLOOR, 1 - _FLOOR) for x in (reference, other))
    if exclusive:
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        return float((p * np.log(p / q)).sum(1).mean())
    return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean())


def tags_part(
    embedder: Embedder,
    sets: Mapping[str, Sequence[ClipEmbedding]],
    probe: InstrumentProbe | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """KL of tag posteriors from each held-out take to the clip that was made from its caption and chart.

    Args:
        sets: embeddings of clips in one order: "held_out" (the renders), "generated", and as references
            "reconstruction", "noise", .... Renders of other takes are added as "shuffled".
        probe: of instruments, on `embedder`'s features; see `tag_posteriors`.

    Returns:
        The figures (name -> genre, mood, instruments, in nats), and the rows.

    Raises:
        ValueError: no "held_out", or sets of unequal length.
    """
    if "held_out" not in sets:
        raise ValueError(f"the sets are {', '.join(sets) or 'none'}: KL needs held_out to start from.")
    _check_lengths(sets, len(sets["held_out"]), "held-out takes")
    posteriors = {name: tag_posteriors(embedder, clips, probe) for name, clips in sets.items()}
    reference = posteriors.pop("held_out")
    order = derangement(len(sets["held_out"]), seed)
    posteriors["shuffled"] = {kind: values[order] for kind, values in reference.items()}
    figures: dict[str, Any] = {
        name: {
            kind: kl_divergence(reference[kind], tags[kind], exclusive=probe is None or kind != "instruments")
            for kind in TAGS
        }
        for name, tags in posteriors.items()
    }
    rows = []
    if "generated" in figures:
        told = "; ".join(
            f"{name.replace('_', ' ')} " + ", ".join(f"{kl[kind]:.2f}" for kind in TAGS)
            for name, kl in figures.items()
        )
        rows = [
            verdict(
                f"KL of tag posteriors ({embedder.name}), render to clip: {', '.join(TAGS)}",
                f"< {MOST_KL:g} nats each",
                told,
                max(figures["generated"].values()) < MOST_KL,
            )
        ]
    return {"embedder": embedder.name, **figures}, rows


def _check_lengths(sets: Mapping[str, Sequence[Any]], count: int, of: str) -> None:
    wrong = {name: len(clips) for name, clips in sets.items() if len(clips) != count}
    if wrong or not count:
        raise ValueError(f"there are {count} {of}, but clips: {wrong}; give one clip for each in every set.")


__all__ = [
    "different_groups",
    "kl_divergence",
    "retrieval",
    "tag_posteriors",
    "tags_part",
    "text_part",
]
