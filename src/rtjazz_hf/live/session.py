"""A live session: an endless iterator of sound that follows its listener's wishes from block to block."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..audio import FRAME_RATE
from ..music import Chord, LeadSheet
from .engine import BlockStream

if TYPE_CHECKING:
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline
    from ..prompts import Prompt

# What the band leader writes a lead sheet from, beside the prompt.
_WRITTEN_FIELDS = frozenset({"chords", "tempo", "key", "mood", "instruments"})
UPDATE_FIELDS = (
    "prompt",
    *sorted(_WRITTEN_FIELDS),
    "lead_sheet",
    "guidance_scale",
    "num_inference_steps",
)
_REMEMBERED_BLOCKS = 4096  # block times kept for the percentiles: half an hour of 36-frame blocks


@dataclass(frozen=True)
class LiveBlock:
    """One block of sound, and where in the music it starts.

    Attributes:
        audio: float32 `(2, samples)` at 48 kHz.
        start: time of its first sample since the session's start, in seconds.
        bar: bar number, 1 for the first; beat: beat in the bar, 1.0 for the downbeat.
        chord: the chord that sounds at the start.
        tempo: beats per minute.
        latents: float32 `(latent_dim, frames)`, as the codec's decoder took them.
        seconds: time it took to make.
    """

    audio: np.ndarray
    start: float
    bar: int
    beat: float
    chord: Chord
    tempo: float
    latents: np.ndarray
    seconds: float

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.latents.shape[-1] / FRAME_RATE


@dataclass(frozen=True)
class LiveStats:
    """How a session keeps up.

    Attributes:
        blocks: blocks made. audio_seconds: their length in all.
        p50, p95, p99: percentiles of the time a block takes to make, in seconds.
        real_time_factor: time to make over length; below 1 keeps up.
        under_runs: blocks that took longer to make than they last: each is a gap for a listener without a
        buffer.
    """

    blocks: int
    audio_seconds: float
    p50: float
    p95: float
    p99: float
    real_time_factor: float
    under_runs: int

    def to_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Plan:
    """Everything a block follows. Immutable: an update puts a new one in its place, whole or not at all."""

    asked: dict[str, Any]  # what the listener fixed, by field name; the rest is the band leader's
    style: torch.Tensor  # (1, style_dim)
    lead_sheet: LeadSheet
    guidance_scale: float
    num_inference_steps: int


class LiveSession:
    """Endless music from a pipeline; made by `RealTimeJazzPipeline.live`.

        with pipe.live("bossa nova, nylon guitar", tempo=120, seed=1) as session:
            for block in session:
                play(block.audio)
                session.update(tempo=126)

    All state is the session's: many can run on one pipeline. `update` may be called from another thread
    than the one that iterates; a block in the making is not touched by it.
    """

    def __init__(
        self,
        pipe: RealTimeJazzPipeline,
        prompt: Prompt,
        *,
        block_frames: int,
        window_frames: int,
        guidance_scale: float,
        num_inference_steps: int,
        seed: int = 0,
        **asked: Any,
    ):
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed {seed!r}: choose a whole number from 0 to {2**63 - 1}")
        self.pipe = pipe
        self.seed = seed
        self._update_lock = threading.Lock()  # one update at a time
        self._lock = threading.Lock()  # of the two that follow; never held for long
        self._effect_frame = 0  # where a plan that is put in place now takes effect
        self._closed = False
        self._times: deque[float] = deque(maxlen=_REMEMBERED_BLOCKS)
        self._blocks = self._under_runs = 0
        self._making_seconds = 0.0
        settings = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
        asked = {name: value for name, value in asked.items() if value is not None}
        self._plan = self._make_plan({"prompt": prompt, **asked, **settings}, block_frames=block_frames,
                                     window_frames=window_frames)  # fmt: skip
        self.stream = BlockStream(
            pipe.transformer,
            pipe.codec,
            pipe.scheduler,
            generators=[torch.Generator().manual_seed(seed)],
            block_frames=block_frames,
            window_frames=window_frames,
            device=pipe._execution_device,
        )

    # -- what the listener sees ----------------------------------------------------------------------------
    @property
    def sampling_rate(self) -> int:
        return self.pipe.sampling_rate

    @property
    def lead_sheet(self) -> LeadSheet:
        """The lead sheet that the next block follows."""
        return self._plan.lead_sheet

    @property
    def position(self) -> float:
        """Seconds of sound made so far: where the next block starts."""
        return self.stream.frame / FRAME_RATE

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the music: iteration stops after a block in the making."""
        self._closed = True

    def __iter__(self) -> LiveSession:
        return self

    def __next__(self) -> LiveBlock:
        if self._closed:
            raise StopIteration
        started = time.perf_counter()
        start_frame, frames = self.stream.frame, self.stream.block_frames
        with self._lock:  # an update from another thread waits for the next block
            plan, self._effect_frame = self._plan, start_frame + frames
        features = self.pipe.prepare_features([plan.lead_sheet], start_frame, frames)
        state = self.stream.denoise(
            self.stream.prepare_latents(),
            plan.style,
            features,
            num_inference_steps=plan.num_inference_steps,
            guidance_scale=plan.guidance_scale,
        )
        latents = self.stream.without_cues(state)
        audio = self.stream.decode(latents)[0].cpu().numpy()
        self.stream.append(state)
        seconds = time.perf_counter() - started
        self._times.append(seconds)
        self._blocks += 1
        self._making_seconds += seconds
        self._under_runs += seconds > frames / FRAME_RATE
        start = start_frame / FRAME_RATE
        where = plan.lead_sheet.position(start)
        return LiveBlock(
            audio=audio,
            start=start,
            bar=where.bar,
            beat=where.beat,
            chord=where.chord,
            tempo=plan.lead_sheet.tempo,
            latents=latents[0].cpu().numpy(),
            seconds=seconds,
        )

    def update(self, **changes: Any) -> None:
        """Change what is played, from the next block on.

        Takes prompt, chords, tempo, key, mood, instruments, lead_sheet, guidance_scale and
        num_inference_steps, as `RealTimeJazzPipeline.live` does. What the listener never fixed follows the
        prompt. The beat goes on: a new tempo keeps the place in the chart, a new chart starts from its top
        at the present place in the bar.

        Raises:
            ValueError: an unknown field or value; the music plays on as it was.
        """
        if unknown := sorted(set(changes) - set(UPDATE_FIELDS)):
            raise ValueError(f"cannot update {', '.join(unknown)}; choose from {', '.join(UPDATE_FIELDS)}")
        if missing := sorted(name for name, value in changes.items() if value is None):
            raise ValueError(
                f"{', '.join(missing)} is None; give a value, or leave it out to keep what is played"
            )
        if not changes:
            return
        with self._update_lock:
            before = self._plan
            plan = self._make_plan(changes, before)
            with self._lock:
                if plan.lead_sheet is not before.lead_sheet:
                    seconds = self._effect_frame / FRAME_RATE
                    sheet = continue_in_phase(plan.lead_sheet, before.lead_sheet, seconds)
                    plan = dataclasses.replace(plan, lead_sheet=sheet)
                self._plan = plan

    def stats(self) -> LiveStats:
        """Block times, real-time factor and under-runs so far."""
        times = list(self._times) or [math.nan]
        p50, p95, p99 = (float(np.percentile(times, q)) for q in (50, 95, 99))
        audio_seconds = self._blocks * self.stream.block_frames / FRAME_RATE
        return LiveStats(
            blocks=self._blocks,
            audio_seconds=audio_seconds,
            p50=p50,
            p95=p95,
            p99=p99,
            real_time_factor=self._making_seconds / audio_seconds if audio_seconds else math.nan,
            under_runs=self._under_runs,
        )

    # -- plans ---------------------------------------------------------------------------------------------
    def _make_plan(self, changes: dict[str, Any], before: _Plan | None = None, **settings: Any) -> _Plan:
        asked = {} if before is None else dict(before.asked)
        if "lead_sheet" in changes:  # it says everything itself, and wins over what would have it written
            changes = {name: value for name, value in changes.items() if name not in _WRITTEN_FIELDS}
            asked = {name: value for name, value in asked.items() if name not in _WRITTEN_FIELDS}
        elif "lead_sheet" in asked and changes.keys() & _WRITTEN_FIELDS - {"tempo"}:
            # from here on the band leader writes again, at the tempo that is being played
            del asked["lead_sheet"]
            asked["tempo"] = before.lead_sheet.tempo
        asked.update(changes)
        self.pipe.check_inputs(**asked, **settings)
        if not isinstance(asked.get("lead_sheet"), (LeadSheet, type(None))):
            raise ValueError(f"lead_sheet {asked['lead_sheet']!r}: a live session follows one LeadSheet")
        if isinstance(asked["prompt"], list):
            raise ValueError(
                "a live session has one prompt, not a list; for a mix give {'bebop': 0.7, 'bossa': 0.3}"
            )
        if before is None or "prompt" in changes:
            style = self.pipe.encode_prompt(asked["prompt"])
        else:
            style = before.style
        if before is None or changes.keys() & {"prompt", "lead_sheet", *_WRITTEN_FIELDS}:
            lead_sheet = self._write_lead_sheet(asked, changes, before)
        else:
            lead_sheet = before.lead_sheet
        return _Plan(
            asked, style, lead_sheet, float(asked["guidance_scale"]), int(asked["num_inference_steps"])
        )

    def _write_lead_sheet(
        self, asked: dict[str, Any], changes: dict[str, Any], before: _Plan | None
    ) -> LeadSheet:
        if "lead_sheet" in asked:
            sheet = asked["lead_sheet"] if before is None or "lead_sheet" in changes else before.lead_sheet
            return sheet.with_tempo(changes["tempo"]) if "tempo" in changes else sheet
        wishes = {name: asked.get(name) for name in ("prompt", *_WRITTEN_FIELDS)}
        return self.pipe.prepare_lead_sheet(**wishes, seeds=[self.seed])[0]


def continue_in_phase(sheet: LeadSheet, before: LeadSheet, seconds: float) -> LeadSheet:
    """`sheet`, taking over from `before` at `seconds` without a jump of the beat.

    The same chart goes on where it was; another one starts from its top, at the place in the bar that was
    reached.
    """
    beat = before.beat_at(seconds)
    if (sheet.spans, sheet.beats_per_bar, sheet.loops) != (before.spans, before.beats_per_bar, before.loops):
        beat = beat % before.beats_per_bar % sheet.beats_per_bar
    return dataclasses.replace(sheet, beat_offset=beat - seconds * sheet.tempo / 60.0)
