"""Whether one more session fits: judged by what blocks take on this machine, now."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from ..runtime.threads import allowed_cores

_REMEMBERED = 30.0  # seconds; a machine that was busy a minute ago may be free now
_ENOUGH = 4  # steps of a single session before they are trusted more than what was measured before
# Steps of a group's size before they are trusted more than what is extrapolated from a smaller one: a batch costs much
# less than its rows one by one, and of listeners who come a second apart the third would be refused for nothing.
_SEEN = 2
_PERCENTILE = 95
_STRAINED_BUFFER = 3.0  # seconds in hand of the only listener of a machine that hardly keeps up
_BUSY, _BUSY_BUFFER = 0.6, 1.5  # share of a block's length from which several have so many seconds in hand


class BlockTimes:
    """Times that the group's steps took, and what they would be with one session more.

    A mean would admit a session that breaks every tenth block; so a high percentile is what counts, and it is
    assumed that another row costs as much as those that are there.

    Args:
        alone: seconds that a block of one session takes at the worst, measured before anybody plays; less, once one
            plays and takes less.
        clock: a clock in seconds.
    """

    def __init__(self, alone: float, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._alone = alone
        self._steps: deque[tuple[float, int, float]] = deque(maxlen=512)  # when, sessions, seconds

    @property
    def alone(self) -> float:
        """Seconds of a block of a single session."""
        with self._lock:
            recent = [seconds for sessions, seconds in self._recent() if sessions == 1]
            return _high(recent) if len(recent) >= _ENOUGH else self._alone

    @alone.setter
    def alone(self, seconds: float) -> None:
        with self._lock:
            self._alone = seconds

    def add(self, sessions: int, seconds: float) -> None:
        """A step that made blocks of so many sessions took so long."""
        with self._lock:
            self._steps.append((self._clock(), sessions, seconds))
            alone = [each for count, each in self._recent() if count == 1] if sessions == 1 else []
            if len(alone) >= _ENOUGH:  # other programs may have been at work while it was measured
                self._alone = min(self._alone, _high(alone))

    def predict(self, sessions: int) -> float:
        """Seconds that a step of so many sessions takes at the 95th percentile."""
        if sessions == 0:
            return 0.0
        with self._lock:
            recent = self._recent()
            sizes = {size for size, _ in recent if size <= sessions}
            for size in sorted(sizes, reverse=True):
                times = [seconds for count, seconds in recent if count == size]
                if len(times) >= (_ENOUGH if size == 1 else _SEEN):
                    return _high(times) * sessions / size
            return self._alone * sessions

    def more_in_hand(self, sessions: int, block_seconds: float, load: float) -> float:
        """Seconds of sound that so many listeners should have in hand on a machine that was busy lately, else 0.

        Where a block takes long at the 95th percentile it may take longer than it plays now and then. A change is heard
        later by as much, which is better than a gap."""
        if sessions <= 1:
            return _STRAINED_BUFFER if why_strained(self.alone, block_seconds, load) else 0.0
        return _BUSY_BUFFER if self.predict(sessions) >= block_seconds * min(load, _BUSY) else 0.0

    def _recent(self) -> list[tuple[int, float]]:
        since = self._clock() - _REMEMBERED
        return [(sessions, seconds) for when, sessions, seconds in self._steps if when >= since]


def why_strained(alone: float, block_seconds: float, load: float) -> str | None:
    """What is wrong, and why, where a block of a single session takes about so long as it plays, or longer; else None.

    Args:
        alone: seconds that it takes. load: share of a block's length that all sessions together may take.
    """
    if alone < block_seconds * min(load, 0.95):
        return None
    text = (
        f"this machine hardly keeps up: a block of {block_seconds:.2f} s takes {alone:.2f} s to make; there may be gaps"
    )
    cores = allowed_cores()
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load_average - 1.0 > 0.5 * cores:  # this program is one of them
        return (
            f"{text}: other programs take its processors ({load_average:.1f} at work on {cores}); end some of them"
        )
    return f"{text}: a smaller model, or another machine, would play without"


def _high(times: list[float]) -> float:
    return float(np.percentile(times, _PERCENTILE, method="higher"))
