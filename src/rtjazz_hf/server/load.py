"""Listeners by the dozen, good ones and rude ones, for a server that runs: how it keeps up, and what they leave behind.

rtjazz serve &
python -m rtjazz_hf.server.load --sessions 4 --minutes 2
python -m rtjazz_hf.server.load --rude 200
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from .access import read_api_keys
from .encoding import LIVE_ENCODINGS

_PATIENCE = 0.25  # seconds of sound that a listener has in hand before it begins to play, as the player does
_LEFT_BEHIND = ("sessions", "sockets", "clips", "tasks")
_SETTLE = 10.0  # seconds for the server to notice that the rude ones have gone
_AT_ONCE = 16  # rude ones
PROMPTS = (
    "medium swing piano trio",
    "bossa nova, nylon guitar",
    "fast bebop sax quartet",
    "slow ballad, trumpet",
)


@dataclass
class Heard:
    """What one listener heard. Times are in seconds."""

    blocks: list[float] = field(default_factory=list)  # that the server took to make them
    gaps: int = 0
    gap_seconds: float = 0.0
    seconds: float = 0.0
    bytes: int = 0  # of sound
    first: float | None = None  # from the connection to the first sound in hand
    refused: str | None = None

    def summary(self) -> dict[str, Any]:
        blocks = self.blocks or [float("nan")]
        p50, p95, p99 = (round(float(np.percentile(blocks, q)), 4) for q in (50, 95, 99))
        return {
            "blocks": len(self.blocks), "seconds": round(self.seconds, 2), "p50": p50, "p95": p95, "p99": p99,
            "gaps": self.gaps, "gap_seconds": round(self.gap_seconds, 3), "first_sound": self.first,
            "kbit_per_second": round(8 * self.bytes / self.seconds / 1000, 1) if self.seconds else None,
            "refused": self.refused,
        }  # fmt: skip


class Target:
    """A server, by its address and key."""

    def __init__(self, url: str, key: str | None = None):
        self.url = url.rstrip("/")
        self.headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urllib.parse.urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)

    def live(self, **options: Any) -> connect:
        address = f"ws{self.url.removeprefix('http')}/v1/live"
        options = {"max_size": None, "open_timeout": 30, "close_timeout": 2, **options}
        return connect(address, additional_headers=self.headers, **options)

    def metrics(self) -> dict[str, float]:
        """Gauges of the server that tell what is left behind, and its memory in bytes."""
        request = urllib.request.Request(f"{self.url}/metrics", headers=self.headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        values = dict(line.split(" ", 1) for line in lines if line and line[0] != "#" and "{" not in line)
        found = {name: float(values[f"rtjazz_{name}"]) for name in _LEFT_BEHIND}
        return {**found, "memory": float(values.get("process_resident_memory_bytes", "nan"))}


async def listen(
    target: Target, seconds: float, start: dict[str, Any], until: asyncio.Event | None = None
) -> Heard:
    """Play a session for so long (or `until`), by a clock of one's own, and note what a listener would."""
    heard, began = Heard(), time.monotonic()
    in_hand, ends = 0.0, None  # sound that waits for the player to begin; when what it has runs out
    try:
        async with target.live() as socket:
            await socket.send(json.dumps({"type": "start", "encoding": "s16", **start}))
            described: dict[str, Any] = {}
            while time.monotonic() - began < seconds and not (until and until.is_set()):
                message = await asyncio.wait_for(socket.recv(), 60)
                if isinstance(message, str):
                    described = json.loads(message)
                    if described["type"] == "error":
                        heard.refused = described["detail"]
                    continue
                now, length = time.monotonic(), described["samples"] / 48_000
                heard.blocks.append(described["stats"]["block_seconds"])
                heard.seconds += length
                heard.bytes += len(message)
                if heard.first is None:
                    heard.first = round(now - began, 3)
                if ends is not None and now > ends:
                    heard.gaps += 1
                    heard.gap_seconds += now - ends
                    ends, in_hand = None, 0.0
                in_hand += length
                if ends is not None:
                    ends += length
                elif in_hand >= _PATIENCE:
                    ends = now + in_hand
            await socket.send('{"type": "stop"}')
    except (OSError, TimeoutError, WebSocketException) as error:
        heard.refused = heard.refused or str(error) or type(error).__name__
    return heard


