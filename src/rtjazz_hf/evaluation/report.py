"""One report for every model: `evaluate` measures, prints a table, and writes JSON, Markdown, pictures and
sound."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtjazz_hf.audio import FRAME_RATE, SAMPLE_RATE, write_audio

from . import metrics, model_checks, obedience, pictures
from .takes import HeldOutTake, choose_takes, load_held_out, looping, steady
from .writing import to_markdown, to_plain, to_table, write_text

if TYPE_CHECKING:
    from rtjazz_hf import RealTimeJazzPipeline

PARTS = ("codec", "flow", "splits", "seeds", "charts", "drift", "speed")
_BATCH = 4  # charts generated at once


@dataclass
class _Evaluation:
    """What every part works with, and where it leaves its rows."""

    pipe: RealTimeJazzPipeline
    takes: list[HeldOutTake]
    out_dir: Path
    num_takes: int
    duration: float
    long_duration: float
    speed_duration: float
    steps: int | None
    guidance_scale: float | None
    seed: int
    save_audio: bool
    say: Callable[[str], None]
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    def row(self, what: str, asked: str, measured: str, ok: bool | None) -> None:
        self.rows.append({"what": what, "asked": asked, "measured": measured, "ok": ok})

    def generate(
        self, prompts: list[str], sheets: list[Any], duration: float, seeds: list[int]
    ) -> list[np.ndarray]:
        """Clips `(2, samples)`, a few at once."""
        clips: list[np.ndarray] = []
        for start in range(0, len(prompts), _BATCH):
            part = slice(start, start + _BATCH)
            output = self.pipe(
                prompts[part],
                duration=duration,
                lead_sheet=sheets[part],
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
            )
            clips += list(output.audios)
            self.say(f"  {len(clips)} of {len(prompts)} clips of {duration:g} s played")
        return clips


def evaluate(
    pipe: RealTimeJazzPipeline,
    takes: str | os.PathLike | Iterable[Any] | None,
    out_dir: str | os.PathLike,
    *,
    num_takes: int = 20,
    duration: float = 30.0,
    long_duration: float = 60.0,
    speed_duration: float = 20.0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    json_path: str | os.PathLike | None = None,
    progress: bool = True,
    only: Iterable[str] | None = None,
    save_audio: bool = True,
) -> dict[str, Any]:
    """Measure a pipeline on held-out takes.

    Args:
        takes: a folder of `training/prepare_corpus.py` (its test split is used), records of one, or None to
            compose and render new takes.
        out_dir: folder for report.json, report.md, pictures and (with `save_audio`) clips/*.flac; made if
        missing.
        num_takes: held-out takes for the codec, and charts to generate. duration: seconds of each.
        long_duration: seconds of the clips that are looked at for drift. speed_duration: seconds streamed.
        steps, guidance_scale: of generation; the pipeline's own by default.
        json_path: a further place for the JSON. progress: tell on stderr what is done, and print the table
        there.
        only: some of codec, flow, splits, seeds, charts, drift, speed.

    Returns:
        {"table": rows of what, asked, measured, ok; one entry a part with every figure; "settings"}, as in
        report.json.

    Raises:
        ValueError: for an unknown part, no takes, or lengths that make no sense.
    """
    parts = list(PARTS) if only is None else [only] if isinstance(only, str) else list(only)
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f"only names {unknown or 'nothing'}; allowed are {', '.join(PARTS)}.")
    if num_takes < 1 or not duration > 0 or not long_duration >= 2 or not speed_duration > 0:
        raise ValueError(
            f"num_takes {num_takes}, duration {duration}, long_duration {long_duration}, speed_duration "
            f"{speed_duration}: give at least one take and positive lengths (long_duration 2 s or more)."
        )
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        if progress:
            print(text, file=sys.stderr, flush=True)

    started = time.perf_counter()
    held_out = [] if parts == ["speed"] else load_held_out(takes, num_takes, seed)
    run = _Evaluation(
        pipe, held_out, out_dir, num_takes, duration, long_duration, speed_duration,
        steps, guidance_scale, seed, save_audio, say,
    )  # fmt: skip
    report: dict[str, Any] = {"settings": _settings(run, parts)}
    with _quiet(pipe):
        for part in [part for part in PARTS if part in parts]:
            say(f"{part} ...")
            begun = time.perf_counter()
            report[part] = _PART_FUNCTIONS[part](run)
            report[part]["wall_seconds"] = round(time.perf_counter() - begun, 1)
            say(f"  {report[part]['wall_seconds']} s")
    report["wall_seconds"] = round(time.perf_counter() - started, 1)
    report["table"] = run.rows
    report["pictures"] = run.pictures
    report = to_plain(report)
    text = json.dumps(report, indent=2, allow_nan=False)
    for target in [out_dir / "report.json", *([Path(json_path)] if json_path is not None else [])]:
        write_text(target, text + "\n")
    write_text(out_dir / "report.md", to_markdown(report))
    say(to_table(report["table"]))
    return report


# --- the parts ------------------------------------------------------------------------------------


def _codec(run: _Evaluation) -> dict[str, Any]:
    codec = run.pipe.codec
    clips = [take.audio(run.duration) for take in choose_takes(run.takes, run.num_takes, run.duration)]
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


def _latents(run: _Evaluation, take: HeldOutTake, seconds: float) -> torch.Tensor:
    codec = run.pipe.codec
    audio = torch.from_numpy(take.audio(seconds))[None].to(next(codec.parameters()).device)
    return codec.encode(audio, return_codes=False).latents[0].float()  # (latent_dim, frames)


def _flow(run: _Evaluation) -> dict[str, Any]:
    transformer = run.pipe.transformer
    if transformer.config.num_channels != transformer.config.latent_dim:
        run.row("the flow listens", "true < none < rotated", "not measured: the flow has cue channels", None)
        return {"skipped": "the flow has cue channels; call model_checks.validation_gap with whole states"}
    takes = choose_takes(run.takes, run.num_takes, run.duration)
    latents = [_latents(run, take, min(run.duration, 12.0)) for take in takes]
    # The first bars may hold a lead-in without harmony: start 2 s in where there is room.
    block = transformer.config.block_frames
    starts = [min(2 * FRAME_RATE, max(0, state.shape[-1] - 4 * block)) for state in latents]
    gap = model_checks.validation_gap(
        transformer,
        [state[:, start:] for state, start in zip(latents, starts)],
        [take.lead_sheet for take in takes],
        start_frames=starts,
        seed=run.seed,
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


def _splits(run: _Evaluation) -> dict[str, Any]:
    take = choose_takes(run.takes, 1, 10.0)[0]
    latents = _latents(run, take, 10.0)[None]
    decode = max(
        model_checks.decode_split_difference(run.pipe.codec, latents, seed=run.seed + i) for i in range(3)
    )
    cached = model_checks.cache_difference(run.pipe, looping(take.lead_sheet), take.caption, seed=run.seed)
    dtype = str(next(run.pipe.transformer.parameters()).dtype).removeprefix("torch.")
    for name, value in (("decode in random splits versus whole", decode), ("cached versus uncached", cached)):
        run.row(name, "max difference <= 1e-4 in float32", f"{value:.1e} ({dtype})", value <= 1e-4)
    return {"decode": decode, "cache": cached, "dtype": dtype}


def _seeds(run: _Evaluation) -> dict[str, Any]:
    takes = (choose_takes(run.takes, 4, run.duration) * 4)[:4]
    result = model_checks.seed_differences(
        run.pipe,
        [take.caption for take in takes],
        [looping(take.lead_sheet) for take in takes],
        steps=run.steps,
        guidance_scale=run.guidance_scale,
        seed=run.seed,
    )
    run.row("same seed twice", "identical", f"{result['same_seed']:.1e}", result["same_seed"] == 0.0)
    batch = result["batch_vs_single"]
    run.row("batch of 4 versus four singles", "equal to 1e-4", f"{batch:.1e}", batch <= 1e-4)
    return result


def _charts(run: _Evaluation) -> dict[str, Any]:
    takes = choose_takes(run.takes, run.num_takes, run.duration)
    sheets = [looping(take.lead_sheet) for take in takes]
    seeds = [run.seed + index for index in range(len(takes))]
    generated = run.generate([take.caption for take in takes], sheets, run.duration, seeds)
    charts, bands, render_bands = [], [], []
    for take, sheet, clip, clip_seed in zip(takes, sheets, generated, seeds):
        render = take.audio(run.duration)
        checks = metrics.sanity(clip)
        clip = np.nan_to_num(clip)
        bands.append(metrics.band_energies(clip))
        render_bands.append(metrics.band_energies(render))
        charts.append(
            {
                "take": take.name, "seed": clip_seed, "caption": take.caption,
                "genre": sheet.genre, "key": sheet.key, "tempo": sheet.tempo,
                "beats_per_bar": sheet.beats_per_bar,
                "sanity": checks,
                "band_difference_db": bands[-1] - render_bands[-1],
                **obedience.chart_scores(clip, render, sheet, take.lead_sheet),
            }
        )  # fmt: skip
        if run.save_audio:
            folder = run.out_dir / "clips"
            folder.mkdir(exist_ok=True)
            write_audio(folder / f"{take.name}-generated.flac", clip, overwrite=True)
            write_audio(folder / f"{take.name}-render.flac", render, overwrite=True)
    _draw_charts(run, takes, sheets, generated, charts, np.array(bands), np.array(render_bands))
    return _sum_up_charts(run, charts)


def _sum_up_charts(run: _Evaluation, charts: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the charts, and their rows of the table."""
    number = len(charts)
    differences = np.array([c["band_difference_db"] for c in charts])
    band_mean = differences.mean(0)
    summary = {
        "sane": sum(c["sanity"]["ok"] for c in charts),
        "rms_dbfs": [
            min(c["sanity"]["rms_dbfs"] for c in charts),
            max(c["sanity"]["rms_dbfs"] for c in charts),
        ],
        "longest_silence_s": max(c["sanity"]["longest_silence_s"] for c in charts),
        "band_difference_db": band_mean,
        "clips_within_6_db": int((np.abs(differences).max(1) <= 6).sum()),
        **obedience.mean_chart_scores(charts),
    }
    low, high = summary["rms_dbfs"]
    run.row(
        f"{number} held-out charts at {run.duration:g} s: sanity",
        "no NaN, no clip, -30..-12 dBFS RMS, no half-second of silence",
        f"{summary['sane']} of {number} pass; RMS {low:.1f}..{high:.1f} dBFS, longest silence "
        f"{summary['longest_silence_s']:.2f} s",
        summary["sane"] == number,
    )
    worst = int(np.abs(band_mean).argmax())
    run.row(
        "octave bands to 16 kHz, generated minus render (mean over charts)",
        "within 6 dB",
        f"{band_mean.min():+.1f}..{band_mean.max():+.1f} dB, most at {metrics.OCTAVE_CENTRES[worst]:g} Hz; "
        f"every band of {summary['clips_within_6_db']} of {number} clips",
        bool(np.abs(band_mean).max() <= 6),
    )
    score = summary["chord_score"]
    run.row(
        f"chord obedience over {summary['chord_charts']} charts that change chord",
        "score >= 0.3, goal 0.6",
        f"{score:.2f} (generated {summary['chord_generated']:.3f}, rotated {summary['chord_rotated']:.3f}, "
        f"render {summary['chord_render']:.3f})",
        score >= 0.3,
    )
    run.row(
        "beat obedience: F within 70 ms",
        ">= 0.70",
        f"{summary['beat_f']:.3f} (renders {summary['beat_f_render']:.3f}, half a beat off "
        f"{summary['beat_f_offset']:.3f}); tempo error {100 * summary['tempo_error']:.1f}%",
        summary["beat_f"] >= 0.70,
    )
    return {"summary": summary, "charts": charts}


def _draw_charts(
    run: _Evaluation,
    takes: list[HeldOutTake],
    sheets: list[Any],
    generated: list[np.ndarray],
    charts: list[dict[str, Any]],
    bands: np.ndarray,
    render_bands: np.ndarray,
) -> None:
    shown = sorted({0, len(takes) // 2, len(takes) - 1})
    clips = [
        (
            f"{takes[i].name}, {sheets[i].genre}, {sheets[i].tempo:.0f} bpm",
            np.nan_to_num(generated[i][:, : 20 * SAMPLE_RATE]),
            takes[i].audio(min(run.duration, 20.0)),
            sheets[i],
        )
        for i in shown
    ]
    for path in (
        pictures.plot_beside_renders(clips, run.out_dir / "spectrograms.png"),
        pictures.plot_bands(bands, render_bands, run.out_dir / "bands.png"),
        pictures.plot_obedience(charts, run.out_dir / "obedience.png"),
    ):
        run.pictures.append(path.name)


def _drift(run: _Evaluation) -> dict[str, Any]:
    takes = choose_takes(run.takes, _BATCH, run.duration)
    sheets = [steady(take.lead_sheet) for take in takes]
    seeds = [run.seed + 100 + index for index in range(len(takes))]
    clips = run.generate([take.caption for take in takes], sheets, run.long_duration, seeds)
    stretch = min(10.0, run.long_duration / 2)
    each = [
        obedience.drift(np.nan_to_num(clip), sheet, stretch=stretch) for clip, sheet in zip(clips, sheets)
    ]
    if run.save_audio:
        (run.out_dir / "clips").mkdir(exist_ok=True)
        for take, clip in zip(takes, clips):
            write_audio(run.out_dir / "clips" / f"{take.name}-long.flac", np.nan_to_num(clip), overwrite=True)
    band_mean = np.mean([one["band_db"] for one in each], axis=0)
    change = float(np.nanmean([one["chord_change"] for one in each]))
    first, last = (float(np.nanmean([one[key] for one in each])) for key in ("chord_first", "chord_last"))
    run.row(
        f"last {stretch:g} s versus first of {len(clips)} clips of {run.long_duration:g} s: bands (mean)",
        "within 3 dB",
        f"{band_mean.min():+.1f}..{band_mean.max():+.1f} dB (single clips up to "
        f"{max(one['max_band_db'] for one in each):.1f} dB)",
        bool(np.abs(band_mean).max() <= 3),
    )
    run.row(
        "the same: chord obedience",
        "at most 10 points lower",
        f"{100 * first:.0f}% -> {100 * last:.0f}% ({100 * change:+.0f} points)",
        change >= -0.10,
    )
    return {"band_db": band_mean, "chord_change": change, "clips": each}


def _speed(run: _Evaluation) -> dict[str, Any]:
    result = model_checks.real_time_factor(
        run.pipe, run.speed_duration, steps=run.steps, guidance_scale=run.guidance_scale
    )
    run.row(
        f"real-time factor, live: {result['device']}, {result['torch_threads']} threads, {result['dtype']}",
        "< 0.5, codec included",
        f"{result['real_time_factor']:.3f}; block {result['block_ms_p50']:.0f} ms "
        f"(P95 {result['block_ms_p95']:.0f})",
        result["real_time_factor"] < 0.5,
    )
    return result


_PART_FUNCTIONS: dict[str, Callable[[_Evaluation], dict[str, Any]]] = {
    "codec": _codec,
    "flow": _flow,
    "splits": _splits,
    "seeds": _seeds,
    "charts": _charts,
    "drift": _drift,
    "speed": _speed,
}


def _settings(run: _Evaluation, parts: list[str]) -> dict[str, Any]:
    defaults = run.pipe.generation_defaults
    steps = run.steps if run.steps is not None else defaults["num_inference_steps"]
    guidance = run.guidance_scale if run.guidance_scale is not None else defaults["guidance_scale"]
    return {
        "parts": " ".join(parts),
        "held_out_takes": len(run.takes),
        "steps": steps,
        "guidance_scale": guidance,
        "block_frames": defaults["block_frames"],
        "window_frames": defaults["window_frames"],
        "seed": run.seed,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _quiet(pipe: RealTimeJazzPipeline) -> Any:
    """No bar per step inside the parts, and the pipeline's own setting back afterwards."""
    if not hasattr(pipe, "set_progress_bar_config"):
        return nullcontext()

    @contextmanager
    def quiet():
        before = dict(getattr(pipe, "_progress_bar_config", {}))
        pipe.set_progress_bar_config(**{**before, "disable": True})
        try:
            yield
        finally:
            pipe.set_progress_bar_config(**before)

    return quiet()
