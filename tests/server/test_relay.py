"""The line between a listener at a proxy and its session at a replica: nothing piles up, and it ends with a word."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from served import WAIT, go_on, hear, hear_block, hear_state, running, say, wait_for
from test_live_socket import NARROW, WISH, check_a_slow_listener_is_sent_away, ending

from rtjazz_hf.server.relay import _ON_THE_WAY, GONE, LIVE_PATH, Relay, Relayed
from rtjazz_hf.server.settings import MAX_BODY_BYTES


class Hop:
    """What Ray Serve is between a proxy and a replica: queues without an end, and silence when the replica dies."""

    def __init__(self, app):
        self.app, self.calls = app, []

    async def __call__(self, scope, receive, send):
        outbox, inbox = asyncio.Queue(), asyncio.Queue()

        async def feed():
            while True:
                inbox.put_nowait(await receive())

        async def replica():
            try:
                await self.app(scope, inbox.get, outbox.put)
            finally:
                outbox.put_nowait(None)

        tasks = [asyncio.create_task(feed()), asyncio.create_task(replica())]
        self.calls.append((asyncio.get_running_loop(), tasks[1]))
        try:
            while (message := await outbox.get()) is not None:
                await send(message)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def kill(self):
        loop, task = self.calls[-1]
        loop.call_soon_threadsafe(task.cancel)


class Wrapped:
    def __init__(self, app):
        self.state, self.hop = app.state, Hop(Relayed(app))
        self.app = Relay(self.hop)

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def relayed(tiny_pipeline):
    with running(tiny_pipeline, wrap=Wrapped) as server:
        yield server


class TestSessions:
    def test_play_and_are_steered(self, relayed):
        with relayed.live() as listener:
            say(listener, "start", state_every=5, **WISH)
            state = hear_state(listener)
            say(listener, "update", tempo=200)
            assert hear(listener, "updated")["tempo"] == 200
            say(listener, "stop")
            assert ending(listener) == (1000, "stopped")
        assert relayed.get("/readyz").status_code == 200
        with relayed.live() as listener:
            go_on(listener, state)
            assert hear(listener, "started")["seed"] == WISH["seed"]

    def test_end_with_a_word_when_the_server_is_gone(self, relayed):
        with relayed.live() as listener:
            say(listener, "start", **WISH)
            hear_block(listener)
            relayed.server.config.app.hop.kill()
            assert ending(listener) == GONE
        wait_for(lambda: not relayed.engine.seats)

    def test_large_messages(self, relayed):
        with relayed.live() as listener:
            say(listener, "start", **WISH)
            listener.send(b"0" * (MAX_BODY_BYTES + 1))
            assert ending(listener)[0] == 1009
        wait_for(lambda: not relayed.engine.seats)

    def test_one_that_does_not_read_is_noticed(self, tiny_pipeline):
        with running(tiny_pipeline, **NARROW, wrap=Wrapped) as server:
            check_a_slow_listener_is_sent_away(server)


def played(app, *, reads=10**9, path=LIVE_PATH, incoming=()):
    """What a listener gets that reads so many messages, and no more."""
    sent = []

    async def play():
        waiting = asyncio.Queue()
        for message in ({"type": "websocket.connect"}, *incoming):
            waiting.put_nowait(message)

        async def send(message):
            if len(sent) >= reads:
                await asyncio.Event().wait()
            sent.append(message)

        scope = {"type": "websocket", "path": path, "extensions": {"websocket.http.response": {}}}
        call = asyncio.create_task(Relay(Hop(Relayed(app)))(scope, waiting.get, send))
        await asyncio.wait([call], timeout=0.5 if reads < 10**9 else WAIT)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    asyncio.run(play())
    return sent


async def chatter(scope, receive, send, count=None):
    """An application that sends 200 messages without ever listening."""
    await send({"type": "websocket.accept"})
    for index in range(200):
        await send({"type": "websocket.send", "text": str(index)})
        if count is not None:
            count.append(index)
    await send({"type": "websocket.close", "code": 1000})


class TestFlow:
    def test_all_of_it_comes_in_order(self):
        sent = played(chatter)
        assert [message.get("text") for message in sent[1:-1]] == [str(index) for index in range(200)]
        assert sent[0]["type"] == "websocket.accept" and sent[-1]["type"] == "websocket.close"

    @pytest.mark.parametrize("reads", [1, 5, 50])
    def test_little_is_on_the_way(self, reads):
        count = []
        played(lambda *call: chatter(*call, count), reads=reads)
        assert reads - 1 <= len(count) <= reads + _ON_THE_WAY

    def test_a_listener_that_is_gone(self):
        gone = []

        async def app(scope, receive, send):
            try:
                await chatter(scope, receive, send)
            except OSError:
                gone.append(True)
                raise

        played(app, reads=5, incoming=[{"type": "websocket.disconnect", "code": 1006}])
        assert gone

    def test_other_sockets_are_left_alone(self):
        async def app(scope, receive, send):
            await send({"type": "websocket.accept", "extensions": list(scope["extensions"])})

        assert played(app, path="/other")[0]["extensions"] == ["websocket.http.response"]
        assert len(played(app, path="/other")) == 1  # no close of ours


class TestRefusals:
    def test_those_of_serve(self):
        async def full(scope, receive, send):
            await send({"type": "http.response.start", "status": 503, "headers": [(b"retry-after", b"7")]})
            await send({"type": "http.response.body", "body": b"full"})

        start, body = played(full)
        assert start["type"] == "websocket.http.response.start" and start["status"] == 503
        assert start["headers"] == [(b"retry-after", b"7")] and body["body"] == b"full"

    def test_when_nobody_answers(self):
        async def dead(scope, receive, send):
            pass

        start, body = played(dead)
        assert start["status"] == 503 and b"no server takes this session" in body["body"]


def test_proxies_do_not_wait_for_torch():
    code = "import sys, rtjazz_hf.server.relay as r; r.proxy_middlewares(); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    )
