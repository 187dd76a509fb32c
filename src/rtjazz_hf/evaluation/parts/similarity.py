"""What is generated beside held-out takes, by embeddings: FAD, text and tags, instruments, seeds, training takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..measures.diversity import TrainIndex, diversity_part, group_by, neighbours_part
from ..measures.embeddings import ClipEmbedding, caption_class
from ..measures.frechet import frechet_part
from ..measures.instrument_probe import find_probe
from ..measures.presence import MutedPair, choose_mutes, presence_part, stem_pairs
from ..measures.text_match import tags_part, text_part
from ..takes import HeldOutTake, choose_takes, held_out_takes, played_anew

if TYPE_CHECKING:
    from ..measures.embeddings import Embedder
    from ..run import EvaluationRun

LEAST_CLIPS = 4  # of a set whose distribution is looked at
TRAIN_INDEX = "train-index.safetensors"  # in the folder of the clips
_STEM_TAKES = 4  # composed for the instrument probe's reference
_NEIGHBOURS = 20  # clips held against the training takes


def measure_similarity(run: EvaluationRun) -> dict[str, Any]:
    """FAD, text-audio score and retrieval, KL of tags; with our tower, and with CLAP where the user has one."""
    result = {"tower": _with_embedder(run, run.embedder)}
    if run.clap is not None:
        result["clap"] = _with_embedder(run, run.clap)
    return result


def _with_embedder(run: EvaluationRun, embedder: Embedder) -> dict[str, Any]:
    kinds = ("generated", "held_out", "reconstruction", "noise")
    sets = {kind: run.embedded(kind, embedder) for kind in kinds}
    captions = [take.caption for take in run.chart_takes]
    classes = [caption_class(take.lead_sheet) for take in run.chart_takes]
    text, rows = text_part(embedder, sets, captions, classes, run.settings.seed)
    run.add_rows(rows)
    probe = find_probe(run.pipe, run.embedder) if embedder is run.embedder else None
    tags, rows = tags_part(embedder, sets, probe, run.settings.seed)
    run.add_rows(rows)
    name = "" if embedder is run.embedder else f" ({embedder.name})"
    scores = {kind.replace(", ", "_"): one for kind, one in text.items() if isinstance(one, dict)}
    scores["shuffled"] = scores.pop("held_out_shuffled")
    run.reference(f"text-audio score{name}", **{kind: one["score"] for kind, one in scores.items()})
    if text["groups"]:
        found = {kind: one["retrieval_of_text"] for kind, one in scores.items()}
        run.reference(f"text retrieval among 8{name}", **found)
    for tag in ("genre", "mood", "instruments"):
        kls = {kind: one[tag] for kind, one in tags.items() if isinstance(one, dict)}
        run.reference(f"KL of {tag} to the render, nats{name}", held_out=0.0, **kls)
    return {"fad": _frechet(run, embedder, sets, name), "text": text, "tags": tags}


def _frechet(
    run: EvaluationRun, embedder: Embedder, sets: dict[str, list[ClipEmbedding]], name: str
) -> dict[str, Any]:
    """FAD of all charts; and of a few that were played from another take's chart, in sets of their size."""
    others = run.embedded("held_out_b", embedder)
    least = min(len(others), len(run.chart_takes))
    if least < LEAST_CLIPS:
        run.row(
            f"FAD ({embedder.name})",
            "<= 2 x that of two disjoint held-out sets",
            f"not measured: {len(run.chart_takes)} charts and {len(others)} other held-out takes of that length, where "
            f"{LEAST_CLIPS} of each are needed",
            None,
        )
        return {}
    figures, rows = frechet_part({**sets, "held_out_b": others}, embedder.name, run.settings.seed)
    run.add_rows(rows)
    yardstick = max(figures["yardstick"], 1e-12)
    shown = {kind: value / yardstick for kind, value in figures["to_held_out"].items()}
    few = min(run.settings.shuffled_takes, least)
    if few >= LEAST_CLIPS:
        small = {kind: sets[kind][:few] for kind in ("generated", "held_out")}
        small |= {"held_out_b": others, "shuffled": run.embedded("shuffled", embedder)[:few]}
        shuffled, _ = frechet_part(small, embedder.name, run.settings.seed)
        figures["shuffled"] = shuffled
        shown["shuffled"] = shuffled["to_held_out"]["shuffled"] / max(shuffled["yardstick"], 1e-12)
    run.reference(f"FAD, of that of two held-out sets{name}", **shown)
    return figures