# -- rude ones ---------------------------------------------------------------------------------------------------
class Client:
    """A rude one's connection. `pace`: what its pauses are multiplied by; a test has no time. `did`: what it sent."""

    def __init__(self, socket: ClientConnection, number: int, pace: float, did: Counter[str] | None = None):
        self.socket, self.rng, self.pace = socket, random.Random(number), pace
        self.did: Counter[str] = Counter() if did is None else did

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))
        self.did[kind] += 1

    async def ping(self, data: str) -> None:
        await self.socket.ping(data)
        self.did["ping"] += 1

    async def start(self) -> None:
        await self.say("start", prompt="bossa nova")

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.pace)

    def stop_reading(self) -> None:
        self.socket.transport.pause_reading()

    def vanish(self) -> None:
        self.socket.transport.abort()


async def _rubbish(client: Client) -> None:
    words = [b"\x00" * 100, "{", "[]", "null", '{"type": "start", "tempo": NaN}', "x" * 5000]
    for _ in range(30):
        await client.socket.send(client.rng.choice(words))
        await client.wait(0.02)


async def _rubbish_later(client: Client) -> None:
    await client.start()
    await _rubbish(client)


async def _too_large(client: Client) -> None:
    await client.say("start", prompt="x" * 1_000_000)
    await client.socket.recv()


async def _silent(client: Client) -> None:
    await client.wait(2)


async def _vanish(client: Client) -> None:
    await client.start()
    await client.wait(client.rng.random())
    client.vanish()


async def _read_slowly(client: Client) -> None:
    await client.start()
    client.stop_reading()
    await client.wait(5)
    client.vanish()


async def _update_madly(client: Client) -> None:
    await client.start()
    for tempo in range(60, 160):
        await client.say("update", tempo=tempo)


async def update_at_a_cost(client: Client, turns: int = 30) -> None:
    """Five a second that are valid, and all that may be asked for at once: 512 bars, eight long prompts."""
    await client.start()
    chords = ("Dm7", "G7alt", "Cmaj7", "F#m7b5", "Ab13", "Ebmaj7")
    words = ("medium swing", "piano trio", "bossa nova", "slow ballad", "tenor sax", "fast bebop", "with brushes")
    for turn in range(turns):
        if turn % 2:
            bars = (" ".join(client.rng.choices(chords, k=4)) for _ in range(512))
            await client.say("update", chords=" | ".join(bars))
        else:
            mix = {" ".join(client.rng.choices(words, k=40)): 1.0 + part for part in range(8)}
            await client.say("update", prompt=mix)
        await client.wait(0.2)


async def _gone_at_once(client: Client) -> None:
    await client.start()
    client.vanish()


async def ping_and_read_nothing(client: Client) -> None:
    await client.start()
    client.stop_reading()
    for turn in range(2000):
        await client.ping(f"{turn:0125d}")
    await client.wait(5)
    client.vanish()


async def _a_byte_a_second(client: Client) -> None:
    """Beside this connection, of a head that does not end."""
    await send_slowly(client.socket.remote_address, client.wait, client.did)


async def send_slowly(
    address: Sequence[Any], wait: Callable[[float], Awaitable[None]], did: Counter[str]
) -> None:
    """A byte a second, of a head that does not end, until it is all sent or the server has had enough."""
    _, writer = await asyncio.open_connection(*address[:2])
    did["connection"] += 1
    with suppress(OSError):
        for byte in b"GET /healthz HTTP/1.1":
            writer.write(bytes([byte]))
            await writer.drain()
            did["byte"] += 1
            await wait(1.0)
    writer.close()


RUDE = (
    _rubbish, _rubbish_later, _too_large, _silent, _vanish, _read_slowly, _update_madly, update_at_a_cost,
    _gone_at_once, ping_and_read_nothing, _a_byte_a_second,
)  # fmt: skip


async def connected(
    target: Target, act: Callable[[Client], Awaitable[None]], number: int, pace: float, did: Counter[str]
) -> None:
    """One client, until it is done, or the server has had enough of it."""
    with suppress(OSError, TimeoutError, WebSocketException):
        async with target.live(close_timeout=0.5) as socket:
            did["connection"] += 1
            await act(Client(socket, number, pace, did))


async def be_rude(
    target: Target,
    number: int,
    gate: asyncio.Semaphore,
    pace: float = 1.0,
    did: Counter[str] | None = None,
) -> str:
    """The `number`-th rude client; what it did."""
    act = RUDE[number % len(RUDE)]
    async with gate:
        await connected(target, act, number, pace, Counter() if did is None else did)
    return act.__name__.strip("_")


