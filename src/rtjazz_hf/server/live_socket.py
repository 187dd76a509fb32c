"""`/v1/live`: controls in as JSON text, blocks out as a JSON text message and a binary one of PCM, or Opus, each.

A listener that asks for it (`state_every`) is sent the session's state too, in pieces between the blocks: with it the
music goes on at any server of the same model when this one is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import MutableMapping
from concurrent.futures import Executor
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from ..audio import AUDIO_CHANNELS, SAMPLE_RATE
from ..live import LiveBlock, LiveStats
from ..music import LeadSheet
from ..music.grid import chart_grid
from .access import PROTOCOL
from .encoding import OpusEncoder, pcm
from .kept import state_of
from .metrics import Metrics
from .schemas import CONTROLS, STARTS, Start, Stop, Update, first_error, not_played
from .seats import Seat, Unavailable
from .sessions import SessionEngine
from .settings import MAX_BODY_BYTES, MAX_CONTROLS_PER_SECOND, UPDATE_SHARE, ServerSettings

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
_PIECE = MAX_BODY_BYTES  # of a state, in bytes; both ways
_MAX_ARRIVING = 8  # states at a time
_LAST_BLOCKS = 2.0  # seconds for those in the queue when the server stops
_MOST_WAITING = 20  # updates; others wait in the network
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
        self.seat: Seat | None = None  # from the moment on at which it is taken
        self.opus: OpusEncoder | None = None
        self.rubbish = 0
        self.updates: list[Update] = []  # that are still to be obeyed
        self.updated, self.obeyed = asyncio.Event(), asyncio.Event()  # there are some; they were taken
        self.sending = asyncio.Lock()  # what belongs together comes together
        self.last_control = time.monotonic()

    async def run(self) -> None:
        """Until the listener goes, or is sent away."""
        offered = self.websocket.scope.get("subprotocols", ())
        await self.websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
        self.metrics.sockets.inc()
        reason = "left"
        try:
            start, seat = await self._open()
            reason = await self._play(seat, start)
            if seat.ending == "drained":
                if seat.state is not None:
                    await self._send_state(seat.state, 0.0)
                await self._say("drained", resume=seat.resume)
        except _End as end:
            reason = end.args[0]
        except (WebSocketDisconnect, ConnectionError):
            pass
        finally:
            self.metrics.sockets.dec()
            if self.seat is not None:
                reason = self.seat.ending or reason
                self.engine.close(self.seat, reason)
            log.info("live connection ended", extra={"fields": {"reason": reason}})
        if reason in CLOSINGS:
            await self._close(reason)

    # -- the beginning -------------------------------------------------------------------------------------
    async def _open(self) -> tuple[Start, Seat]:
        try:
            async with asyncio.timeout(self.settings.start_limit):
                start = STARTS.validate_json(await self._receive())
                loop = asyncio.get_running_loop()
                if start.encoding == "opus":
                    self.opus = await loop.run_in_executor(self.worker, OpusEncoder)
                state = None if start.state is None else await self._receive_state(start.state)
            seat = await self._take_seat(start, loop, state)
        except TimeoutError:
            raise _End("late") from None
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
            "started", session=seat.name, server=self.settings.name, seed=seat.session.seed, encoding=start.encoding,
            pre_skip=self.opus.pre_skip if self.opus else 0,
            sampling_rate=SAMPLE_RATE, channels=AUDIO_CHANNELS, block_seconds=self.engine.block_seconds,
            genre=sheet.genre, mood=sheet.mood, chart=sheet.to_text(), **shown(sheet),
            remarks=seat.remarks, warnings=not_played(start), buffer=self.engine.buffer, problem=self.engine.strain,
        )  # fmt: skip
        return start, seat

    async def _take_seat(self, start: Start, loop: asyncio.AbstractEventLoop, state: bytes | None) -> Seat:
        """Whatever becomes of this connection meanwhile, the seat is its own, or is given back."""
        name, mix = self.engine.place_of(start, state)
        await self.engine.admit(name, mix)
        taking = loop.run_in_executor(self.worker, self.engine.open, name, start, loop, state)
        try:
            self.seat = await asyncio.shield(taking)
        except asyncio.CancelledError:  # the thread goes on, and nobody waits for what it takes
            taking.add_done_callback(self._give_back)
            raise
        return self.seat

    def _give_back(self, taking: asyncio.Future) -> None:
        if not taking.cancelled() and taking.exception() is None:
            self.engine.close(taking.result(), "left")

    async def _receive_state(self, size: int) -> bytes:
        """So many bytes, which come in binary messages.

        Raises:
            ValueError: other bytes, or none. Unavailable: there is no room for the session anyway, or too many
                send theirs.
        """
        self.engine.check_room()
        if self.engine.arriving >= _MAX_ARRIVING:
            raise Unavailable("many sessions come from elsewhere at once; try again", "arriving", 2)
        self.engine.arriving += 1
        try:
            state = bytearray()
            while len(state) < size:
                piece = (await self._receive_message()).get("bytes")
                if not piece or len(piece) > min(_PIECE, size - len(state)):
                    raise ValueError(
                        f"state: after {len(state)} of {size} bytes there came no piece of it; send all of it in "
                        f"binary messages of at most {_PIECE} bytes"
                    )
                state += piece
            return bytes(state)
        finally:
            self.engine.arriving -= 1

    # -- the music -----------------------------------------------------------------------------------------
    async def _play(self, seat: Seat, start: Start) -> str:
        tasks = [
            asyncio.create_task(self._send_blocks(seat, start)),
            asyncio.create_task(self._take_controls()),
            asyncio.create_task(self._obey(seat)),
            asyncio.create_task(self._watch(seat)),
        ]
        if start.state_every is not None:
            tasks.append(asyncio.create_task(self._send_states(seat, start.state_every)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_blocks(self, seat: Seat, start: Start) -> str:
        index, loop = 0, asyncio.get_running_loop()
        while (item := await seat.queue.get()) is not None:
            block, stats = item
            described = {"index": index, **describe(block, stats), "dropped": seat.dropped}
            if start.midi:
                described["midi"] = notes_of(block)
            if self.opus is not None:
                packets = await loop.run_in_executor(self.worker, self.opus.encode, block.audio)
                sound, described["packets"] = b"".join(packets), [len(packet) for packet in packets]
            else:
                sound = pcm(block.audio, start.encoding)
            await self._say("block", sound, **described)
            index += 1
        return seat.ending or "stopped"

    async def _send_states(self, seat: Seat, every: float) -> str:
        loop = asyncio.get_running_loop()
        while True:
            began = time.monotonic()
            try:
                state = await loop.run_in_executor(self.worker, state_of, seat.session)
                await self._send_state(state, every / 2)
            except ValueError as error:
                await self._say("error", detail=str(error))
            await asyncio.sleep(max(0.0, began + every - time.monotonic()))

    async def _send_state(self, state: bytes, seconds: float) -> None:
        """In pieces over so many seconds: in one, it would hold up the music on a slow line."""
        pieces = math.ceil(len(state) / _PIECE)
        for offset in range(0, len(state), _PIECE):
            await self._say("state", state[offset : offset + _PIECE], offset=offset, bytes=len(state))
            await asyncio.sleep(seconds / pieces)

    async def _take_controls(self) -> str:
        """Read controls; updates wait for `_obey`."""
        while True:
            text = await self._receive()
            received = time.monotonic()
            try:
                control: Update | Stop = CONTROLS.validate_json(text)
            except ValidationError as error:
                await self._refuse(first_error(error))
                self.rubbish += 1
            else:
                if isinstance(control, Stop):
                    return "stopped"
                self.last_control = received
                self.updates.append(control)
                self.updated.set()
                while len(self.updates) >= _MOST_WAITING:
                    self.obeyed.clear()
                    await self.obeyed.wait()
            if self.rubbish >= _MAX_RUBBISH:
                return "rubbish"
            await asyncio.sleep(max(0.0, received + 1.0 / MAX_CONTROLS_PER_SECOND - time.monotonic()))

    async def _obey(self, seat: Seat) -> str:
        """Do what is asked, at a pace that leaves the processor to the music: a costly update is followed by a pause.

        Those that come in a pause are one: of what they ask, the newest.
        """
        while True:
            await self.updated.wait()
            self.updated.clear()
            waiting, self.updates = self.updates, []
            self.obeyed.set()
            fields = {
                name: value for each in waiting for name, value in each.model_dump(exclude_unset=True).items()
            }
            before = seat.cost
            try:
                await self._update(seat, Update.model_validate(fields))
            except ValueError as error:
                if len(waiting) == 1:
                    await self._refuse(str(error))
                else:  # which of them it was, each is told on its own
                    await self._obey_each(seat, waiting)
            else:
                await self._tell_updated(seat, len(waiting))
            sessions = max(1, len(self.engine.seats))
            await asyncio.sleep((seat.cost - before) * sessions / UPDATE_SHARE)

    async def _obey_each(self, seat: Seat, waiting: list[Update]) -> None:
        for control in waiting:
            try:
                await self._update(seat, control)
            except ValueError as error:
                await self._refuse(str(error))
            else:
                await self._tell_updated(seat, 1)

    async def _update(self, seat: Seat, control: Update) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.worker, self.engine.update, seat, control)

    async def _tell_updated(self, seat: Seat, times: int) -> None:
        self.metrics.controls.labels("taken").inc(times)
        for _ in range(times):
            starts, sheet = seat.session.coming or (None, seat.session.lead_sheet)
            starts = starts if starts is None else round(starts, 4)
            await self._say("updated", **shown(sheet), remarks=seat.remarks, starts=starts)

    async def _watch(self, seat: Seat) -> str:
        began = time.monotonic()
        while seat.ending is None:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            if now - began > self.settings.length_limit:
                return "length"
            if now - self.last_control > self.settings.idle_limit:
                return "idle"
        if seat.ending == "drained":
            await asyncio.sleep(_LAST_BLOCKS)  # they are on their way: the state is of what comes after them
        return seat.ending

    # -- messages ------------------------------------------------------------------------------------------
    async def _receive_message(self) -> MutableMapping[str, Any]:
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        return message

    async def _receive(self) -> str:
        """The next text; binary messages are told off."""
        while True:
            text = (await self._receive_message()).get("text")
            if text is not None and len(text) <= MAX_BODY_BYTES:
                return text
            self.rubbish += 1
            await self._refuse("a binary message: controls are JSON in text messages")
            if self.rubbish >= _MAX_RUBBISH:
                raise _End("rubbish")

    async def _refuse(self, detail: str) -> None:
        self.metrics.controls.labels("refused").inc()
        await self._say("error", detail=detail)

    async def _say(self, kind: str, data: bytes | None = None, **fields: Any) -> None:
        async with self.sending:
            await self.websocket.send_text(json.dumps({"type": kind, **fields}))
            if data is not None:
                await self.websocket.send_bytes(data)

    async def _close(self, reason: str) -> None:
        gone = (RuntimeError, TimeoutError, WebSocketDisconnect, ConnectionError)
        with contextlib.suppress(*gone):
            await asyncio.wait_for(self.websocket.close(*CLOSINGS[reason]), 2.0)


def notes_of(block: LiveBlock) -> list[list[Any]]:
    """Notes that begin in a block: seconds from its start, length in seconds, MIDI key, velocity, player, role."""
    beat = 60.0 / block.tempo
    return [
        [round(at - block.start, 4), round(note.beats * beat, 4), note.midi, note.velocity, note.player, note.role]
        for at, note in zip(block.note_times, block.notes)
    ]


def shown(sheet: LeadSheet) -> dict[str, Any]:
    """What a listener's page shows of a lead sheet; `bars` as of `chart_grid`."""
    return {
        "tempo": sheet.tempo, "key": sheet.key, "instruments": list(sheet.instruments), "bars": chart_grid(sheet),
    }  # fmt: skip


def describe(block: LiveBlock, stats: LiveStats) -> dict[str, Any]:
    """A block's place in the music, its chords, and how the session keeps up; in JSON's types."""
    return {
        "start": round(block.start, 6),
        "samples": block.audio.shape[1],
        "bar": block.bar,
        "chart_bar": block.chart_bar,
        "chorus": block.chorus,
        "beat": round(block.beat, 4),
        "beats_per_bar": block.lead_sheet.beats_per_bar,
        "tempo": block.tempo,
        "chord": block.chord.symbol,
        "chords": [[round(start, 4), chord.symbol] for start, chord in block.chords],
        "stats": {
            "block_seconds": round(block.seconds, 4),
            "p50": round(stats.p50, 4),
            "p95": round(stats.p95, 4),
            "p99": round(stats.p99, 4),
            "real_time_factor": round(stats.real_time_factor, 4),
            "under_runs": stats.under_runs,
        },
    }
