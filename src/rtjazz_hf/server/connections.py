"""Connections that cost something: heads that do not end, clients that do not read, and those that fill every place.

uvicorn's own protocols, with the limits that it has no settings for. Whatever a client does, it is gone within
seconds, and what is kept for it has a bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

log = logging.getLogger("rtjazz.server")


@dataclass(frozen=True)
class ConnectionLimits:
    """Times in seconds.

    Attributes:
        head: for the head of a request, from the connection or the first byte on, or for a silent connection.
        stuck: in which somebody who is sent something takes less than `least` bytes of it.
        linger: for the last bytes, once a WebSocket is over.
        unsent: bytes that may wait to be sent on a WebSocket: a block and a piece of a state, and then some.
        connections: at a time; the oldest that has asked for nothing makes room.
    """

    head: float = 10.0
    stuck: float = 10.0
    least: int = 8192
    linger: float = 3.0
    unsent: int = 2**20
    connections: int = 576


class _Watched:
    """What HTTP and WebSockets have in common: a reader that takes nothing is given up."""

    limits = ConnectionLimits()
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _stuck: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._unwatch()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self, waiting: int) -> None:
        self._unwatch()
        self._stuck = self.loop.call_later(self.limits.stuck, self._check, waiting)

    def _unwatch(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _check(self, before: int) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting > before - self.limits.least:
            self.give_up("takes nothing")
        else:
            self._watch(waiting)

    def give_up(self, reason: str) -> None:
        if self.transport.get_write_buffer_size() or not self.transport.is_closing():
            client = self.transport.get_extra_info("peername") or ("",)
            log.info("connection given up", extra={"fields": {"reason": reason, "client": client[0]}})
        self.transport.abort()


class CarefulHTTP(_Watched, H11Protocol):
    """HTTP whose heads have to come."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.limits.connections:
            idle = [
                each for each in self.connections if isinstance(each, CarefulHTTP) and each._head is not None
            ]
            oldest = min(idle, key=lambda each: each._head.when())
            oldest._head_came()  # it goes in a moment: the next one to make room is another
            oldest.give_up("room is needed for others")

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._stands_idle:  # whatever came is no whole head yet
            self._await_head()
        else:
            self._head_came()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and self._stands_idle:
            self._await_head()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._head_came()
        super().handle_websocket_upgrade(event)

    @property
    def _stands_idle(self) -> bool:
        return self.conn.their_state is h11.IDLE

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self.limits.head, self.give_up, "no request came")

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class CarefulWebSocket(_Watched, WebSocketsSansIOProtocol):
    """A WebSocket that keeps no more for its client than it says, and ends when it is over."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # answers to pings go round the flow control: somebody who sends them and reads nothing
        if self.transport.get_write_buffer_size() > self.limits.unsent:
            self.give_up("does not read what it asks for")

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()  # what it sends would be answered

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self._end_soon()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self._end_soon()

    def _end_soon(self) -> None:
        if not self.disconnected:
            self.loop.call_later(self.limits.linger, self._end)

    def _end(self) -> None:
        if not self.disconnected:
            self.give_up("does not take its last bytes")
