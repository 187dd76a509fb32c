"""Listeners beside a crowd that costs the server something: whether they, and one who comes late, hear all of it.

rtjazz serve &
python -m rtjazz_hf.server.crowds costly --sessions 4 --minutes 10

The listeners sit before the crowd comes. The crowd is a process of its own that steps back behind this one and the
server, so that on one machine it takes no more of the processors than what is left, as if it came from elsewhere; what
it got done is told, and with --crowd-only it does come from elsewhere. A priority above that of other programs, for
the server and for this, stands for a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
import urllib.error
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from .load import (
    PROMPTS,
    RUDE,
    Heard,
    Target,
    be_rude,
    connected,
    listen,
    ping_and_read_nothing,
    send_slowly,
    show,
    update_at_a_cost,
)

_LOOK_EVERY = 5.0  # seconds between two looks at the server's memory
_TELL_EVERY = 1.0  # seconds between two reports of what the crowd did
_TRY_AGAIN = 5.0  # seconds until somebody who was turned away comes again
_APART = 3.0  # seconds between two listeners
_SIT = 120.0  # seconds for the listeners to sit, before the crowd comes anyway
_STEP_BACK = 10  # the crowd's nice value above that of who starts it
_SLOW, _BUSY, _RUDE_A_SECOND = 300, 8, 10
Did = Counter[str]


async def _again_and_again(make: Callable[[int], Awaitable[Any]]) -> None:
    number = 0
    while True:
        with suppress(OSError):
            await make(number)
        await asyncio.sleep(0.05)
        number += 1


async def _costly(target: Target, did: Did) -> None:
    """One client, five valid and costly updates a second."""
    await _again_and_again(lambda number: connected(target, update_at_a_cost, number, 1.0, did))


async def _slow(target: Target, did: Did) -> None:
    """Three hundred connections of a byte a second; for each that is closed, another."""
    one = _again_and_again
    await asyncio.gather(
        *(one(lambda _: send_slowly(target.address, asyncio.sleep, did)) for _ in range(_SLOW))
    )


async def _rude(target: Target, did: Did) -> None:
    """Ten rude connections a second, of every kind in turn."""
    gate, number, going = asyncio.Semaphore(10 * len(RUDE)), 0, set()
    while True:
        going.add(task := asyncio.create_task(be_rude(target, number, gate, 1.0, did)))
        task.add_done_callback(going.discard)
        number += 1
        await asyncio.sleep(1.0 / _RUDE_A_SECOND)


async def _busy(target: Target, did: Did) -> None:
    """Eight that keep the server busy and never read."""
    one = _again_and_again
    crowd = (
        one(lambda number: connected(target, ping_and_read_nothing, number, 1.0, did)) for _ in range(_BUSY)
    )
    await asyncio.gather(*crowd)


async def _none(target: Target, did: Did) -> None:
    """Nobody: what the listeners hear on this machine anyway."""
    await asyncio.Event().wait()


CROWDS = {"none": _none, "costly": _costly, "slow": _slow, "rude": _rude, "busy": _busy}


async def alone(target: Target, crowd: str) -> None:
    """The crowd, until it is ended: a line of JSON each second tells what it did so far."""
    did: Did = Counter()
    began, crowding = time.monotonic(), asyncio.create_task(CROWDS[crowd](target, did))
    try:
        while not crowding.done():
            print(json.dumps({"seconds": round(time.monotonic() - began, 1), **did}), flush=True)
            await asyncio.wait([crowding], timeout=_TELL_EVERY)
        crowding.result()
    finally:
        crowding.cancel()


@asynccontextmanager
async def _elsewhere(target: Target, crowd: str) -> AsyncIterator[dict[str, float]]:
    """The crowd in a process of its own, once it is there; what it did, as far as it has told.

    Raises:
        ValueError: it ended at once.
    """
    did: dict[str, float] = {}
    if crowd == "none":
        yield did
        return
    command = (sys.executable, "-m", __spec__.name, crowd, "--crowd-only", "--url", target.url)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)

    async def read() -> None:
        while line := await process.stdout.readline():
            did.update(json.loads(line))

    reading = None
    try:
        if not (line := await process.stdout.readline()):  # the first one comes as it begins
            raise ValueError("the crowd did not come: its own words are above")
        did.update(json.loads(line))
        reading = asyncio.create_task(read())
        yield did
    finally:
        with suppress(ProcessLookupError):  # it ended by itself
            process.kill()
        await process.wait()
        if reading is not None:
            await reading


async def beside(target: Target, crowd: str, sessions: int, seconds: float) -> dict[str, Any]:
    """`sessions` listeners for so long, who sit before a crowd comes, and one more for the last fifth of it.

    Whoever is turned away comes again.

    Returns:
        "listeners" (a summary of each), "late" (that of the one more), "turned_away" (by its number, why, each time it
        was), "did": what the crowd sent, and in how many seconds; "memory_mb": the server's, in each fifth after
        the warm-up, at most; "growth_mb": of the last fifth over the first of these.
    """
    memory: list[tuple[float, float]] = []
    turned_away: dict[int, list[str]] = {}
    began = time.monotonic()

    async def look() -> None:
        while True:
            with suppress(OSError, urllib.error.URLError, KeyError):
                found = await asyncio.to_thread(target.metrics)
                memory.append((time.monotonic() - began, found["memory"] / 1e6))
            await asyncio.sleep(min(_LOOK_EVERY, seconds / 20))

    async def one(index: int, wait: float) -> Heard:
        await asyncio.sleep(wait)
        start = {"prompt": PROMPTS[index % len(PROMPTS)], "seed": index}
        while True:
            heard = await listen(target, began + seconds - time.monotonic(), start)
            if heard.refused is None or heard.blocks or time.monotonic() + _TRY_AGAIN > began + seconds:
                return heard
            turned_away.setdefault(index + 1, []).append(heard.refused)
            await asyncio.sleep(_TRY_AGAIN)

    pace = min(_APART, seconds / 20)
    listening = [asyncio.create_task(one(index, index * pace)) for index in range(sessions)]
    looking = asyncio.create_task(look())
    try:
        await _all_sit(target, sessions, min(_SIT, seconds / 4))
        async with _elsewhere(target, crowd) as did:
            late = one(sessions, began + 0.8 * seconds - time.monotonic())
            *listeners, last = await asyncio.gather(*listening, late)
    finally:
        for task in (looking, *listening):
            task.cancel()
        await asyncio.gather(looking, *listening, return_exceptions=True)
    fifths = [[mb for at, mb in memory if low <= at / seconds < low + 0.2] for low in (0.2, 0.4, 0.6, 0.8)]
    most = [round(max(values), 1) for values in fifths if values]
    return {
        "crowd": crowd, "listeners": [heard.summary() for heard in listeners], "late": last.summary(),
        "turned_away": turned_away, "did": did, "memory_mb": most,
        "growth_mb": round(most[-1] - most[0], 1) if most else None,
    }  # fmt: skip


async def _all_sit(target: Target, sessions: int, patience: float) -> None:
    """Until each has a seat."""
    until = time.monotonic() + patience
    while time.monotonic() < until and (await asyncio.to_thread(target.metrics))["sessions"] < sessions:
        await asyncio.sleep(0.1)


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
    parser.add_argument("--crowd-only", action="store_true",
                        help="the crowd without listeners, until it is ended: from another machine, say")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    args = parser.parse_args(argv)
    target = Target(args.url)
    try:
        target.metrics()
        if args.crowd_only:
            _step_back()
            asyncio.run(alone(target, args.crowd))
            return 0
        result = asyncio.run(beside(target, args.crowd, args.sessions, 60 * args.minutes))
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, urllib.error.URLError) as error:
        print(f"error: {error}; is `rtjazz serve` running at {args.url}?", file=sys.stderr)
        return 1
    show([*result["listeners"], result["late"]])
    print(f"the last of them came late, beside {args.crowd}", file=sys.stderr)
    for number, reasons in result["turned_away"].items():
        print(
            f"number {number} was turned away {len(reasons)} times, at last: {reasons[-1]}", file=sys.stderr
        )
    print(f"the crowd: {json.dumps(result['did'])}", file=sys.stderr)
    print(f"memory: {result['memory_mb']} MB; grew by {result['growth_mb']} MB", file=sys.stderr)
    if args.json:
        print(json.dumps(result))
    return 0


def _step_back() -> None:
    """Let other processes go first, where the system knows of such a thing."""
    if hasattr(os, "nice"):
        os.nice(_STEP_BACK)


if __name__ == "__main__":
    sys.exit(main())