def measure_instruments(run: EvaluationRun) -> dict[str, Any]:
    """Asked instruments heard and muted ones gone, where the model comes with an instrument probe."""
    probe = find_probe(run.pipe, run.embedder)
    if probe is None:
        run.row(
            "asked instrument heard, muted one gone",
            ">= 80% each",
            "not measured: the model has no style_encoder/instrument_probe.safetensors",
            None,
        )
        return {"skipped": "no instrument probe"}
    settings = run.settings
    seconds = min(settings.mute_seconds, settings.duration)
    generated = run.generated()
    mutes = choose_mutes(run.chart_sheets, probe, seconds, settings.seed)
    places = [place for place, name in enumerate(mutes) if name is not None][: settings.mute_takes]
    muted = run.play(
        [run.chart_takes[place] for place in places],
        [run.chart_sheets[place].without(mutes[place]) for place in places],
        "muted",
        seconds,
        places,
    )
    pairs = [
        MutedPair(mutes[place], generated[place].audio(seconds), clip.audio(), run.chart_sheets[place])
        for place, clip in zip(places, muted)
    ]
    kinds = ("generated", "held_out", "reconstruction", "noise")
    sets = {kind: run.embedded(kind) for kind in kinds}
    figures, rows = presence_part(
        probe, run.embedder, pairs, _stem_pairs(run, seconds), sets, run.chart_sheets
    )
    run.add_rows(rows)
    for key in ("heard", "absent"):
        run.reference(
            f"bands, players {key}", **{kind: bands[key] for kind, bands in figures["bands"].items()}
        )
    return figures


def _stem_pairs(run: EvaluationRun, seconds: float) -> list[MutedPair]:
    """Rendered takes with and without each player; none where nothing can be rendered."""
    from rtjazz_hf.corpus.renderer import RendererUnavailable

    try:
        takes = held_out_takes(_STEM_TAKES, run.settings.seed, min_seconds=seconds, stems=True)
    except (RendererUnavailable, ImportError) as error:
        run.say(f"  without rendered pairs: {error}")
        return []
    return stem_pairs(takes, seconds)


def measure_diversity(run: EvaluationRun) -> dict[str, Any]:
    """Do seeds differ, and is it new: distances between seeds of a chart, and to the nearest training take."""
    settings = run.settings
    seconds = min(settings.mute_seconds, settings.duration)
    takes = run.chart_takes[: settings.seed_takes]
    groups: list[list[ClipEmbedding]] = [[] for _ in takes]
    for turn in range(settings.seeds):
        seeds = [1000 * turn + place for place in range(len(takes))]
        if turn == 0:
            clips = run.generated(len(takes))
        else:
            clips = run.play(takes, run.chart_sheets[: len(takes)], f"seed-{turn}", seconds, seeds)
        for group, clip in zip(groups, clips):
            group.append(run.embedder(clip.audio(seconds)))
    anew = _played_anew(run, len(takes), seconds)
    others = _long_enough(run, run.takes, seconds)
    classes = [caption_class(take.lead_sheet) for take in others]
    of_a_kind = group_by([run.embedder(take.audio(seconds)) for take in others], classes)
    name = "takes of one genre and band"
    diversity, rows = diversity_part(groups, anew) if anew else diversity_part(groups, of_a_kind, name)
    run.add_rows(rows)
    diversity["takes_of_a_kind"] = diversity_part(groups, of_a_kind, name)[0]["real"]
    run.reference("distance between seeds", generated=diversity["generated"], held_out=diversity["real"])
    return {"seeds": diversity, "neighbours": _neighbours(run, seconds)}


def _played_anew(run: EvaluationRun, number: int, seconds: float) -> list[list[ClipEmbedding]]:
    """Renders of the first charts, as many of each as there are seeds; none where nothing can be rendered."""
    from rtjazz_hf.corpus.renderer import RendererUnavailable

    try:
        return [
            [
                run.embedder(played_anew(sheet, seconds, 1000 * turn + place))
                for turn in range(run.settings.seeds)
            ]
            for place, sheet in enumerate(run.chart_sheets[:number])
        ]
    except (RendererUnavailable, ImportError) as error:
        run.say(f"  without charts rendered anew: {error}")
        return []


def _neighbours(run: EvaluationRun, seconds: float) -> dict[str, Any]:
    if not run.train_takes:
        run.row(
            "distance to the nearest training take",
            ">= 0.8 x that of held-out takes",
            "not measured: no training takes; give --takes, the folder that the model was trained on",
            None,
        )
        return {"skipped": "no training takes"}
    cache = run.store.folder / TRAIN_INDEX
    cache.parent.mkdir(parents=True, exist_ok=True)
    index = TrainIndex.from_takes(run.train_takes, run.embedder, run.settings.train_takes, cache)
    num = min(_NEIGHBOURS, len(run.chart_takes))
    sets = {
        "generated": [clip.audio(seconds) for clip in run.generated(num)],
        "held_out": [take.audio(seconds) for take in run.chart_takes[:num]],
    }
    figures, rows = neighbours_part(index, run.embedder, sets)
    run.add_rows(rows)
    medians = {kind: figures[kind]["median"] for kind in sets}
    run.reference("distance to the nearest training window", **medians)
    return figures


def _long_enough(run: EvaluationRun, takes: list[HeldOutTake], seconds: float) -> list[HeldOutTake]:
    return [take for take in choose_takes(takes, len(takes), seconds) if take.seconds >= seconds]


def mean_text_score(embedder: Embedder, clips: list[ClipEmbedding], captions: list[str]) -> float:
    """Mean cosine of clips and the captions they were asked with."""
    texts = embedder.text(captions)
    return float(np.mean([clip.whole @ text for clip, text in zip(clips, texts)]))
