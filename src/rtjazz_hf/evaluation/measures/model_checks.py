"""Measures on the models rather than on sound: does the flow listen, do split and cached paths agree, how
fast."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...band import conditions_of
from ...flow import flow_matching_loss
from ...music.score_features import without_chords_and_notes
from .metrics import SAMPLE_RATE, mel_distance, pitch_correlation, semitone_correlation, si_sdr

if TYPE_CHECKING:
    from rtjazz_hf import RealTimeJazzCodec, RealTimeJazzFlowTransformer, RealTimeJazzPipeline
    from rtjazz_hf.music import LeadSheet

HOP_LENGTH = 640
GAP_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
GAP_ROTATIONS = (1, 3, 6, 8)


# --- codec ----------------------------------------------------------------------------------------


@torch.no_grad()
def round_trip(
    codec: RealTimeJazzCodec, audio: np.ndarray, num_codebooks: int | None = None, low_delay: bool = False
) -> tuple[np.ndarray, torch.Tensor]:
    """Encode and decode `(2, samples)`; un-quantised where `num_codebooks` is None, and with nothing measured ahead
    where `low_delay`.

    Returns:
        The audio that came back, of the same length, and the latents `(1, latent_dim, frames)` before the
        codes.
    """
    sample = torch.as_tensor(audio, dtype=torch.float32)[None].to(next(codec.parameters()).device)
    state = codec.init_encoder_state(low_delay=low_delay)
    encoded = codec.encode(sample, state=state, flush=True, return_codes=False)
    if num_codebooks is None:
        decoded = codec.decode(latents=encoded.latents)
    else:
        decoded = codec.decode(codes=codec.latents_to_codes(encoded.latents, num_codebooks))
    return decoded.audio[0, :, : audio.shape[-1]].float().cpu().numpy(), encoded.latents


def codec_scores(
    codec: RealTimeJazzCodec, clips: Sequence[np.ndarray], num_codebooks: int | None = None
) -> dict[str, Any]:
    """Pitch correlation, mel distance (dB) and SI-SDR (dB) of the round trip, means over `clips` and the
    worst pitch;
    with codes, also the bit rate and the share of each codebook that was used."""
    rows, used = [], []
    for clip in clips:
        back, latents = round_trip(codec, clip, num_codebooks)
        measures = (semitone_correlation, pitch_correlation, mel_distance, si_sdr)
        rows.append([measure(clip, back) for measure in measures])
        if num_codebooks is not None:
            used.append(codec.latents_to_codes(latents, num_codebooks)[0].cpu())
    semitones, pitch, mel, sdr = np.array(rows, dtype=np.float64).T
    scores: dict[str, Any] = {
        "clips": len(clips),
        "semitone_correlation": float(np.nanmean(semitones)),
        "pitch_correlation": float(np.nanmean(pitch)),
        "pitch_correlation_worst": float(np.nanmin(pitch)),
        "mel_distance_db": float(mel.mean()),
        "si_sdr_db": float(sdr.mean()),
    }
    if used:
        codes = torch.cat(used, dim=-1)  # (levels, frames)
        size = codec.config.codebook_size
        scores["bits_per_second"] = float(codec.bitrate(num_codebooks))
        scores["codebook_usage"] = [level.unique().numel() / size for level in codes]
    return scores


@torch.no_grad()
def decode_split_difference(
    codec: RealTimeJazzCodec, latents: torch.Tensor, splits: int = 8, seed: int = 0
) -> float:
    """Largest sample difference between latents `(1, dim, frames)` decoded whole and in random pieces."""
    whole = codec.decode(latents=latents).audio
    rng = np.random.default_rng(seed)
    frames = latents.shape[-1]
    cuts = np.sort(rng.choice(np.arange(1, frames), size=min(splits, frames - 1), replace=False)).tolist()
    pieces, state = [], None
    for start, stop in zip([0, *cuts], [*cuts, frames]):
        output = codec.decode(latents=latents[..., start:stop], state=state)
        state = output.state
        pieces.append(output.audio)
    return float((torch.cat(pieces, dim=-1) - whole).abs().max())


# --- flow -----------------------------------------------------------------------------------------


@torch.no_grad()
def validation_gap(
    transformer: RealTimeJazzFlowTransformer,
    states: Sequence[torch.Tensor],
    lead_sheets: Sequence[LeadSheet],
    *,
    start_frames: Sequence[int] | None = None,
    styles: torch.Tensor | None = None,
    block_frames: int | None = None,
    num_blocks: int = 10,
    rotations: Sequence[int] = GAP_ROTATIONS,
    channel_weights: Sequence[float] | torch.Tensor | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Held-out flow-matching loss with the true chart, a rotated chart and no chart: does the flow listen?

    "No chart" takes the chords away and leaves the beat and the band, so that the three differ in chords alone.

    Every clip is cut to `num_blocks` blocks, each of which sees the clean blocks before it, as in generation.
    Noise and times are the same for all charts; block j of clip i stands at time `GAP_TIMES[(i + j) % 5]`.

    Args:
        states: of each clip the flow's state `(channels, frames)`: normalised latents (and cues beside them).
        lead_sheets: of each clip. start_frames: the frame of its lead sheet at which each state begins.
        styles: style embeddings `(clips, style_dim)`; none by default.
        rotations: semitones; the rotated loss is the mean over them.
        channel_weights: of each channel in the mean, as in training; alike by default.

    Returns:
        true, rotated, none: mean squared error of the velocity. gap: rotated - true. gain: none - true.
        by_time: the three at each time, as {"0.1": {"true": ..., "rotated": ..., "none": ...}, ...}.
    """
    block = block_frames or transformer.config.block_frames
    starts = list(start_frames) if start_frames is not None else [0] * len(states)
    device, dtype = next(transformer.parameters()).device, next(transformer.parameters()).dtype
    generator = torch.Generator().manual_seed(seed)
    # (times, charts) sums and counts
    total = {name: torch.zeros(len(GAP_TIMES), dtype=torch.float64) for name in ("true", "rotated", "none")}
    count = torch.zeros(len(GAP_TIMES), dtype=torch.float64)
    for index, (state, sheet, start) in enumerate(zip(states, lead_sheets, starts)):
        blocks = min(num_blocks, state.shape[-1] // block)
        if blocks == 0:
            continue
        frames = blocks * block
        clean = state[None, :, :frames].float()  # (1, channels, frames)
        noise = torch.randn(clean.shape, generator=generator)
        which = (index + torch.arange(blocks)) % len(GAP_TIMES)
        t = torch.tensor(GAP_TIMES)[which]  # (blocks,)
        weight = t.repeat_interleave(block)
        noisy, target = (1 - weight) * noise + weight * clean.cpu(), clean.cpu() - noise
        score_dim = transformer.config.score_dim  # no notes are told: they would tell the chords too
        features = conditions_of(sheet, None, start, frames, score_dim)
        charts = {"true": [features], "none": [without_chords_and_notes(features)]}
        charts["rotated"] = [conditions_of(sheet.rotated(turn), None, start, frames, score_dim) for turn in rotations]
        for name, versions in charts.items():
            for version in versions:
                velocity = transformer(
                    noisy.to(device, dtype),
                    t[None].to(device),
                    lead_sheet=torch.from_numpy(version)[None].to(device, dtype),
                    style=None if styles is None else styles[index : index + 1].to(device, dtype),
                    context=clean.to(device, dtype),
                    block_frames=block,
                ).sample
                error = flow_matching_loss(velocity.cpu(), target, channel_weights, reduction="none")[0]
                per_block = error.reshape(blocks, block).mean(1).double() / len(versions)
                total[name].index_add_(0, which, per_block)
        count.index_add_(0, which, torch.ones(blocks, dtype=torch.float64))
    if not count.sum():
        raise ValueError(f"no clip is as long as one block of {block} frames; give longer states.")
    result: dict[str, Any] = {name: float(sums.sum() / count.sum()) for name, sums in total.items()}
    result["gap"] = result["rotated"] - result["true"]
    result["gain"] = result["none"] - result["true"]
    result["blocks"] = int(count.sum())
    result["by_time"] = {
        str(t): {name: float(sums[i] / count[i]) for name, sums in total.items()}
        for i, t in enumerate(GAP_TIMES)
        if count[i]
    }
    return result


@torch.no_grad()
def cache_difference(
    pipe: RealTimeJazzPipeline,
    lead_sheet: LeadSheet,
    prompt: str = "",
    num_blocks: int = 4,
    steps: int = 4,
    seed: int = 0,
) -> float:
    """Largest difference of latents between generation with the cache and without.

    Without it, every step runs the whole sequence: the clean blocks so far as `context`, as in training.
    """
    transformer, block = pipe.transformer, pipe.config.block_frames
    device, dtype = next(transformer.parameters()).device, next(transformer.parameters()).dtype
    style = pipe.encode_prompt(prompt or "jazz").to(device, dtype)
    frames = num_blocks * block
    features = pipe.prepare_features([lead_sheet], 0, frames).to(device, dtype)
    channels = transformer.config.num_channels
    noise = torch.randn((1, channels, frames), generator=torch.Generator().manual_seed(seed)).to(
        device, dtype
    )
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    played: list[list[torch.Tensor]] = []
    for cached in (True, False):
        cache = transformer.init_cache(1, max(frames, transformer.config.window_frames)) if cached else None
        done: list[torch.Tensor] = []
        for index in range(num_blocks):
            part = slice(index * block, (index + 1) * block)
            latents = noise[..., part]
            scheduler.set_timesteps(steps, device=device)
            for t in scheduler.timesteps:
                if cached:
                    velocity = transformer(
                        latents, t.expand(1), lead_sheet=features[:, part], style=style, cache=cache
                    ).sample
                else:
                    # The block's own clean copy is never seen by it: any values do.
                    context = torch.cat([*done, latents], dim=-1)
                    velocity = transformer(
                        context,
                        t.expand(1, index + 1),
                        lead_sheet=features[:, : part.stop],
                        style=style,
                        context=context,
                        block_frames=block,
                    ).sample[..., part]
                latents = scheduler.step(velocity, t, latents).prev_sample
            if cached:
                transformer.append_to_cache(latents, cache)
            done.append(latents)
        played.append(done)
    return max(float((a - b).abs().max()) for a, b in zip(*played))


# --- pipeline -------------------------------------------------------------------------------------


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def seed_differences(
    pipe: RealTimeJazzPipeline,
    prompts: Sequence[str],
    lead_sheets: Sequence[LeadSheet],
    *,
    duration: float = 2.0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Largest sample differences: the same seed played twice, and a batch against its rows played one by
    one."""
    seeds = [seed + row for row in range(len(prompts))]
    options = {"duration": duration, "num_inference_steps": steps, "guidance_scale": guidance_scale}
    batch = pipe(list(prompts), lead_sheet=list(lead_sheets), generator=_generators(seeds), **options).audios
    again = pipe(list(prompts), lead_sheet=list(lead_sheets), generator=_generators(seeds), **options).audios
    singles = [
        pipe(prompt, lead_sheet=sheet, generator=_generators([row_seed])[0], **options).audios[0]
        for prompt, sheet, row_seed in zip(prompts, lead_sheets, seeds)
    ]
    return {
        "same_seed": float(np.abs(batch - again).max()),
        "batch_vs_single": max(float(np.abs(row - single).max()) for row, single in zip(batch, singles)),
    }


def real_time_factor(
    pipe: RealTimeJazzPipeline,
    seconds: float = 20.0,
    block_frames: int | None = None,
    *,
    prompt: str = "medium swing piano trio",
    steps: int | None = None,
    guidance_scale: float | None = None,
    warm_up: int = 10,
) -> dict[str, Any]:
    """Wall time over audio time of live streaming, codec decode included; below 1 keeps up.

    The first `warm_up` blocks are not counted: caches fill, kernels are chosen.
    """
    times: list[float] = []
    audio_seconds = 0.0
    with pipe.live(
        prompt, block_frames=block_frames, num_inference_steps=steps, guidance_scale=guidance_scale, seed=0
    ) as session:
        for _ in range(warm_up):
            next(session)
        while audio_seconds < seconds:
            begun = time.perf_counter()
            block = next(session)
            times.append(time.perf_counter() - begun)
            audio_seconds += block.audio.shape[-1] / SAMPLE_RATE
    return {
        "real_time_factor": sum(times) / audio_seconds,
        "block_ms_p50": 1000 * float(np.percentile(times, 50)),
        "block_ms_p95": 1000 * float(np.percentile(times, 95)),
        "block_ms_p99": 1000 * float(np.percentile(times, 99)),
        "audio_seconds": audio_seconds,
        "torch_threads": torch.get_num_threads(),
        "device": str(pipe.device),
        "dtype": str(next(pipe.transformer.parameters()).dtype).removeprefix("torch."),
    }
