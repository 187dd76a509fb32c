"""Whether one more session fits: judged by what blocks take on this machine, now."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable

import numpy as np

from ..runtime.threads import allowed_cores

_REMEMBERED = 30.0  # seconds; a machine that was busy a minute ago may be free now
_ENOUGH = 4  # steps of a single session before they are trusted more than what was measured before
# Steps of a group's size before they are trusted more than what is extrapolated from a smaller one: a batch costs much
# less than its rows one by one.
_SEEN = 2
_PERCENTILE, _MEDIAN = 95, 50
_REACH, _FEW = 1.5, 8  # times as many as were seen, and sessions up to which a guess from fewer is too high anyway
_ALIKE = 0.9  # share of the sessions that play, which a step had, for its time to say what theirs takes
_POOLED = 0.75  # the same for its time to be one of those of which the slow ones count
_STRAINED_BUFFER = 3.0  # seconds in hand of the only listener of a machine that hardly keeps up
_BUSY, _BUSY_BUFFER = 0.6, 1.5  # share of a block's length from which several have so many seconds in hand


class BlockTimes:
    """Times that the group's steps took, and what they would be with one session more.

    A mean would admit a session that breaks every tenth block; so a high percentile is what counts, and it is
    assumed that another row costs as much as those that are there. That is too much where few play, of whom each pays
    its share of what a batch costs anyway: so who finds no room by a guess from fewer waits until so many were seen
    (`knows`), and is sent away where blocks as they mostly are (`typical`) leave none.

    A step after somebody came or left puts the rows together anew and meets a size that the engine has not seen: it
    is not `settled`, and counts only where nothing better is known of its size.

    Args:
        alone: seconds that a block of one session takes at the worst, measured before anybody plays; less, once one
            plays and takes less.
        clock: a clock in seconds.
    """

    def __init__(self, alone: float, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._alone = alone
        self._steps: deque[tuple[float, int, float, bool]] = deque(maxlen=512)  # when, sessions, seconds, settled

    @property
    def alone(self) -> float:
        """Seconds of a block of a single session."""
        return self.predict(1)

    @alone.setter
    def alone(self, seconds: float) -> None:
        with self._lock:
            self._alone = seconds

    def add(self, sessions: int, seconds: float, settled: bool = True) -> None:
        """A step that made blocks of so many sessions took so long."""
        with self._lock:
            self._steps.append((self._clock(), sessions, seconds, settled))
            if sessions == 1 and (found := self._nearest(1))[0]:  # others may have been at work while it was measured
                self._alone = min(self._alone, _at(_PERCENTILE, found[1]))

    def predict(self, sessions: int) -> float:
        """Seconds that a step of so many sessions takes at the 95th percentile."""
        return self._at(_PERCENTILE, sessions)

    def typical(self, sessions: int) -> float:
        """Seconds that half of all steps of so many sessions take."""
        return self._at(_MEDIAN, sessions)

    def knows(self, sessions: int) -> bool:
        """Whether steps of about so many were seen lately, after the last of them had settled."""
        with self._lock:
            size, _, settled = self._nearest(sessions)
        return settled and size >= _ALIKE * sessions

    def reaches(self, sessions: int) -> bool:
        """Whether so many are not too many more than were seen for `predict` to say what they take."""
        with self._lock:
            size, *_ = self._nearest(sessions)
        return sessions <= max(_FEW, _REACH * size) or not size

    def _at(self, percentile: float, sessions: int) -> float:
        if sessions == 0:
            return 0.0
        with self._lock:
            size, times, _ = self._nearest(sessions)
            return sessions * (_at(percentile, times) / size if size else self._alone)

    def _nearest(self, sessions: int) -> tuple[int, list[float], bool]:
        """The largest size up to so many of which enough was seen, the seconds of its steps, and whether these had
        settled; size 0 where there is none. Steps of somewhat fewer are among them, by what each of its sessions took:
        of few steps the slowest would count, which another program may have been."""
        since = self._clock() - _REMEMBERED
        seen: dict[tuple[int, bool], list[float]] = defaultdict(list)
        for when, size, seconds, settled in self._steps:
            if when >= since and size <= sessions:
                seen[size, settled].append(seconds)
        enough = [each for each, times in seen.items() if len(times) >= (_ENOUGH if each[0] == 1 else _SEEN)]
        if not enough:
            return 0, [], False
        size, settled = max(enough)  # where there are both, those that had settled
        alike = [(few, each / few) for (few, kind), times in seen.items() if kind == settled for each in times]
        return size, [size * each for few, each in alike if few >= _POOLED * size], settled

    def more_in_hand(self, sessions: int, block_seconds: float, load: float) -> float:
        """Seconds of sound that so many listeners should have in hand on a machine that was busy lately, else 0.

        Where a block takes long at the 95th percentile it may take longer than it plays now and then. A change is heard
        later by as much, which is better than a gap."""
        if sessions <= 1:
            return _STRAINED_BUFFER if why_strained(self.alone, block_seconds, load) else 0.0
        return _BUSY_BUFFER if self.predict(sessions) >= block_seconds * min(load, _BUSY) else 0.0


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



def _at(percentile: float, times: list[float]) -> float:
    return float(np.percentile(times, percentile, method="higher"))
