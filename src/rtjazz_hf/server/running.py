"""Running the application: its address, and an end in which nobody loses what is being made."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from .connections import CarefulHTTP, CarefulWebSocket, ConnectionLimits
from .settings import MAX_BODY_BYTES

log = logging.getLogger("rtjazz.server")

if TYPE_CHECKING:
    from .app import ServerState


class DrainingServer(uvicorn.Server):
    """Told to stop, it lets live sessions and clips end before it closes their connections."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state: ServerState = self.config.app.state.server
        try:
            await state.drain()
        except Exception:  # whatever it is: connections are to be closed, and the process to end
            log.exception("the end was not as it should be")
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one.

    Raises:
        OSError: taken, not allowed, or no address of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(128)
        except OSError:
            sock.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"port {port} of {host} is not to be had ({reason}); choose another with --port"
        ) from error
    return sock


def make_server(
    app: FastAPI, max_connections: int = 256, limits: ConnectionLimits | None = None
) -> DrainingServer:
    """uvicorn, with limits that it has no settings for; how many requests may run at a time, the `Gate` knows."""
    limits = limits or ConnectionLimits(connections=2 * max_connections + 64)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, ws_max_size=MAX_BODY_BYTES,
        http=type("CarefulHTTP", (CarefulHTTP,), {"limits": limits}),
        ws=type("CarefulWebSocket", (CarefulWebSocket,), {"limits": limits}),
        ws_per_message_deflate=False,  # noise does not get smaller
        proxy_headers=False,  # of whom they are believed, `create_app` says
        timeout_graceful_shutdown=5, server_header=False,
    )  # fmt: skip
    return DrainingServer(config)


def serve(app: FastAPI, sock: socket.socket, max_connections: int, ready: Callable[[], None]) -> None:
    """Until SIGTERM, after which everything ends well, or Ctrl-C (KeyboardInterrupt, afterwards)."""
    server = make_server(app, max_connections)
    # uvicorn raises the signal that has ended it once more: SIGTERM, obeyed, is no failure
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        ready()
        server.run(sockets=[sock])
    finally:
        signal.signal(signal.SIGTERM, before)
