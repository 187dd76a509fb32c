"""Our pipelines as they are played: block times of live sessions, the gain of the cache, and a run in real time."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtjazz_hf.audio import FRAME_RATE
from rtjazz_hf.evaluation.measures.metrics import join_jumps
from rtjazz_hf.pipeline_realtime_jazz import RealTimeJazzPipeline
from rtjazz_hf.runtime.threads import BlockThreads

from .settings import FIRST_BLOCK, SWAP_SECONDS, UNCACHED_WINDOW, Case
from .timing import block_figures, peak_memory, synchronize, timed

if TYPE_CHECKING:
    from rtjazz_hf.live import LiveSession

PROMPT = "medium swing piano trio"
# Each start with other words, so that no embedding can have been kept from the one before.
FIRST_PROMPTS = (
    "slow ballad, muted trumpet and brushes",
    "fast bebop sax quartet",
    "bossa nova with nylon guitar",
    "modal jazz, vibes and walking bass",
    "late night organ trio",
)
MIN_BLOCKS = 8  # a round that is cut short because it is slow has so many, all rounds together
UNCACHED_BLOCKS = 3


def load_pipeline(case: Case) -> RealTimeJazzPipeline:
    """The pipeline of a case, in its type, on its device, with its attention."""
    engine = case.engine if torch.device(case.device).type == "cpu" and not case.compile else "torch"
    pipe = RealTimeJazzPipeline.from_pretrained(case.source, dtype=case.dtype, engine=engine).to(case.device)
    pipe.set_progress_bar_config(disable=True)
    if case.threads is not None:  # no choice for sessions and clips
        pipe.models.threads = pipe.models.clip_threads = BlockThreads((case.threads,))
    pipe.transformer.set_attn_implementation(case.attention)
    if case.compile:
        pipe.transformer.compile()
    return pipe


def live_session(pipe: RealTimeJazzPipeline, case: Case, **changes: Any) -> LiveSession:
    options = {
        "block_frames": case.block_frames,
        "window_frames": case.window_frames,
        "guidance_scale": case.guidance_scale,
        "num_inference_steps": case.steps[0],
        "seed": case.seed,
        **changes,
    }
    return pipe.live(options.pop("prompt", PROMPT), **options)


def fill_window(session: LiveSession, pipe: RealTimeJazzPipeline, case: Case) -> None:
    """Play until the context is full, in the cheapest way: a block's time does not depend on what was played."""
    session.update(num_inference_steps=1, guidance_scale=1.0)
    for _ in range(-(-window_frames(pipe, case) // case.block_frames)):
        next(session)
    set_steps(session, pipe, case, case.steps[0])


def set_steps(session: LiveSession, pipe: RealTimeJazzPipeline, case: Case, steps: int | None) -> None:
    defaults = pipe.generation_defaults
    guidance = defaults["guidance_scale"] if case.guidance_scale is None else case.guidance_scale
    session.update(num_inference_steps=steps or defaults["num_inference_steps"], guidance_scale=guidance)


def window_frames(pipe: RealTimeJazzPipeline, case: Case) -> int:
    return case.window_frames or pipe.generation_defaults["window_frames"]


class StreamContender:
    """A pipeline that plays with one block size, each of its step counts in turn.

    A block's time is all of it: conditions, steps of the flow, the block's way into the cache, and the decoder, until
    its samples are in memory. Times are of a full context.
    """

    def __init__(self, case: Case):
        self.case = case
        self.duration = case.block_frames / FRAME_RATE
        self.load_seconds, self.pipe = timed(lambda: load_pipeline(case), case.device)
        default = self.pipe.generation_defaults["num_inference_steps"]
        self.steps = list(dict.fromkeys(steps or default for steps in case.steps))
        self.times: dict[int, list[float]] = {steps: [] for steps in self.steps}
        self.first_audio: list[float] = []

    def warm_up(self) -> None:
        if self.case.main:
            self.first_audio = [self._time_to_first_audio(prompt) for prompt in FIRST_PROMPTS]
        self.session = live_session(self.pipe, self.case)
        fill_window(self.session, self.pipe, self.case)
        next(self.session)

    def round(self) -> None:
        wanted = self.case.seconds / self.case.rounds
        least = -(-MIN_BLOCKS // self.case.rounds)
        for steps, times in self.times.items():
            set_steps(self.session, self.pipe, self.case, steps)
            played = spent = 0.0
            count = 0
            while played < wanted and (spent < wanted or count < least):
                seconds, _ = timed(lambda: next(self.session), self.case.device)
                times.append(seconds)
                played, spent, count = played + self.duration, spent + seconds, count + 1

    def result(self) -> dict[str, Any]:
        self.session.close()
        defaults = self.pipe.generation_defaults
        guidance = self.case.guidance_scale
        result: dict[str, Any] = {
            "parameters": count_parameters(self.pipe),
            "load_seconds": self.load_seconds,
            "shipped_steps": defaults["num_inference_steps"],
            "guidance_scale": defaults["guidance_scale"] if guidance is None else guidance,
            "window_frames": window_frames(self.pipe, self.case),
            "engine": self.pipe.engine,
            "engine_precision": self.pipe.transformer.engine_precision,
            "steps": {str(steps): block_figures(times, self.duration) for steps, times in self.times.items()},
            "peak_memory_mb": peak_memory(self.case.device),  # before the uncached way asks for more
        }
        if self.case.main:
            result["first_audio_ms"] = {
                "block_frames": FIRST_BLOCK,
                "first": 1000 * self.first_audio[0],  # of the process: nothing is warm yet
                "median": 1000 * statistics.median(self.first_audio[1:]),
                "max": 1000 * max(self.first_audio[1:]),
            }
            result["cache"] = compare_with_uncached(self.pipe, self.case)
        return result

    def _time_to_first_audio(self, prompt: str) -> float:
        """Seconds from the wish to the first block's samples; the models are loaded."""

        def begin() -> None:
            with live_session(self.pipe, self.case, prompt=prompt, block_frames=FIRST_BLOCK) as session:
                next(session)

        return timed(begin, self.case.device)[0]


def compare_with_uncached(pipe: RealTimeJazzPipeline, case: Case) -> dict[str, Any]:
    """A block of the flow with the cache, and the same with its context run through the network at every step.

    Ten seconds of context; no decoder and, so that both ways have one row, no guidance. With the cache: the steps,
    and the pass that lets the block join it. Without: the steps alone, over context and block. Blocks take turns.
    """
    device, frames = case.device, case.block_frames
    steps = case.steps[0] or pipe.generation_defaults["num_inference_steps"]
    context_frames = UNCACHED_WINDOW // frames * frames
    generators = [torch.Generator().manual_seed(case.seed)]
    style = pipe.encode_prompt(PROMPT)
    sheet = pipe.prepare_lead_sheet(PROMPT, seeds=[case.seed])
    stream = pipe.prepare_stream(generators, block_frames=frames, window_frames=UNCACHED_WINDOW)
    for _ in range(context_frames // frames):
        stream.append(stream.prepare_latents())
    dtype = pipe.transformer.dtype
    context = pipe.prepare_latents(generators, context_frames).to(dtype)
    features = pipe.prepare_features(sheet, 0, context_frames + frames).to(dtype)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)

    def cached() -> None:
        block_features = pipe.prepare_features(sheet, stream.frame, frames)
        latents = stream.denoise(
            stream.prepare_latents(), style, block_features, num_inference_steps=steps, guidance_scale=1.0
        )
        stream.append(latents)

    @torch.no_grad()
    def uncached() -> None:
        latents = stream.prepare_latents()
        scheduler.set_timesteps(steps, device=latents.device)
        for t in scheduler.timesteps:
            sequence = torch.cat([context, latents.to(dtype)], dim=-1)
            velocity = pipe.transformer(
                sequence, t.expand(1), lead_sheet=features, style=style.to(dtype)
            ).sample
            latents = scheduler.step(velocity[..., -frames:].float(), t, latents).prev_sample

    ways = {"cached": cached, "uncached": uncached}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(UNCACHED_BLOCKS + 1):
        for name, way in ways.items():
            seconds, _ = timed(way, device)
            if index:  # the first warms up
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "context_frames": context_frames,
        "steps": steps,
        "blocks": UNCACHED_BLOCKS,
        "cached_ms": 1000 * medians["cached"],
        "uncached_ms": 1000 * medians["uncached"],
        "times_faster": medians["uncached"] / medians["cached"],
    }


class EnduranceContender:
    """A run in real time: a block is made while the one before plays, then the maker waits for its turn.

    With adapters to swap, another plays every `SWAP_SECONDS`, from a block's boundary on; the joins are measured.
    """

    def __init__(self, case: Case):
        self.case = case
        self.duration = case.block_frames / FRAME_RATE
        self.pipe = load_pipeline(case)
        self.adapters = [f"adapter_{number}" for number in range(len(case.swap))]
        for name, source in zip(self.adapters, case.swap):
            self.pipe.load_lora_weights(source, adapter_name=name)

    def warm_up(self) -> None:
        self.session = live_session(self.pipe, self.case)
        fill_window(self.session, self.pipe, self.case)
        next(self.session)
        self.times: list[float] = []
        self.longest_gap = 0.0

    def round(self) -> None:
        """All of it, once."""
        self.memory_before = peak_memory(self.case.device)
        self._play(60 * self.case.minutes)

    def _play(self, length: float) -> None:
        """For so many seconds of the clock."""
        self.swaps, sound = 0, []
        ends = time.monotonic() + length
        block_ends = time.monotonic() + self.duration
        least = len(self.times) + 1
        while len(self.times) < least or block_ends < ends:
            if self.adapters and len(self.times) * self.duration >= self.swaps * SWAP_SECONDS:
                self.session.update(adapter=self.adapters[self.swaps % len(self.adapters)])
                self.swaps += 1
            seconds, block = timed(lambda: next(self.session), self.case.device)
            self.times.append(seconds)
            if self.adapters:
                sound.append(block.audio)
            now = time.monotonic()
            self.longest_gap = max(self.longest_gap, now - block_ends)
            if now < block_ends:
                time.sleep(block_ends - now)
            # After an under-run the listener has heard a gap, and the clock starts again.
            block_ends = max(now, block_ends) + self.duration
        synchronize(self.case.device)
        if sound:
            samples = sound[0].shape[-1]
            self.joins = join_jumps(np.concatenate(sound, axis=1), samples * np.arange(1, len(sound)))

    def result(self) -> dict[str, Any]:
        self.session.close()
        swapping = {"swaps": self.swaps, "joins": self.joins} if self.adapters else {}
        return {
            **swapping,
            "minutes": self.case.minutes,
            **block_figures(self.times, self.duration),
            "peak_memory_mb": peak_memory(self.case.device),
            "peak_memory_before_mb": self.memory_before,  # a run that grows holds on to something
        }


class BesideContender(EnduranceContender):
    """Turns in real time, while busy processes run: how late blocks come, and what threads a session chooses."""

    def round(self) -> None:
        self._play(self.case.seconds)

    def result(self) -> dict[str, Any]:
        self.session.close()
        return {
            **block_figures(self.times, self.duration),
            "ms_longest_gap": 1000 * self.longest_gap,
            "threads": self.pipe.models.thread_count,  # of the last block
            "peak_memory_mb": peak_memory(self.case.device),
        }


def count_parameters(pipe: RealTimeJazzPipeline) -> int:
    models = (pipe.codec, pipe.transformer, pipe.style_encoder)
    return sum(parameter.numel() for model in models for parameter in model.parameters())


__all__ = [
    "BesideContender",
    "EnduranceContender",
    "StreamContender",
    "compare_with_uncached",
    "live_session",
    "load_pipeline",
]