# -- the two tests -----------------------------------------------------------------------------------------------
async def load_test(
    target: Target, sessions: int, seconds: float, encoding: str = "s16", apart: float = 1.0
) -> list[dict[str, Any]]:
    """So many listeners, one after another so many seconds `apart`, who all stay until the last has listened for
    `seconds`; the summary of each."""
    began, last = time.monotonic(), apart * (sessions - 1)

    async def one(index: int) -> Heard:
        await asyncio.sleep(apart * index)
        start = {"prompt": PROMPTS[index % len(PROMPTS)], "seed": index, "encoding": encoding}
        return await listen(target, began + last + seconds - time.monotonic(), start)

    return [heard.summary() for heard in await asyncio.gather(*(one(index) for index in range(sessions)))]


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all listeners: how many asked, were refused, played, and played without a gap; their blocks and first sounds.

    P50 of a block: the median listener's; P99: that of the listener who has the slowest."""
    played = [row for row in rows if row["blocks"]]
    blocks = {name: [row[name] for row in played] or [float("nan")] for name in ("p50", "p99", "first_sound")}
    return {
        "asked": len(rows), "refused": sum(row["refused"] is not None for row in rows), "played": len(played),
        "without_a_gap": sum(not row["gaps"] and row["refused"] is None for row in played),
        "p50": float(np.median(blocks["p50"])), "p99": max(blocks["p99"]), "first_sound": max(blocks["first_sound"]),
    }  # fmt: skip


async def rude_test(target: Target, count: int, pace: float = 1.0) -> dict[str, Any]:
    """So many rude clients while one good one listens; what it heard, and what they left behind. pace: see `Client`."""
    before = await asyncio.to_thread(target.metrics)
    done, gate = asyncio.Event(), asyncio.Semaphore(_AT_ONCE)
    good = asyncio.create_task(listen(target, float("inf"), {"prompt": PROMPTS[0], "seed": 0}, done))
    await asyncio.sleep(2)
    acts = await asyncio.gather(*(be_rude(target, number, gate, pace) for number in range(count)))
    await asyncio.sleep(2)
    done.set()
    heard = await good
    until = time.monotonic() + _SETTLE
    while True:
        after = await asyncio.to_thread(target.metrics)
        if not (after["sessions"] or after["sockets"]) or time.monotonic() > until:
            break
        await asyncio.sleep(0.5)
    return {"good": heard.summary(), "rude": {act: acts.count(act) for act in sorted(set(acts))},
            "before": before, "after": after}  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A table of what listeners heard, on stderr."""
    print("session  blocks  P50 ms  P95 ms  P99 ms  gaps  gap s  first s  kbit/s  refused", file=sys.stderr)
    for index, row in enumerate(rows):
        times = "  ".join(f"{1000 * row[name]:6.0f}" for name in ("p50", "p95", "p99"))
        first = "-" if row["first_sound"] is None else f"{row['first_sound']:.2f}"
        rate = row["kbit_per_second"] or "-"
        print(
            f"{index + 1:7}  {row['blocks']:6}  {times}  {row['gaps']:4}  {row['gap_seconds']:5.2f}  {first:>7}  "
            f"{rate:>6}  "
            f"{row['refused'] or '-'}",
            file=sys.stderr,
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rtjazz_hf.server.load", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="(default: %(default)s)")
    parser.add_argument("--api-key-file", type=Path, help="its first key is used")
    parser.add_argument("--sessions", type=int, default=4, help="listeners at a time (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=2.0, help="from the last one's coming (default: %(default)g)")
    parser.add_argument("--apart", type=float, default=1.0, metavar="SECONDS",
                        help="from one to the next; 0: all ask at once (default: %(default)g)")  # fmt: skip
    parser.add_argument("--encoding", choices=LIVE_ENCODINGS, default="s16", help="(default: %(default)s)")
    parser.add_argument("--rude", type=int, metavar="N", help="N rude clients beside one good one, instead")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    args = parser.parse_args(argv)
    try:
        target = Target(args.url, read_api_keys(args.api_key_file)[0] if args.api_key_file else None)
        target.metrics()
        if args.rude:
            result: Any = asyncio.run(rude_test(target, args.rude))
            rows = [result["good"]]
        else:
            result = rows = asyncio.run(
                load_test(target, args.sessions, 60 * args.minutes, args.encoding, args.apart)
            )
    except (OSError, ValueError, urllib.error.URLError) as error:
        print(f"error: {error}; is `rtjazz serve` running at {args.url}?", file=sys.stderr)
        return 1
    show(rows)
    if not args.rude:
        print(
            "{asked} asked, {refused} were refused, {played} played, {without_a_gap} of them without a gap; a block "
            "took {p50:.3f} s (P50), {p99:.3f} s (the largest P99); the last heard something after {first_sound:.2f} s"
            .format(**totals(rows)),
            file=sys.stderr,
        )  # fmt: skip
    if args.rude:
        print(f"rude: {json.dumps(result['rude'])}", file=sys.stderr)
        for name in (*_LEFT_BEHIND, "memory"):
            print(
                f"{name}: {result['before'][name]:g} before, {result['after'][name]:g} after", file=sys.stderr
            )
    if args.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
