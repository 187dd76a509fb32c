"""`/v1/live`: controls in as JSON text, blocks out as a JSON text message and a binary one of PCM each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from concurrent.futures import Executor
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from ..audio import AUDIO_CHANNELS, SAMPLE_RATE
from ..live import LiveBlock, LiveStats
from .access import PROTOCOL
from .encoding import pcm
from .metrics import Metrics
from .schemas import CONTROLS, STARTS, Start, Stop, Update, first_error
from .sessions import Seat, SessionEngine, Unavailable
from .settings import MAX_BODY_BYTES, MAX_CONTROLS_PER_SECOND, ServerSettings

log = logging.getLogger("rtjazz.server")

# Why a session ended, by the engine's or our word for it: the code and the text of the close frame.
CLOSINGS = {
    "stopped": (1000, "stopped"),
    "idle": (1000, "no control for too long"),
    "length": (1000, "the longest session that this server plays is over"),
    "refused": (1008, "what was asked for cannot be played"),
    "late": (1008, "no start message came"),
    "slow": (1008, "too slow a reader: blocks are to be read as fast as they play"),
    "rubbish": (1008, "too many messages that are no controls"),
    "unavailable": (1013, "try again later"),
    "drained": (1012, "the server is stopping"),
    "failed": (1011, "the music could not be made"),
}
_MAX_RUBBISH = 20  # messages that are no controls, after which a session ends


class _End(Exception):
    """The connection is to be closed; the reason is a key of `CLOSINGS`."""


class LiveConnection:
    """One WebSocket and the session that it plays and steers."""

    def __init__(
        self,
        websocket: WebSocket,
        engine: SessionEngine,
        settings: ServerSettings,
        metrics: Metrics,
        worker: Executor,
    ):
        self.websocket, self.engine, self.settings = websocket, engine, settings
        self.metrics, self.worker = metrics, worker
        self.rubbish = 0
        self.last_control = time.monotonic()

    async def run(self) -> None:
        """Until the listener goes, or is sent away."""
        offered = self.websocket.scope.get("subprotocols", ())
        await self.websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
        self.metrics.sockets.inc()
        seat, reason = None, "left"
        try:
            start, seat = await self._open()
            reason = await self._play(seat, start)
            if seat.ending == "drained":
                await self._say("drained", resume=seat.resume)
        except _End as end:
            reason = end.args[0]
        except (WebSocketDisconnect, ConnectionError):
            pass
        finally:
            self.metrics.sockets.dec()
            if seat is not None:
                reason = seat.ending or reason
                self.engine.close(seat, reason)
            log.info("live connection ended", extra={"fields": {"reason": reason}})
        if reason in CLOSINGS:
            await self._close(reason)

    # -- the beginning -------------------------------------------------------------------------------------
    async def _open(self) -> tuple[Start, Seat]:
        try:
            text = await asyncio.wait_for(self._receive(), self.settings.start_limit)
        except TimeoutError:
            raise _End("late") from None
        try:
            start = STARTS.validate_json(text)
            loop = asyncio.get_running_loop()
            seat = await loop.run_in_executor(self.worker, self.engine.open, start, loop)
        except ValidationError as error:
            await self._say("error", detail=first_error(error))
            raise _End("refused") from None
        except ValueError as error:
            await self._say("error", detail=str(error))
            raise _End("refused") from None
        except Unavailable as error:
            await self._say("error", detail=str(error), retry_after=error.retry_after)
            raise _End("unavailable") from None
        sheet = seat.session.lead_sheet
        await self._say(
            "started", session=seat.name, seed=seat.session.seed, encoding=start.encoding,
            sampling_rate=SAMPLE_RATE, channels=AUDIO_CHANNELS, block_seconds=self.engine.block_seconds,
            tempo=sheet.tempo, key=sheet.key, genre=sheet.genre, mood=sheet.mood, chart=sheet.to_text(),
        )  # fmt: skip
        return start, seat

    # -- the music -----------------------------------------------------------------------------------------
    async def _play(self, seat: Seat, start: Start) -> str:
        tasks = [
            asyncio.create_task(self._send_blocks(seat, start)),
            asyncio.create_task(self._take_controls(seat)),
            asyncio.create_task(self._watch(seat)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_blocks(self, seat: Seat, start: Start) -> str:
        index = 0
        while (item := await seat.queue.get()) is not None:
            block, stats = item
            await self._say("block", index=index, **describe(block, stats), dropped=seat.dropped)
            await self.websocket.send_bytes(pcm(block.audio, start.encoding))
            index += 1
        return seat.ending or "stopped"

    async def _take_controls(self, seat: Seat) -> str:
        while True:
            text = await self._receive()
            received = time.monotonic()
            try:
                control: Update | Stop = CONTROLS.validate_json(text)
                if isinstance(control, Stop):
                    return "stopped"
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self.worker, self.engine.update, seat, control)
            except ValueError as error:  # pydantic's are some, too
                invalid = isinstance(error, ValidationError)
                await self._refuse(first_error(error) if invalid else str(error))
                self.rubbish += invalid
            else:
                self.last_control = received
                self.metrics.controls.labels("taken").inc()
                await self._say(
                    "updated", tempo=seat.session.lead_sheet.tempo, key=seat.session.lead_sheet.key
                )
            if self.rubbish >= _MAX_RUBBISH:
                return "rubbish"
            await asyncio.sleep(max(0.0, received + 1.0 / MAX_CONTROLS_PER_SECOND - time.monotonic()))

    async def _watch(self, seat: Seat) -> str:
        began = time.monotonic()
        while seat.ending is None:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            if now - began > self.settings.length_limit:
                return "length"
            if now - self.last_control > self.settings.idle_limit:
                return "idle"
        return seat.ending

    # -- messages ------------------------------------------------------------------------------------------
    async def _receive(self) -> str:
        """The next text; binary messages are told off."""
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            text = message.get("text")
            if text is not None and len(text) <= MAX_BODY_BYTES:
                return text
            self.rubbish += 1
            await self._refuse("a binary message: controls are JSON in text messages")
            if self.rubbish >= _MAX_RUBBISH:
                raise _End("rubbish")

    async def _refuse(self, detail: str) -> None:
        self.metrics.controls.labels("refused").inc()
        await self._say("error", detail=detail)

    async def _say(self, kind: str, **fields: Any) -> None:
        await self.websocket.send_text(json.dumps({"type": kind, **fields}))

    async def _close(self, reason: str) -> None:
        gone = (RuntimeError, TimeoutError, WebSocketDisconnect, ConnectionError)
        with contextlib.suppress(*gone):
            await asyncio.wait_for(self.websocket.close(*CLOSINGS[reason]), 2.0)


def describe(block: LiveBlock, stats: LiveStats) -> dict[str, Any]:
    """A block's place in the music, its chords, and how the session keeps up; in JSON's types."""
    segments = block.lead_sheet.chord_segments(block.start, block.duration)
    return {
        "start": round(block.start, 6),
        "samples": block.audio.shape[1],
        "bar": block.bar,
        "beat": round(block.beat, 4),
        "beats_per_bar": block.lead_sheet.beats_per_bar,
        "tempo": block.tempo,
        "chord": block.chord.symbol,
        "chords": [[round(start - block.start, 4), chord.symbol] for start, _, chord in segments],
        "stats": {
            "block_seconds": round(block.seconds, 4),
            "p50": round(stats.p50, 4),
            "p95": round(stats.p95, 4),
            "p99": round(stats.p99, 4),
            "real_time_factor": round(stats.real_time_factor, 4),
            "under_runs": stats.under_runs,
        },
    }
