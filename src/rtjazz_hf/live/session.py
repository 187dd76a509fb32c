"""A live session: an endless iterator of sound that follows its listener's wishes from block to block."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..audio import FRAME_RATE, SAMPLE_RATE
from ..band import Band
from ..band.parts import tell
from ..charts import chart_text
from ..music import LeadSheet
from ..runtime.offload import replaced_forward
from ..runtime.threads import torch_threads, usable_cores
from .block import LiveBlock
from .context import play_context
from .engine import BlockStream
from .plan import Plan, aligned_plan, changed_plan, check_at, next_plan
from .stats import LiveMeter, LiveStats

if TYPE_CHECKING:
    from .models import LiveModels

_WORTH_A_THREAD = 50_000_000  # weights of a flow


class LiveSession:
    """Endless music from a pipeline; made by `RealTimeJazzPipeline.live`.

        with pipe.live("bossa nova, nylon guitar", tempo=120, seed=1) as session:
            for block in session:
                play(block.audio)
                session.update(tempo=126)

    All state is the session's: many can run on one pipeline. One thread listens (iterates); any other may
    call `update`, `stats`, `save` and `close`. A block in the making is not touched by an update.

    Args:
        models: what it plays with, shared with other sessions.
        plan: what the first block follows.
        window_frames: how far back a block hears, in frames.
        first_block_frames: frames of the first block; from there they double up to the plan's size.
        overlap: a worker thread lets a finished block join the cache, which is the first pass of the next
            block's flow, while this one is decoded. None: where there are cores for both and the flow is large.
        context: a clip `(2, samples)` at 48 kHz to go on from.
        started: when the making of the session began, by `time.perf_counter`.

    Attributes:
        context_audio: the context `(2, samples)` up to where the first block sets in, its last 0.1 s crossing
            over into what the codec makes of it: it and the blocks, one after another, have no click. None
            without a context.
    """

    def __init__(
        self,
        models: LiveModels,
        plan: Plan,
        *,
        window_frames: int,
        first_block_frames: int | None = None,
        overlap: bool | None = None,
        context: np.ndarray | None = None,
        started: float | None = None,
    ):
        self.models = models
        self.window_frames = window_frames
        self._plan = plan
        self._frame = 0  # where the next block starts
        self._largest: int | None = first_block_frames  # block that may be made yet; None: any
        self._seeds, self._generator = plan.seeds, torch.Generator().manual_seed(plan.seed)
        stream = models.prepare_stream([self._generator], plan.block_frames, window_frames, plan.transformer)
        self._rows = (stream, 0)  # the stream that the session's state is in, and its row there
        self._band: Band | None = None  # of the block that was begun last; None: no notes are told
        self.context_audio = None if context is None else play_context(stream, context)

        self._update_lock = threading.Lock()  # one update at a time
        self._making = threading.Lock()  # held while a block is made, or the state read
        self._lock = threading.Lock()  # of all that follows; never held for long
        self._effect_frame = 0  # where a plan that is put in place now takes effect
        self._updates: list[float] = []  # when those were called that no block has obeyed yet
        self._claimed = self._closed = False
        overlap = second_thread_pays(models) if overlap is None else overlap
        overlap = overlap and replaced_forward(models.codec) is None  # an offloaded one sends the transformer away
        self._worker = ThreadPoolExecutor(1, "rtjazz-overlap") if overlap else None
        self._meter = LiveMeter(0.0 if started is None else time.perf_counter() - started)

    # -- what the listener sees ----------------------------------------------------------------------------
    @property
    def sampling_rate(self) -> int:
        return SAMPLE_RATE

    @property
    def lead_sheet(self) -> LeadSheet:
        """The lead sheet that the next block follows."""
        return self._plan.due(self._effect_frame).lead_sheet

    @property
    def coming(self) -> tuple[float, LeadSheet] | None:
        """What waits for its bar line: when that is, in seconds of the session, and the lead sheet from there on."""
        plan = self._plan
        return None if plan.due(self._effect_frame) is plan else (plan.starts, plan.lead_sheet)

    @property
    def asked(self) -> dict[str, Any]:
        """What the listener fixed, and the settings, by the names of `update`; the rest is the band leader's."""
        return dict(self._plan.asked)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What there was to say about a melody and the chart when the last of them was asked for."""
        return self._plan.said

    @property
    def block_frames(self) -> int:
        """Frames of the next block."""
        frames, largest = self._plan.frames_from(self._effect_frame), self._largest
        return frames if largest is None else min(frames, largest)

    @property
    def seed(self) -> int:
        """The seed of the noise, as last given."""
        return self._plan.seed

    @property
    def position(self) -> float:
        """Seconds of sound made so far: where the next block starts."""
        return self._frame / FRAME_RATE

    @property
    def seconds_ahead(self) -> float:
        """Seconds of sound that were handed out and are still to be heard; see `LiveStats` for the clock."""
        return self._meter.seconds_ahead

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def stream(self) -> BlockStream:
        """The session's own stream of one row; in a group it is taken out of the batch."""
        stream, row = self._rows
        if stream.batch_size > 1:
            stream = stream.select(row)
            self._rows = (stream, 0)
        return stream

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the music: iteration stops after a block in the making. Closing twice is closing once."""
        self._closed = True

    def __iter__(self) -> LiveSession:
        return self

    def __next__(self) -> LiveBlock:
        """The next block.

        Raises:
            RuntimeError: another thread is making it; two listeners would tear the music in two.
        """
        if self._closed:
            raise StopIteration
        if not self._claim():
            raise RuntimeError(
                "another thread is making this session's next block: let one thread iterate and hand its "
                "blocks on, or open a session for each"
            )
        try:
            return make_blocks([self._begin()])[0]
        finally:
            self._release()

    def update(self, *, at: str | None = None, **changes: Any) -> None:
        """Change what is played, from the next block on that has not begun; a new chart, from the next bar line on.

        Takes prompt, chords, tempo, key, mood, instruments, lead_sheet, guidance_scale, num_inference_steps,
        block_frames, seed, adapter, adapter_scale, melody and parts, as `RealTimeJazzPipeline.live` does; None as the
        adapter or the melody is none. The band answers from the next beat on. The model of another mix of adapters is
        made here, in the caller's thread, unless it is at hand;
        the block that is being made, or played, does not wait for it. What the listener never fixed follows the
        prompt. The beat goes on: a new tempo keeps the place in the chart, and so does the chart that is played in
        another key. A new seed starts the noise anew and leaves what was played in the
        cache, so the music turns without a jump; the lead sheet stays until something else has it rewritten.

        Args:
            at: "bar": all of the update begins at the next bar line, a new chart from its top. "now": at the next
                block, a new chart from its top at the present place in the bar. By default "bar" where `chords` or
                `lead_sheet` bring another chart, else "now". What waits is `coming`; of several updates that wait
                the newest of each wish counts, and what comes without waiting leaves them waiting. Blocks before the
                line are made smaller, and the first that follows the update begins up to five frames before it.

        Raises:
            ValueError: an unknown field or value; the music plays on as it was.
        """
        called = self._meter.clock()
        if self._closed:
            raise ValueError("the session is closed: nothing is played that could be changed; open another")
        check_at(at)
        if not changes:
            return
        with self._update_lock:
            before = self._plan
            if isinstance(changes.get("chords"), Path):  # a name alone opens nothing: it may have come from anywhere
                changes = {**changes, "chords": chart_text(changes["chords"])}
            plan = changed_plan(self.models, before, changes)
            charted = bool(changes.keys() & {"chords", "lead_sheet"})
            both = before.before is not None and not charted  # what waits, and what is played until then
            now = changed_plan(self.models, before.before, changes) if both else None
            with self._lock:
                self._plan = plan = next_plan(before, plan, at, self._effect_frame, charted, now)
                waits = self.coming is not None and (charted or at == "bar")
                if not waits:
                    self._updates.append(called)
        if waits:
            self.models.warm_up_to(plan.before.block_frames)
        for text in plan.said:
            tell(text, None)

    def align(self, tempo: float, beat: float, at: float) -> LeadSheet:
        """Follow a clock: from the next block on that has not begun, play at `tempo` beats per minute, with
        `beat` of the lead sheet (0 is the first downbeat) at `at` seconds of the session.

        Unlike `update(tempo=...)` it may move the beat, the band leader writes nothing anew, and it does not
        count as a control in the statistics.

        Returns:
            the lead sheet, as it stands then.

        Raises:
            ValueError: the tempo is out of range, `beat` or `at` is not finite; the music plays on as it was.
        """
        with self._update_lock, self._lock:
            self._plan = aligned_plan(self._plan, tempo, beat, at, self._effect_frame)
        return self.lead_sheet

    def playback_started(self) -> None:
        """Tell that the listener, who had waited to have some sound in hand, begins to play it now."""
        self._meter.playback_started()

    def stats(self) -> LiveStats:
        """Block times, real-time factor, under-runs and answers to controls so far."""
        return self._meter.stats()

    def save(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """Write all that the music depends on to one file; `RealTimeJazzPipeline.resume_live` plays on from
        it as this session does.

        Weights are not in it, statistics are not either. See `snapshot.save_session`.
        """
        from .snapshot import save_session

        save_session(self, path, overwrite)

    def to_bytes(self) -> bytes:
        """What `save` writes, for a database or a network; `RealTimeJazzPipeline.resume_live` takes it too."""
        from .snapshot import session_bytes

        return session_bytes(self)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a session is not copied or pickled, as it holds the models and a place in time: session.to_bytes() is "
            "what it plays on from, by pipe.resume_live(...), in another process too"
        )

    # -- one block -----------------------------------------------------------------------------------------
    def _claim(self) -> bool:
        """Become the one who makes the next block; False if somebody else is at it."""
        with self._lock:
            if self._claimed:
                return False
            self._claimed = True
        self._making.acquire()
        return True

    def _release(self) -> None:
        self._making.release()
        self._claimed = False

    def _begin(self) -> Take:
        """Fix what the next block follows: an update from now on waits for the one after it."""
        asked = self._meter.clock()
        with self._lock:
            plan, frames = self._plan.due(self._frame), self.block_frames
            updates, self._updates = self._updates, []
            self._effect_frame = self._frame + frames
        generator = self._generator
        if plan.seeds != self._seeds:
            generator = torch.Generator().manual_seed(plan.seed)
        band = self._band = self._led(plan)
        return Take(self, plan, self._frame, frames, asked, updates, generator, generator.get_state(), band)

    def _led(self, plan: Plan) -> Band | None:
        """The band, which from the next block on goes by `plan`."""
        parts = plan.asked.get("parts", self.models.default_parts)
        if not self.models.transformer.config.score_dim or (parts == "free" and plan.tune is None):
            return None
        seconds = self._frame / FRAME_RATE
        told = {"melody": plan.tune, "parts": parts, "seed": plan.seed, "phrases": plan.phrases}
        if self._band is None:
            return Band(plan.lead_sheet, **told, seconds=seconds)
        self._band.follow(plan.lead_sheet, seconds, **told)
        return self._band

    def _undo(self, take: Take) -> None:
        """As if `take` had not begun: the same block can be asked for again."""
        take.generator.set_state(take.generator_state)
        with self._lock:
            self._updates = take.updates + self._updates
            self._effect_frame = self._frame

    def _finish(self, take: Take, rows: tuple[BlockStream, int], audio: np.ndarray, latents: np.ndarray):
        self._rows, self._generator, self._seeds = rows, take.generator, take.plan.seeds
        self._frame += take.frames
        if self._largest is not None:
            self._largest = None if take.frames >= take.plan.block_frames else 2 * take.frames
        seconds = self._meter.handed_out(take.asked, take.frames / FRAME_RATE, take.updates)
        with self._lock:
            if self._plan.before is not None and self._frame >= self._plan.starts * FRAME_RATE:
                self._plan = dataclasses.replace(self._plan, before=None)
        start = take.start_frame / FRAME_RATE
        sheet = take.plan.lead_sheet
        where = sheet.position(max(start, take.plan.starts))
        notes = () if take.band is None else take.band.write(sheet.beat_at(self._frame / FRAME_RATE)).notes
        return LiveBlock(
            audio=audio,
            start=start,
            bar=take.plan.bars + where.bar,
            beat=where.beat,
            chord=where.chord,
            tempo=sheet.tempo,
            latents=latents,
            seconds=seconds,
            lead_sheet=sheet,
            notes=notes,
            chart_bar=where.bar,
            chorus=take.plan.chorus_of(where.bar),
        )


@dataclass(frozen=True, eq=False)
class Take:
    """A block that has begun: whose it is, what it follows, where it starts."""

    session: LiveSession
    plan: Plan
    start_frame: int
    frames: int
    asked: float
    updates: list[float]
    generator: torch.Generator
    generator_state: torch.Tensor
    band: Band | None

    @property
    def batch_key(self) -> tuple:
        """Takes of one key can be made in one batch."""
        stream = self.session._rows[0]
        return (
            self.frames,
            self.plan.num_inference_steps,
            self.plan.guidance_scale != 1.0,
            self.session.window_frames,
            stream.decoder_state is None,
            id(self.plan.transformer),
        )


def make_blocks(takes: Sequence[Take], threads: int | None = None) -> list[LiveBlock]:
    """Make blocks of one `batch_key` in one batch, with so many of torch's threads; by default as many as pay.

    If that fails, every session stands where it stood; save that a block which has joined the cache already,
    in a worker thread, cannot leave it: then the sessions end.
    """
    models = takes[0].session.models
    with models.making(takes[0].frames) if threads is None else torch_threads(threads):
        return _make_blocks(models, takes)


def _make_blocks(models: LiveModels, takes: Sequence[Take]) -> list[LiveBlock]:
    sessions, plans = [take.session for take in takes], [take.plan for take in takes]
    worker, joining = sessions[0]._worker, False
    try:
        stream = _joined(sessions)
        stream.play_on(plans[0].transformer)
        features = [
            take.plan.led_in(
                models.prepare_features([take.plan.lead_sheet], take.start_frame, take.frames, [take.band]),
                take.start_frame,
            )
            for take in takes
        ]
        scales = [plan.guidance_scale for plan in plans]
        state = stream.denoise(
            models.prepare_latents([take.generator for take in takes], takes[0].frames),
            torch.cat([plan.style for plan in plans]),
            torch.cat(features),
            num_inference_steps=plans[0].num_inference_steps,
            guidance_scale=scales if len(set(scales)) > 1 else scales[0],
        )
        # Nothing is done beside the first sound of a session, which is waited for.
        if worker is not None and stream.decoder_state is not None:
            stream.append_later(state, worker)
            joining = True
        latents = stream.without_cues(state)
        audio = stream.decode(latents).cpu().numpy()
        if not joining:
            stream.append_later(state)
    except BaseException:  # an interrupt too
        for take in takes:
            take.session._undo(take)
            if joining:
                take.session.close()
        raise
    latents = latents.cpu().numpy()
    return [
        take.session._finish(take, (stream, row), audio[row], latents[row]) for row, take in enumerate(takes)
    ]


def _joined(sessions: Sequence[LiveSession]) -> BlockStream:
    """A stream with a row for each session: the one they are in together, or a new one."""
    stream = sessions[0]._rows[0]
    together = all(session._rows == (stream, row) for row, session in enumerate(sessions))
    if together and stream.batch_size == len(sessions):
        return stream
    streams = [session.stream for session in sessions]
    return streams[0] if len(streams) == 1 else BlockStream.stack(streams)


def second_thread_pays(models: LiveModels) -> bool:
    """Whether a second thread that computes would find cores that the first leaves idle, and a flow so large that the
    threads wait little for each other. Measured on two idle cores: blocks of mini come no sooner and take a sixth more
    of the processor, those of base come a twelfth sooner."""
    count = models.thread_count
    if count is None:
        return False  # the decoder is queued on the device; a thread would only fight for the interpreter
    weights = sum(weight.numel() for weight in models.transformer.parameters())
    return weights >= _WORTH_A_THREAD and usable_cores() >= 2 * count


@contextmanager
def standing_still(session: LiveSession) -> Iterator[BlockStream]:
    """The session's stream, to be read, while no block of it is made; waits for one in the making.

    A copy where it shares a batch: taken out of it, all of its rows would have to be put together anew.
    """
    with session._making:
        stream, row = session._rows
        stream.settle()
        yield stream if stream.batch_size == 1 else stream.select(row)
