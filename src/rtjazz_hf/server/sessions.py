"""The engine: one thread plays all live sessions in batches, and clips in the time that they leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..audio import FRAME_RATE, SAMPLE_RATE
from ..live.latency import measure_block_seconds
from .admission import BlockTimes, why_strained
from .door import UNKNOWN, Door, Waiting
from .kept import KeptSessions, state_of
from .metrics import Metrics
from .notes import clip_midi, read_melody
from .playing import SPARE, PlayingLoop
from .schemas import ClipRequest, Start, Update, wishes
from .seats import BlockQueue, Clip, Seat, Unavailable, is_draining, mix_key
from .settings import ServerSettings

if TYPE_CHECKING:
    from ..live import LiveSession
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

log = logging.getLogger("rtjazz.server")

_SWITCH_SECONDS = 0.001
_CLIP_QUEUE = 16  # blocks


class SessionEngine(PlayingLoop, Door):
    """All that plays on one pipeline.

    Live sessions are stepped together when one of them has less than `settings.buffer` seconds of sound in
    hand. Whom there is room for, the `Door` says. A clip is a session without a clock: its blocks are made
    when no live block is due soon. `open`, `update` and `make_clip` block and are for worker threads, `admit` is for
    the event loop.
    """

    def __init__(self, pipe: RealTimeJazzPipeline, settings: ServerSettings, metrics: Metrics):
        self.pipe, self.settings, self.metrics = pipe, settings, metrics
        self.block_frames = settings.block_frames or pipe.config.block_frames
        self.block_seconds = self.block_frames / FRAME_RATE
        self.group = pipe.live_group()
        self._warm_up_for_many()
        self.times = BlockTimes(self._measure())
        self._lock = threading.Lock()  # of what follows
        self._seats: dict[str, Seat] = {}
        self._opening: dict[str, tuple] = {}  # names of sessions that are being made, and their mixes
        self._line: deque[Waiting] = deque()  # who wait to be let in
        self._clips: deque[Clip] = deque()
        self._preparing = threading.Lock()  # one preparation at a time: it takes its time from the players
        self._handing = threading.Lock()  # held from a step's beginning until its blocks are in the queues
        self.kept = KeptSessions(settings.state)
        self._wake = threading.Event()
        self._stopped = False
        self._failures = 0
        self._stepped: frozenset[int] = frozenset()  # whose blocks were made last, and how often before that
        self._alike = 0
        self._measured = self._tidied = time.monotonic()
        self._untidy = False  # something ended since
        self.draining = False
        self.arriving = 0  # states that are being received; of the event loop
        # Between two operations of a block a thread that parses a chart may hold Python for so long, not for 5 ms.
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._thread = threading.Thread(target=self._run, name="rtjazz-engine", daemon=True)
        self._thread.start()

    # -- live sessions -------------------------------------------------------------------------------------
    def place_of(self, start: Start, state: bytes | None = None) -> tuple[str, tuple]:
        """The name and the mix of adapters by which a session is admitted: a new one, or that of a `state`."""
        name = start.resume or start.session or secrets.token_urlsafe(9)
        kept = start.resume is not None or state is not None
        return name, UNKNOWN if kept else mix_key(start.adapter, start.adapter_scale)

    def open(self, name: str, start: Start, loop: asyncio.AbstractEventLoop, state: bytes | None = None) -> Seat:
        """Begin to play a session that was admitted under this name, a new one or that of a `state`.

        Raises:
            Unavailable: the server is stopping. ValueError: what was asked for, or a state of no such session.
        """
        try:
            with self._preparing:
                kept = start.resume is not None or state is not None
                session, heard = self._resumed(start, state) if kept else self._new(start)
            limit = max(2, math.ceil(self.settings.queue / self.block_seconds))
            asked = session.asked
            seat = Seat(
                name, session, BlockQueue(limit, loop), asked.get("adapter"), asked.get("adapter_scale"),
                hand_over=start.state_every is not None, remarks=[*heard, *session.remarks],
            )  # fmt: skip
            with self._lock:
                if self.draining:
                    session.close()
                    raise is_draining()
                del self._opening[name]
                self._seats[name] = seat
                self.metrics.sessions.set(len(self._seats))
        except BaseException:
            with self._lock:
                self._opening.pop(name, None)
            raise
        try:
            self.group.add(session)
        except BaseException:
            self.close(seat, "failed")
            raise
        self.metrics.started.inc()
        self._wake.set()
        return seat

    def update(self, seat: Seat, changes: Update) -> None:
        """Change what is played; what that cost is added to `seat.cost`, whether it is taken or not.

        Raises:
            ValueError: as of `LiveSession.update`, or another session's mix of adapters that would cost the
                others their time.
        """
        began = time.thread_time()
        try:
            self._update(seat, wishes(changes), changes.at)
        finally:
            seat.cost += time.thread_time() - began

    def _update(self, seat: Seat, fields: dict[str, Any], at: str | None) -> None:
        heard = read_melody(fields)
        adapter = fields.get("adapter", seat.adapter)
        scale = fields.get("adapter_scale", seat.adapter_scale)
        self._check_mix(seat, mix_key(adapter, scale))
        with self._preparing:
            seat.session.update(at=at, **fields)
            seat.remarks = [*heard, *seat.session.remarks]
        seat.adapter, seat.adapter_scale = adapter, scale

    def close(self, seat: Seat, reason: str) -> None:
        """End a session; its place is free at once."""
        seat.session.close()
        seat.hand_out()
        seat.queue.end()
        with self._lock:
            if self._seats.get(seat.name) is not seat:
                return
            del self._seats[seat.name]
            self._untidy = True
            self.metrics.sessions.set(len(self._seats))
        self.metrics.ended.labels(reason).inc()

    @property
    def strain(self) -> str | None:
        """What is wrong, and why, where the machine hardly keeps up with one session; None where it does."""
        return why_strained(self.times.alone, self.block_seconds, self.settings.load)

    @property
    def buffer(self) -> float:
        """Seconds of sound that listeners have in hand at least; more of it where it is needed."""
        more = self.times.more_in_hand(len(self._seats), self.block_seconds, self.settings.load)
        return max(self.settings.buffer, more)

    def _new(self, start: Start) -> tuple[LiveSession, list[str]]:  # and remarks on its melody's file
        options = {name: value for name, value in wishes(start).items() if value is not None}
        if "prompt" not in options:
            raise ValueError("prompt is missing: describe the music, such as 'medium swing piano trio'")
        options.setdefault("adapter", {})
        options.setdefault("seed", secrets.randbelow(2**31))
        heard = read_melody(options)
        return self.pipe.live(**options, block_frames=self.block_frames, overlap=False), heard

    def _resumed(self, start: Start, state: bytes | None) -> tuple[LiveSession, list[str]]:
        return self.kept.resume(self.pipe, start, state, self.block_frames), []

    def _save(self, seat: Seat) -> None:
        """Keep what was made of a session that is closed: for the server, for its listener, or both.

        Whatever goes wrong with the one is told, and costs neither the other nor the other sessions."""
        with self._told("a session could not be handed over"):
            if seat.hand_over:
                seat.state = state_of(seat.session)
        with self._told("a session could not be saved"):
            if self.settings.state is not None:
                seat.resume = self.kept.keep(seat.session)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.metrics.failures.inc()
            log.error(what, extra={"fields": {"reason": str(error) or repr(error)}})

    # -- clips ---------------------------------------------------------------------------------------------
    def make_midi(self, request: ClipRequest) -> tuple[bytes, int]:
        """As `clip_midi`."""
        with self._preparing:
            return clip_midi(self.pipe, request)

    def make_clip(self, request: ClipRequest, loop: asyncio.AbstractEventLoop) -> Clip:
        """Begin to make a clip, which plays what a call of the pipeline with its seed plays.

        Raises:
            Unavailable: the live sessions leave no time, or too many clips are waiting. ValueError: what was
                asked for.
        """
        with self._lock:
            refusal = is_draining() if self.draining else self._clip_refusal(self._cost(request))
            if refusal is not None:
                self.metrics.refused.labels(refusal.reason).inc()
                raise refusal
        options = {name: value for name, value in wishes(request).items() if value is not None}
        read_melody(options)
        seed = options.pop("seed", secrets.randbelow(2**31))
        written = {
            name: options.pop(name, None) for name in ("chords", "tempo", "key", "mood", "instruments")
        }
        options.setdefault("adapter", {})
        with self._preparing:
            sheet = self.pipe.prepare_lead_sheet(
                options["prompt"], **written, duration=request.duration, seeds=[seed]
            )[0]
            session = self.pipe.live(
                **options, lead_sheet=sheet, seed=seed, num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale, block_frames=self.block_frames, overlap=False,
            )  # fmt: skip
        samples = max(1, round(request.duration * SAMPLE_RATE))
        clip = Clip(session, BlockQueue(_CLIP_QUEUE, loop), samples, seed, self._cost(request))
        with self._lock:
            refusal = self._clip_refusal(clip.cost)  # others came while this one was prepared
            if refusal is not None:
                self.metrics.refused.labels(refusal.reason).inc()
                raise refusal
            self._clips.append(clip)
            self.metrics.clips.set(len(self._clips))
        self._wake.set()
        return clip

    def end_clip(self, clip: Clip, failure: str | None = None) -> None:
        """Its reader has gone, it is finished, or it failed."""
        clip.failure = clip.failure or failure
        clip.session.close()
        with self._lock:
            if clip in self._clips:
                self._clips.remove(clip)
                self._untidy = True
            self.metrics.clips.set(len(self._clips))
        clip.queue.end()

    def _cost(self, request: ClipRequest) -> float:
        defaults = self.pipe.generation_defaults
        steps = (request.num_inference_steps or 0) / defaults["num_inference_steps"]
        guided = request.guidance_scale not in (None, 1.0) and defaults["guidance_scale"] == 1.0
        return max(1.0, steps) * (2.0 if guided else 1.0)

    def _clip_refusal(self, cost: float) -> Unavailable | None:
        if len(self._clips) >= self.settings.max_clips:
            return Unavailable(f"{len(self._clips)} clips are being made; try again later", "clips")
        playing = len(self._seats)
        # right after a step
        at_best = self.settings.buffer + self.block_seconds - self.times.predict(playing)
        if playing and at_best < self._clip_needs(playing, cost):
            return Unavailable(f"{playing} live sessions leave no time for a clip; try again later", "busy")
        return None

    def _clip_needs(self, playing: int, cost: float) -> float:
        """Seconds that the listeners must have in hand for a block of a clip to come between."""
        return self.times.predict(playing) + cost * self.times.alone + SPARE

    # -- before anybody plays ------------------------------------------------------------------------------
    def _warm_up_for_many(self) -> None:
        """A block of three sessions at once: an engine makes what only many need when it first meets them, and those
        who play by then would hear a gap."""
        with self.pipe.live_group() as group:
            for seed in range(3):
                group.join("swing", seed=seed, block_frames=self.block_frames)
            group.step()

    def _measure(self) -> float:
        defaults = self.pipe.generation_defaults
        self.pipe.models.warm_up_to(self.block_frames)
        return measure_block_seconds(
            self.pipe.models, self.block_frames, num_inference_steps=defaults["num_inference_steps"],
            guidance_scale=defaults["guidance_scale"], window_frames=defaults["window_frames"], blocks=5,
        )  # fmt: skip

    # -- the end -------------------------------------------------------------------------------------------
    @property
    def seats(self) -> list[Seat]:
        with self._lock:
            return list(self._seats.values())

    @property
    def clips(self) -> list[Clip]:
        with self._lock:
            return list(self._clips)

    def drain(self) -> None:
        """Take nobody in, save the live sessions and end them, and wait for the clips, `drain_limit` at most."""
        with self._lock:
            self.draining = True
        for seat in self.seats:
            with (
                self._told("a session could not be ended"),
                self._handing,  # what was made of it is in its queue
            ):
                seat.session.close()
            self._save(seat)
            seat.ending = "drained"
            self.close(seat, "drained")
        until = time.monotonic() + self.settings.drain_limit
        while self.clips and time.monotonic() < until:
            time.sleep(0.05)
        for clip in self.clips:
            self.end_clip(clip, "the server was stopped")

    @property
    def alive(self) -> bool:
        """Whether the thread runs that plays."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End everything, at once."""
        self._stopped = True
        self._wake.set()
        self._thread.join(timeout=10)
        self.group.close()
