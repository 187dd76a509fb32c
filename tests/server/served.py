"""A server of the real application on the tiny pipeline, at a free port of this machine."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi", reason="the web API (the serve extra)")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("websockets")

import httpx2
from websockets.sync.client import connect

from rtjazz_hf.server.app import create_app
from rtjazz_hf.server.running import bind, make_server
from rtjazz_hf.server.settings import ServerSettings

# Whatever this machine is busy with, nobody is refused or sent away, unless a test asks for it.
PATIENT = {"block_frames": 12, "load": 1e9, "slow_limit": 1e9, "clip_patience": 1e9}
WAIT = 120.0  # seconds for what happens at once on an idle machine


@dataclasses.dataclass
class Running:
    """A server that runs."""

    url: str
    server: object
    thread: threading.Thread
    state: object

    @property
    def engine(self):
        return self.state.engine

    def get(self, path, **options):
        return httpx2.get(self.url + path, timeout=WAIT, **options)

    def post(self, path="/v1/generate", **options):
        return httpx2.post(self.url + path, timeout=WAIT, **options)

    def live(self, **options):
        options = {"open_timeout": WAIT, "close_timeout": 5, "max_size": None, **options}
        return connect(f"{self.url.replace('http', 'ws')}/v1/live", **options)

    def metric(self, name):
        """The sum of a metric's values over its labels."""
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(f"rtjazz_{name}")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(WAIT)
        assert not self.thread.is_alive()


@contextmanager
def running(pipe, send_buffer=None, wrap=None, limits=None, **settings):
    def load():
        if isinstance(pipe, Exception):
            raise pipe
        return pipe

    app = create_app(ServerSettings(**{"model": "tiny", **PATIENT, **settings}), load)
    sock = bind("127.0.0.1", 0)
    if send_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    state = app.state.server
    if wrap is not None:
        app = wrap(app)
    server = make_server(app, limits=limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    running = Running(f"http://127.0.0.1:{sock.getsockname()[1]}", server, thread, state)
    wait_for(lambda: server.started and (state.engine is not None or "being loaded" not in state.problem))
    try:
        yield running
    finally:
        running.stop()


def wait_for(condition):
    until = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def say(socket, kind, **fields):
    socket.send(json.dumps({"type": kind, **fields}))


def hear(socket, kind):
    """The next message of a kind, those before it passed over."""
    while True:
        message = socket.recv(timeout=WAIT)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            return json.loads(message)


def hear_block(socket):
    """The next block: what is said of it, and its bytes, which come right after."""
    described = hear(socket, "block")
    data = socket.recv(timeout=WAIT)
    assert isinstance(data, bytes)
    return described, data


def hear_state(socket, heard=None, last=False):
    """The next whole state of the session, or the `last`; blocks that come between are added to `heard`."""
    state = b""
    while True:
        described = json.loads(socket.recv(timeout=WAIT))
        if described["type"] == "drained" and last:
            return state
        data = socket.recv(timeout=WAIT) if described["type"] in ("block", "state") else b""
        if described["type"] == "block" and heard is not None:
            heard.append((described, data))
        elif described["type"] == "state":
            state = data if described["offset"] == 0 else state + data
            assert described["offset"] + len(data) == len(state) and len(data) <= 65_536
            if len(state) == described["bytes"] and not last:
                return state


def go_on(socket, state, **fields):
    """Begin a session with a state."""
    say(socket, "start", state=len(state), **fields)
    for start in range(0, len(state), 65_536):
        socket.send(state[start : start + 65_536])
