"""Listeners beside a crowd that costs the server something: whether they, and one who comes late, hear all of it.

rtjazz serve &
python -m rtjazz_hf.server.crowds costly --sessions 4 --minutes 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import urllib.error
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from websockets.exceptions import WebSocketException

from .load import (
    PROMPTS,
    RUDE,
    Client,
    Target,
    be_rude,
    listen,
    ping_and_read_nothing,
    send_slowly,
    show,
    update_at_a_cost,
)

_LOOK_EVERY = 5.0  # seconds between two looks at the server's memory
_SLOW, _BUSY, _RUDE_A_SECOND = 300, 8, 10


async def _ended(target: Target, act: Callable[[Client], Awaitable[None]], number: int) -> None:
    """One of a crowd, until it is done, or the server has had enough of it."""
    with suppress(OSError, TimeoutError, WebSocketException):
        async with target.live(close_timeout=0.5) as socket:
            await act(Client(socket, number, 1.0))


async def _again_and_again(make: Callable[[int], Awaitable[Any]]) -> None:
    number = 0
    while True:
        with suppress(OSError):
            await make(number)
        await asyncio.sleep(0.05)
        number += 1


async def _costly(target: Target) -> None:
    """One client, five valid and costly updates a second."""
    await _again_and_again(lambda number: _ended(target, update_at_a_cost, number))


async def _slow(target: Target) -> None:
    """Three hundred connections of a byte a second; for each that is closed, another."""
    one = _again_and_again
    await asyncio.gather(*(one(lambda _: send_slowly(target.address, asyncio.sleep)) for _ in range(_SLOW)))


async def _rude(target: Target) -> None:
    """Ten rude connections a second, of every kind in turn."""
    gate, number, going = asyncio.Semaphore(10 * len(RUDE)), 0, set()
    while True:
        going.add(task := asyncio.create_task(be_rude(target, number, gate)))
        task.add_done_callback(going.discard)
        number += 1
        await asyncio.sleep(1.0 / _RUDE_A_SECOND)


async def _busy(target: Target) -> None:
    """Eight that keep the server busy and never read."""
    one = _again_and_again
    crowd = (one(lambda number: _ended(target, ping_and_read_nothing, number)) for _ in range(_BUSY))
    await asyncio.gather(*crowd)


async def _none(target: Target) -> None:
    """Nobody: what the listeners hear on this machine anyway."""
    await asyncio.Event().wait()


CROWDS = {"none": _none, "costly": _costly, "slow": _slow, "rude": _rude, "busy": _busy}


async def beside(target: Target, crowd: str, sessions: int, seconds: float) -> dict[str, Any]:
    """`sessions` listeners for so long beside a crowd, and one more for the last fifth of it.

    Returns:
        "listeners" (a summary of each), "late" (that of the one more), "memory_mb": the server's, in each fifth after
        the warm-up, at most; "growth_mb": of the last fifth over the first of these.
    """
    memory: list[tuple[float, float]] = []
    began = time.monotonic()

    async def look() -> None:
        while True:
            with suppress(OSError, urllib.error.URLError, KeyError):
                found = await asyncio.to_thread(target.metrics)
                memory.append((time.monotonic() - began, found["memory"] / 1e6))
            await asyncio.sleep(min(_LOOK_EVERY, seconds / 20))

    async def one(index: int, wait: float) -> dict[str, Any]:
        await asyncio.sleep(wait)
        start = {"prompt": PROMPTS[index % len(PROMPTS)], "seed": index}
        return (await listen(target, seconds - wait, start)).summary()

    crowding = asyncio.create_task(CROWDS[crowd](target))
    looking = asyncio.create_task(look())
    pace = min(1.0, seconds / 20)
    try:
        *listeners, late = await asyncio.gather(
            *(one(index, index * pace) for index in range(sessions)), one(sessions, 0.8 * seconds)
        )
    finally:
        for task in (crowding, looking):
            task.cancel()
        await asyncio.gather(crowding, looking, return_exceptions=True)
    fifths = [[mb for at, mb in memory if low <= at / seconds < low + 0.2] for low in (0.2, 0.4, 0.6, 0.8)]
    most = [round(max(values), 1) for values in fifths if values]
    return {
        "crowd": crowd, "listeners": listeners, "late": late, "memory_mb": most,
        "growth_mb": round(most[-1] - most[0], 1) if most else None,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rtjazz_hf.server.crowds", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    told = "; ".join(f"{name}: {act.__doc__.strip().rstrip('.')}" for name, act in CROWDS.items())
    parser.add_argument("crowd", choices=CROWDS, help=told)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="(default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=4, help="listeners at a time (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="(default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    args = parser.parse_args(argv)
    target = Target(args.url)
    try:
        target.metrics()
        result = asyncio.run(beside(target, args.crowd, args.sessions, 60 * args.minutes))
    except (OSError, ValueError, urllib.error.URLError) as error:
        print(f"error: {error}; is `rtjazz serve` running at {args.url}?", file=sys.stderr)
        return 1
    show([*result["listeners"], result["late"]])
    print(f"the last of them came late, beside {args.crowd}", file=sys.stderr)
    print(f"memory: {result['memory_mb']} MB; grew by {result['growth_mb']} MB", file=sys.stderr)
    if args.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
