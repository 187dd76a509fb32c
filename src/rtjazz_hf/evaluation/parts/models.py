"""What is measured on the models: the codec's round trip, whether the flow listens, equalities, speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rtjazz_hf.audio import FRAME_RATE

from ..measures import model_checks
from ..takes import HeldOutTake, choose_takes, looping

if TYPE_CHECKING:
    from ..run import EvaluationRun


def measure_codec(run: EvaluationRun) -> dict[str, Any]:
    """What a round trip keeps of held-out takes, un-quantised and through all levels of codes."""
    codec = run.pipe.codec
    clips = [take.audio(run.settings.duration) for take in run.chart_takes]
    result = {"unquantised": model_checks.codec_scores(codec, clips)}
    levels = codec.config.num_codebooks
    result["codes"] = model_checks.codec_scores(codec, clips, levels)
    for name, scores, least in (
        ("un-quantised", result["unquantised"], 0.95),
        ("codes", result["codes"], 0.6),
    ):
        label = name
        if "bits_per_second" in scores:
            label = f"{levels} levels, {scores['bits_per_second'] / 1000:.1f} kbit/s"
        run.row(
            f"codec round trip of {len(clips)} takes, {label}",
            f"pitch >= {least}",
            f"pitch {scores['semitone_correlation']:.3f} (by contrast alone, the stricter measure, "
            f"{scores['pitch_correlation']:.3f}, worst {scores['pitch_correlation_worst']:.3f}), mel "
            f"{scores['mel_distance_db']:.2f} dB, SI-SDR {scores['si_sdr_db']:.1f} dB",
            scores["semitone_correlation"] >= least,
        )
    return result


def _latents(run: EvaluationRun, take: HeldOutTake, seconds: float) -> torch.Tensor:
    codec, channels = run.pipe.codec, run.pipe.transformer.config.latent_dim
    audio = torch.from_numpy(take.audio(seconds))[None].to(next(codec.parameters()).device)
    return codec.encode(audio, return_codes=False).latents[0, :channels].float()  # (latent_dim, frames)


def measure_flow(run: EvaluationRun) -> dict[str, Any]:
    """Held-out loss with the true chart, a rotated one and none."""
    transformer = run.pipe.transformer
    if transformer.config.num_channels != transformer.config.latent_dim:
        run.row("the flow listens", "true < none < rotated", "not measured: the flow has cue channels", None)
        return {"skipped": "the flow has cue channels; call model_checks.validation_gap with whole states"}
    takes = run.chart_takes
    latents = [_latents(run, take, min(run.settings.duration, 12.0)) for take in takes]
    # The first bars may hold a lead-in without harmony: start 2 s in where there is room.
    block = transformer.config.block_frames
    starts = [min(2 * FRAME_RATE, max(0, state.shape[-1] - 4 * block)) for state in latents]
    gap = model_checks.validation_gap(
        transformer,
        [state[:, start:] for state, start in zip(latents, starts)],
        [take.lead_sheet for take in takes],
        start_frames=starts,
        seed=run.settings.seed,
    )
    low = next(iter(gap["by_time"].items()))
    run.row(
        "the flow listens: held-out loss with true chart, no chart, rotated chart",
        "true < none < rotated",
        f"{gap['true']:.4f} < {gap['none']:.4f} < {gap['rotated']:.4f}; gap {gap['gap']:.4f} "
        f"(at t = {low[0]}: {low[1]['true']:.3f}, {low[1]['none']:.3f}, {low[1]['rotated']:.3f})",
        gap["true"] < gap["none"] < gap["rotated"],
    )
    return gap


def measure_splits(run: EvaluationRun) -> dict[str, Any]:
    """Decoding in pieces against whole, the cached path against the uncached one."""
    take = choose_takes(run.takes, 1, 10.0)[0]
    latents = _latents(run, take, 10.0)[None]
    seed = run.settings.seed
    decode = max(
        model_checks.decode_split_difference(run.pipe.codec, latents, seed=seed + i) for i in range(3)
    )
    cached = model_checks.cache_difference(run.pipe, looping(take.lead_sheet), take.caption, seed=seed)
    dtype = str(next(run.pipe.transformer.parameters()).dtype).removeprefix("torch.")
    for name, value in (("decode in random splits versus whole", decode), ("cached versus uncached", cached)):
        run.row(name, "max difference <= 1e-4 in float32", f"{value:.1e} ({dtype})", value <= 1e-4)
    return {"decode": decode, "cache": cached, "dtype": dtype}


def measure_seeds(run: EvaluationRun) -> dict[str, Any]:
    """The same seed twice, and a batch against its rows one by one."""
    takes = (choose_takes(run.takes, 4, run.settings.duration) * 4)[:4]
    result = model_checks.seed_differences(
        run.pipe,
        [take.caption for take in takes],
        [looping(take.lead_sheet) for take in takes],
        steps=run.settings.steps,
        guidance_scale=run.settings.guidance_scale,
        seed=run.settings.seed,
    )
    run.row("same seed twice", "identical", f"{result['same_seed']:.1e}", result["same_seed"] == 0.0)
    batch = result["batch_vs_single"]
    run.row("batch of 4 versus four singles", "equal to 1e-4", f"{batch:.1e}", batch <= 1e-4)
    return result


def measure_speed(run: EvaluationRun) -> dict[str, Any]:
    """Wall time over audio time of live streaming."""
    result = model_checks.real_time_factor(
        run.pipe,
        run.settings.speed_duration,
        steps=run.settings.steps,
        guidance_scale=run.settings.guidance_scale,
    )
    run.row(
        f"real-time factor, live: {result['device']}, {result['torch_threads']} threads, {result['dtype']}",
        "<= 0.20, codec included",
        f"{result['real_time_factor']:.3f}; block {result['block_ms_p50']:.0f} ms "
        f"(P95 {result['block_ms_p95']:.0f})",
        result["real_time_factor"] <= 0.20,
    )
    return result
