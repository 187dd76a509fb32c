"""Threads of the processor: how many of torch's make a block, and that they sleep while they wait for each other.

A block of a small model is many short products. OpenMP's threads spin while they wait for the next one; beside another
program that takes one of the cores, each product then waits for a thread that the system does not let run, and a block
takes ten times as long and more. So they are told to sleep before torch starts them, and there are no more of them than
pay. Which that is shows while the music plays: nothing is measured before it.

Nothing here imports torch before it is used: `let_threads_sleep` is for the time before.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# what says how OpenMP's threads wait: the standard's, GNU's, Intel's and LLVM's
_POLICY, _GNU_SPINS, _LLVM_SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_MOST = 8  # threads: a block has too little work for more
_ENOUGH = 0.5  # of a block's length: who makes one in so much needs no other thread
_TRIED = 4  # blocks of a number of threads, before it is judged
_PAYS = 0.9  # of the time before, at most, for a larger number to stay
_AGAIN, _LONGEST = 30.0, 600.0  # seconds until a number that did not pay is tried again; doubled each time
_ASLEEP = 30.0  # seconds: no block takes so long, the machine slept


def let_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait, unless the environment says how they wait, or torch is there: they
    ask once, when it is imported."""
    if "torch" not in sys.modules and not any(name in os.environ for name in (_POLICY, _GNU_SPINS, _LLVM_SPINS)):
        os.environ[_POLICY] = "PASSIVE"


def threads_sleep() -> bool:
    """Whether the environment has OpenMP's threads sleep while they wait."""
    policy, *spins = (os.environ.get(name, "").strip().lower() for name in (_POLICY, _GNU_SPINS, _LLVM_SPINS))
    return policy == "passive" or "0" in spins


# -- cores -------------------------------------------------------------------------------------------------------
def allowed_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """Cores that this process may keep busy, at least 1: those that it may run on, and that its cgroup has time for."""
    quota = cgroup_cores()
    return max(1, allowed_cores() if quota is None else min(allowed_cores(), int(quota)))


def cgroup_cores(root: Path = Path("/")) -> float | None:
    """How many cores' time the cgroup of this process, or one around it, gets; None for no limit, or no cgroups.

    Args:
        root: where `proc` and `sys` are.
    """
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # in a container the path is often that of the host, and the files are those of the mount itself
        folder = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            limits.append(_quota(folder.joinpath(*parts[:depth])))
    return min((limit for limit in limits if limit is not None), default=None)


def _quota(folder: Path) -> float | None:
    pair = _text(folder / "cpu.max").split() or [  # version 2, or 1
        _text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    try:
        quota, period = float(pair[0]), float(pair[1])
    except (IndexError, ValueError):  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


# -- threads of a block ------------------------------------------------------------------------------------------
def thread_counts() -> tuple[int, ...]:
    """Numbers of threads to choose from, fewest first.

    What somebody asked torch for, by `torch.set_num_threads` or the environment, is no choice. Where threads spin there
    is none either: one. Else 1, 2, 4, 8, as far as there are cores.
    """
    import psutil
    import torch

    now, cores = torch.get_num_threads(), allowed_cores()
    if any(name in os.environ for name in _COUNTS) or now not in (cores, psutil.cpu_count(logical=False) or cores):
        return (now,)
    most = min(now, usable_cores(), _MOST) if threads_sleep() else 1
    return tuple(count for count in (1, 2, 4, 8) if count <= most)


class BlockThreads:
    """How many threads of torch make the blocks: few that do, more where they are slow and it pays, fewer after a block
    that came late.

    Threads that share it find out together. Only the time from one block to the next counts, so a change of the load
    beside is answered within a few blocks.

    Args:
        counts: numbers to choose from, fewest first; by default `thread_counts`.
        enough: of a block's length. Who makes one in less needs no more threads; 0 looks for the fastest number.
        clock: seconds.
    """

    def __init__(
        self,
        counts: Sequence[int] | None = None,
        enough: float = _ENOUGH,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._given, self._enough, self._clock = counts, enough, clock
        self._lock = threading.Lock()
        self._at = 0  # of the counts
        self._recent: deque[float] = deque(maxlen=_TRIED)  # shares of their length that the last blocks took
        self._before: float | None = None  # the share with fewer threads, while more are tried
        self._good = float("inf")  # the share when it was found that these pay
        self._wait, self._again = _AGAIN, -float("inf")

    def __reduce__(self) -> tuple:
        return type(self), (self._given, self._enough)  # a copy, in another process perhaps, finds out for itself

    @property
    def counts(self) -> tuple[int, ...]:
        if self._given is None:  # asked for when there is a block to make: torch may be told until then
            self._given = thread_counts()
        return tuple(self._given)

    @property
    def count(self) -> int:
        """Threads of the next block."""
        return self.counts[self._at]

    @contextmanager
    def block(self, seconds: float) -> Iterator[None]:
        """While a block of so many seconds is made: torch has as many threads as were chosen, in the thread that calls,
        and what it takes is noted."""
        count, started = self.count, self._clock()
        with torch_threads(count):
            yield
        self.note(count, self._clock() - started, seconds)

    def note(self, count: int, taken: float, seconds: float) -> None:
        """A block of so many seconds took `taken` to make with `count` threads."""
        with self._lock:
            if count != self.count or taken > _ASLEEP or len(self.counts) == 1:
                return
            if self._at and taken > seconds and self._enough:
                self._lower()
                return
            self._recent.append(taken / seconds)
            if len(self._recent) < _TRIED:
                return
            share = statistics.median(self._recent)
            if share > (2 * self._good if self._before is None else _PAYS * self._before):
                self._lower()
                return
            if self._before is not None:
                self._before, self._good = None, share
            more = self._at + 1 < len(self.counts)
            if more and share > self._enough and self._clock() >= self._again:
                self._before = share
                self._at += 1
                self._recent.clear()

    def _lower(self) -> None:
        """Fewer threads, and none more for a while."""
        self._at -= 1
        self._before, self._good = None, float("inf")
        self._recent.clear()
        self._again = self._clock() + self._wait
        self._wait = min(2 * self._wait, _LONGEST)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Torch's threads, for what the calling thread does meanwhile; `None` leaves them."""
    import torch

    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


__all__ = [
    "BlockThreads",
    "allowed_cores",
    "cgroup_cores",
    "let_threads_sleep",
    "thread_counts",
    "threads_sleep",
    "torch_threads",
    "usable_cores",
]
