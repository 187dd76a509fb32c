"""Connections that cost something: what a client does that sends nothing, reads nothing, or fills every place."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest
from served import WAIT, hear_block, running, say, wait_for
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from rtjazz_hf.server.connections import ConnectionLimits

WISH = {"prompt": "swing", "chords": "Dm7 | G7", "tempo": 120, "seed": 5}
QUICK = ConnectionLimits(head=0.5, stuck=0.5, linger=0.3, unsent=2**20, connections=40)


def raw(server, text=b"", receive=None):
    sock = socket.socket()
    if receive is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    sock.settimeout(WAIT)
    sock.sendall(text)
    return sock


def answer(sock):
    """All that comes until the server closes."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            said += data
    return said


PINGS = b"".join(Frame(Opcode.PING, b"x" * 125).serialize(mask=True) for _ in range(100))


def upgrade(host="a", origin=None):
    """The request for a WebSocket."""
    lines = [
        "GET /v1/live HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *([f"Origin: {origin}"] if origin else []), "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


def handshake(server, host, origin):
    with raw(server, upgrade(host, origin)) as sock:
        return sock.recv(65536)


def deaf_websocket(server):
    """One whose client never reads: the library's reads answers to pings by itself."""
    sock = raw(server, upgrade(), receive=4096)
    wait_for(lambda: server.state.sockets == 1)
    return sock


def connections(server):
    return len(server.server.server_state.connections)


@pytest.fixture(scope="module")
def server(tiny_pipeline):
    with running(tiny_pipeline, limits=QUICK) as server:
        yield server


class TestSlow:
    @pytest.mark.parametrize("sent", [
        b"", b"GET", b"GET /healthz HTTP/1.1\r\nHost: a\r\n", b"GET /v1/live HTTP/1.1\r\nUpgrade: websocket\r\n",
    ])  # fmt: skip
    def test_heads_have_to_come(self, server, sent):
        assert answer(raw(server, sent)) == b""

    def test_a_byte_now_and_then_is_no_head(self, server):
        sock = raw(server)
        with pytest.raises(OSError):
            for _ in range(200):
                sock.sendall(b"G")
                time.sleep(0.05)

    def test_the_second_head_on_a_connection_too(self, server):
        sock = raw(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in sock.recv(65536)
        sock.sendall(b"GET /hea")
        answer(sock)  # ends

    def test_bodies_have_to_come_whole(self, server, monkeypatch):
        monkeypatch.setattr("rtjazz_hf.server.access._BODY_SECONDS", 0.5)
        sock = raw(server, b"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(200):
                sock.sendall(b" ")
                time.sleep(0.05)
        assert b"408" in answer(sock)

    def test_health_is_answered_whoever_fills_the_rest(self, server):
        slow = [raw(server, b"GET /healthz HTTP/1.1\r\nX: ") for _ in range(60)]
        assert server.get("/healthz").status_code == 200 and connections(server) <= QUICK.connections + 1
        for sock in slow:
            sock.close()
        wait_for(lambda: connections(server) <= 2)

    def test_requests_at_a_time(self, tiny_pipeline):
        with running(tiny_pipeline, max_connections=1) as server:
            head = b"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n"
            slow = [raw(server, head) for _ in range(2)]
            wait_for(lambda: server.get("/v1/models").status_code == 503)
            assert server.get("/healthz").status_code == server.get("/readyz").status_code == 200
            for sock in slow:
                sock.close()
            wait_for(lambda: server.get("/v1/models").status_code == 200)


class TestDeaf:
    """Who never reads."""

    def test_one_that_keeps_its_own_side_busy(self, tiny_pipeline):
        limits = ConnectionLimits(unsent=30_000, stuck=WAIT, linger=WAIT)
        with running(tiny_pipeline, limits=limits, send_buffer=4096) as server:
            sock = deaf_websocket(server)
            with pytest.raises(OSError):
                for _ in range(10_000):
                    sock.sendall(PINGS)
            wait_for(lambda: connections(server) == 0)

    def test_what_it_sends_waits_in_its_own_machine(self, tiny_pipeline):
        """It is read from no faster than it reads, and so is never sent away for that alone."""
        with running(tiny_pipeline, limits=ConnectionLimits(stuck=WAIT), send_buffer=4096) as server:
            sock = deaf_websocket(server)
            sock.settimeout(0.5)
            with pytest.raises(TimeoutError):
                for _ in range(10_000):
                    sock.sendall(PINGS)
            held = [
                each.transport.get_write_buffer_size()
                for each in list(server.server.server_state.connections)
            ]
            assert 0 < max(held) < 2**20
            sock.close()
            wait_for(lambda: connections(server) == 0)

    def test_sent_away_it_goes(self, tiny_pipeline):
        narrow = {"send_buffer": 8192, "queue": 0.5, "slow_limit": 0.3, "max_connections": 2}
        with running(tiny_pipeline, limits=QUICK, **narrow) as server:
            for _ in range(3):  # else two of them close a server of two
                sock = deaf_websocket(server)
                sock.sendall(
                    Frame(Opcode.TEXT, json.dumps({"type": "start", **WISH}).encode()).serialize(mask=True)
                )
                wait_for(lambda: server.engine.seats)
                wait_for(lambda: not server.engine.seats)
                wait_for(lambda: server.state.sockets == 0 and connections(server) == 0)
            with server.live() as good:
                say(good, "start", **WISH)
                hear_block(good)

    def test_clips_that_nobody_reads(self, tiny_pipeline):
        body = json.dumps({"prompt": "swing", "duration": 60, "format": "wav"}).encode()
        head = f"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with running(tiny_pipeline, limits=QUICK, send_buffer=8192, max_clips=2) as server:
            deaf = [raw(server, head.encode() + b"\r\n\r\n" + body, receive=4096) for _ in range(2)]
            wait_for(lambda: len(server.engine.clips) == 2)
            wait_for(lambda: not server.engine.clips and connections(server) == 0)
            assert not server.server.server_state.tasks
            for sock in deaf:
                sock.close()


class TestGone:
    def test_before_it_was_told_that_it_plays(self, server):
        for _ in range(10):
            listener = server.live()
            say(listener, "start", **WISH)
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            listener.socket.close()
        wait_for(lambda: server.state.sockets == 0)
        wait_for(lambda: not server.engine.seats)

    def test_before_the_first_of_a_clip(self, server):
        body = json.dumps({"prompt": "swing", "duration": 60}).encode()
        head = f"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        for _ in range(4):
            raw(server, head.encode() + b"\r\n\r\n" + body).close()
        wait_for(lambda: server.state.metrics is not None and not server.engine.clips)


class TestWords:
    @pytest.mark.parametrize("path", ["/", "/healthz", "/player/player.js"])
    def test_head_is_get_without_the_body(self, server, path):
        import httpx2

        got, head = server.get(path), httpx2.head(server.url + path, timeout=WAIT)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]

    @pytest.mark.parametrize(("version", "headers"), [
        (b"1.1", b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        (b"1.0", b"Transfer-Encoding: chunked\r\n"),
    ])  # fmt: skip
    def test_a_message_of_two_lengths_is_the_last(self, server, version, headers):
        text = b"POST /v1/generate HTTP/" + version + b"\r\nHost: a\r\n" + headers + b"\r\n0\r\n\r\n"
        said = answer(raw(server, text + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert said.startswith(b"HTTP/1.1 400") and said.count(b"HTTP/1.1") == 1

    @pytest.mark.parametrize("host", ["jazz.example.org", "JAZZ.example.org", "jazz.example.org:443"])
    def test_names_of_the_same_place(self, server, host):
        assert handshake(server, host, "https://Jazz.example.org").startswith(b"HTTP/1.1 101")
        assert handshake(server, host, "https://other.org").startswith(b"HTTP/1.1 403")

    def test_behind_a_proxy(self, tiny_pipeline):
        origin = {"origin": "https://jazz.example.org"}
        forwarded = {"X-Forwarded-Host": "jazz.example.org", "X-Forwarded-For": "203.0.113.7"}
        with running(tiny_pipeline) as server, pytest.raises(InvalidStatus):
            server.live(additional_headers=forwarded, **origin)  # anybody can say so
        with running(tiny_pipeline, proxies=("127.0.0.0/8",)) as server:
            server.live(additional_headers=forwarded, **origin).close()
            with pytest.raises(InvalidStatus):
                server.live(**origin)
        with running(tiny_pipeline, public_urls=("https://jazz.example.org",)) as server:
            server.live(**origin).close()
