"""
What a flow model made of a codec's latents, beside what the codec keeps: both masters in one table.

A codec serves the ear and the flow. Normalised latents of two codecs differ in how much of them can be predicted
at all, so losses compare within one codec only: what compares is the relative gap between a rotated chart and the
true one, and obedience in sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtjazz_hf.audio import FRAME_RATE

from ...corpus.transcription import has_transcriber
from .model_checks import codec_scores, round_trip, validation_gap
from .notes import SCORED_ROLES, note_scores
from .obedience import chart_scores, mean_chart_scores

if TYPE_CHECKING:
    from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzFlowTransformer
    from rtjazz_hf.corpus.latent_store import StoredTake

    from ..takes import HeldOutTake

START_FRAMES = 2 * FRAME_RATE  # the first bars may hold a lead-in without harmony
NUM_BLOCKS = 10


def latent_gap(
    model: RealTimeJazzFlowTransformer,
    takes: Sequence[StoredTake],
    channel_weights: torch.Tensor | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """`validation_gap` on stored takes, up to ten blocks of each, and the gaps relative to the true chart's loss.

    Args:
        channel_weights: `(channels,)`, zero for what is not to count (cues); alike by default.

    Returns:
        As `validation_gap`, and relative_gap: (rotated - true) / true, over all times and in each of by_time.
    """
    from rtjazz_hf.corpus.latent_store import flow_state

    length = NUM_BLOCKS * model.config.block_frames
    starts = [min(START_FRAMES, max(0, take.num_frames - length)) for take in takes]
    crops = [take.crop(start, min(length, take.num_frames - start)) for take, start in zip(takes, starts)]
    gap = validation_gap(
        model,
        [flow_state(crop) for crop in crops],
        [take.lead_sheet for take in takes],
        start_frames=starts,
        styles=torch.stack([take.text[0] for take in takes]),
        num_blocks=NUM_BLOCKS,
        channel_weights=None if channel_weights is None else channel_weights.cpu(),
        seed=seed,
    )
    for losses in (gap, *gap["by_time"].values()):
        losses["relative_gap"] = (losses["rotated"] - losses["true"]) / losses["true"]
    return gap


def flow_side(
    model: RealTimeJazzFlowTransformer, takes: Sequence[StoredTake], weights: torch.Tensor, seed: int = 0
) -> dict[str, Any]:
    """`latent_gap` over the codec's latents alone, weighted as in training, so that a model with cue channels
    stands beside one without; and, where there are cues, over all channels (`with_cues`)."""
    is_latent = torch.arange(len(weights), device=weights.device) < model.config.latent_dim
    result = latent_gap(model, takes, weights * is_latent, seed)
    if model.config.cue_channels:
        result["with_cues"] = latent_gap(model, takes, weights, seed)
    return result


def codec_side(
    codec: RealTimeJazzCodec, takes: Sequence[HeldOutTake], seconds: float, codes: bool = False
) -> dict[str, Any]:
    """What the round trip keeps of held-out takes: `codec_scores`, and `obedience` of what comes back, which is the
    most that a flow on these latents can have; through all levels of codes instead where `codes`."""
    renders = [take.audio(seconds) for take in takes]
    levels = codec.config.num_codebooks if codes else None
    backs = [round_trip(codec, render, levels)[0] for render in renders]
    charts = [chart_scores(back, clip, take.lead_sheet) for take, back, clip in zip(takes, backs, renders)]
    return {
        **codec_scores(codec, renders, levels),
        "obedience": mean_chart_scores(charts),
        "notes": notes_heard(backs, takes),
        "notes_render": notes_heard(renders, takes),
    }


def notes_heard(clips: Sequence[np.ndarray], takes: Sequence[HeldOutTake]) -> dict[str, float]:
    """F1 of the notes of each role that an outside transcriber hears in clips of `takes`, means over those that have
    some; empty where it is not installed, or no take has a score."""
    scored = [pair for pair in zip(clips, takes) if pair[1].score is not None]
    if not scored or not has_transcriber():
        return {}
    heard = [note_scores(clip, take.score.rows(take.lead_sheet)[0]) for clip, take in scored]
    found = {role: [scores[f"{role}_f1"] for scores in heard if f"{role}_f1" in scores] for role in SCORED_ROLES}
    return {role: float(np.mean(each)) for role, each in found.items() if each}


def sound_side(clips: Sequence[np.ndarray], takes: Sequence[HeldOutTake], seconds: float) -> dict[str, Any]:
    """Obedience of clips that were played from the looping lead sheets of `takes`, `mean` and chart by chart, and what
    is heard of their notes."""
    from ..takes import looping

    charts = []
    for clip, take in zip(clips, takes):
        scores = chart_scores(clip, take.audio(seconds), looping(take.lead_sheet), take.lead_sheet)
        charts.append(
            {"take": take.name, "genre": take.lead_sheet.genre, "tempo": take.lead_sheet.tempo, **scores}
        )
    return {"mean": mean_chart_scores(charts), "charts": charts, "notes": notes_heard(clips, takes)}


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None or np.isnan(value) else format(value, form)


def _notes(heard: dict[str, float] | None) -> str:
    return " / ".join(_number((heard or {}).get(role), ".2f") for role in SCORED_ROLES)


def _losses(losses: dict[str, Any] | None) -> tuple[str, str]:
    """true / rotated / none, and the relative gap in per cent."""
    if losses is None:
        return "-", "-"
    three = " / ".join(_number(losses[name], ".4f") for name in ("true", "rotated", "none"))
    return three, f"{_number(100 * losses['relative_gap'], '+.2f')}%"


def probe_table(results: Sequence[dict[str, Any]], time: str = "0.1") -> str:
    """Results of `training/probe_latents.py` as a Markdown table: a row a kind of latents, and the renders' last."""
    heads = ["latents", "channels", "s a step (core-s)", "loss: true / rotated / no chart", "gap",
             f"at t = {time}", "gap", "chord obedience", "chord rate (rotated chart)", "beat F",
             "notes: lead / bass / comp", "round trip: chord rate", "beat F", "notes", "pitch",
             "by contrast", "mel dB", "SI-SDR dB"]  # fmt: skip
    rows = [heads, ["---"] * len(heads)]
    for result in results:
        losses, codec = result["validation"], result["codec"]
        sound, ceiling = result["sound"]["mean"], codec["obedience"]
        channels = str(result["latent_dim"]) + (
            f" + {result['cue_channels']}" if result["cue_channels"] else ""
        )
        rows.append([
            result["name"], channels, f"{result['seconds_per_step']:.2f} ({result['core_seconds_per_step']:.2f})",
            *_losses(losses), *_losses(losses["by_time"].get(time)),
            _number(sound["chord_score"], ".2f"),
            f"{_number(sound['chord_generated'])} ({_number(sound['chord_rotated'])})", _number(sound["beat_f"]),
            _notes(result["sound"].get("notes")), _number(ceiling["chord_generated"]), _number(ceiling["beat_f"]),
            _notes(codec.get("notes")),
            _number(codec["semitone_correlation"]), _number(codec["pitch_correlation"]),
            _number(codec["mel_distance_db"], ".2f"), _number(codec["si_sdr_db"], ".1f"),
        ])  # fmt: skip
    if results:
        sound = results[0]["sound"]["mean"]
        last = [
            "renders",
            *["-"] * 7,
            _number(sound["chord_render"]),
            _number(sound["beat_f_render"]),
            _notes(results[0]["codec"].get("notes_render")),
            *["-"] * 7,
        ]
        rows.append(last)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


__all__ = ["codec_side", "flow_side", "latent_gap", "probe_table", "sound_side"]
