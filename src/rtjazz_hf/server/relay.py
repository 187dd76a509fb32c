"""A WebSocket whose listener is at one process (a proxy of Ray Serve) and whose server is another (a replica).

Between the two are queues without an end, which hide from the server that its listener reads too slowly, and from the
listener that its server is gone. `Relay` stands at the proxy, `Relayed` around the application at the replica; they
tell each other in ASGI messages of their own, which no listener can send.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, MutableMapping
from typing import Any

from fastapi.middleware import Middleware

from .access import Receive, Scope, Send
from .settings import MAX_BODY_BYTES

log = logging.getLogger("rtjazz.server")

LIVE_PATH = "/v1/live"
GONE = (1012, "the server that played this session is gone: go on at another, from the last state")
_TOO_LARGE = (1009, f"messages have at most {MAX_BODY_BYTES} bytes")
_EXTENSION = "rtjazz.delivered"  # of the scope; and the type of the message that says how many were
_TOLD = 4  # messages delivered, after which the replica is told
_ON_THE_WAY = 16  # messages that may be: 8 blocks, or pieces of a state
_STUCK = 30.0  # seconds in which a listener takes nothing at all, after which it is given up
_TEXTS = 20.0  # a second that are passed on: twice what is obeyed
_BYTES = 4 * 2**20  # a second that are passed on, of a state


class Relay:
    """At the proxy: passes on no faster than is read, says what was delivered, and ends what ends without a word."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or not scope["path"].endswith(LIVE_PATH):
            await self.app(scope, receive, send)
            return
        line = _Line(receive, send)
        scope = {**scope, "extensions": {**scope.get("extensions", {}), _EXTENSION: {}}}
        pump = asyncio.create_task(line.pump())
        try:
            await self.app(scope, line.inbox.get, line.send)
            await line.end()
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


def proxy_middlewares() -> list[Middleware]:
    """For Serve's proxies, which import this module and must not wait for torch."""
    return [Middleware(Relay)]


class _Line:
    """One WebSocket at the proxy."""

    def __init__(self, receive: Receive, send: Send):
        self._receive, self._send = receive, send
        self.inbox: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._answered = self._accepted = self._closed = False
        self._delivered = 0

    async def pump(self) -> None:
        """From the listener to the replica."""
        while True:
            message = await self._receive()
            text, data = message.get("text"), message.get("bytes") or b""
            size = len(data) if text is None else len(text)
            if size > MAX_BODY_BYTES:
                await self._close(*_TOO_LARGE)
                message = {"type": "websocket.disconnect", "code": _TOO_LARGE[0]}
            self.inbox.put_nowait(message)
            if message["type"] == "websocket.disconnect":
                self._closed = True
                return
            await asyncio.sleep(size / _BYTES + 0.001 if text is None else 1.0 / _TEXTS)

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """From the replica, or from Serve where no replica takes it, to the listener."""
        kind = message["type"]
        if kind.startswith("http."):  # Serve's own refusals know no WebSockets
            message = {**message, "type": f"websocket.{kind}"}
        if self._closed:
            return
        self._answered, self._accepted = True, self._accepted or kind == "websocket.accept"
        self._closed = kind == "websocket.close"
        try:
            await asyncio.wait_for(self._send(message), _STUCK)
        except TimeoutError:
            self._closed = True
            raise ConnectionAbortedError(f"a listener took nothing for {_STUCK:g} seconds") from None
        if kind == "websocket.send":
            self._delivered += 1
            if self._delivered >= _TOLD:
                self.inbox.put_nowait({"type": _EXTENSION, "messages": self._delivered})
                self._delivered = 0

    async def end(self) -> None:
        """The replica has nothing more to say: a listener that was not told so is."""
        if self._accepted:
            await self._close(*GONE)
        elif not (self._answered or self._closed):
            body = json.dumps({"detail": "no server takes this session; try again in a moment"}).encode()
            headers = [(b"content-type", b"application/json"), (b"retry-after", b"5")]
            start = {"type": "websocket.http.response.start", "status": 503, "headers": headers}
            await self.send(start)
            await self.send({"type": "websocket.http.response.body", "body": body})

    async def _close(self, code: int, reason: str) -> None:
        if not self._closed:
            await self.send({"type": "websocket.close", "code": code, "reason": reason})


class Relayed:
    """At the replica, around the application: what it sends waits until the listener has what was sent before."""

    def __init__(self, app: Callable):
        self.app, self._warned = app, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or _EXTENSION not in scope.get("extensions", {}):
            if scope["type"] == "websocket" and scope["path"].endswith(LIVE_PATH) and not self._warned:
                self._warned = True
                log.warning("the proxy has no relay: see PROXY_CALLBACK; what slow listeners miss piles up")
            await self.app(scope, receive, send)
            return
        inbox: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        room = asyncio.Condition()
        on_the_way, gone = 0, False

        async def pump() -> None:
            nonlocal on_the_way, gone
            while not gone:
                try:
                    message = await receive()
                except Exception:  # the proxy is gone
                    message = {"type": "websocket.disconnect", "code": 1006}
                async with room:
                    if message["type"] == _EXTENSION:
                        on_the_way -= message["messages"]
                    else:
                        gone = message["type"] == "websocket.disconnect"
                        inbox.put_nowait(message)
                    room.notify_all()

        async def send_in_turn(message: MutableMapping[str, Any]) -> None:
            nonlocal on_the_way
            if message["type"] == "websocket.send":
                async with room:
                    await room.wait_for(lambda: gone or on_the_way < _ON_THE_WAY)
                    on_the_way += 1
                if gone:
                    raise OSError("the listener is gone")
            await send(message)

        task = asyncio.create_task(pump())
        try:
            await self.app(scope, inbox.get, send_in_turn)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
