"""Who listens: seats of live sessions, clips in the making, and the queues of blocks to their readers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..live import LiveSession


class Unavailable(Exception):
    """Not now: `reason` is a word for the metrics, `retry_after` in seconds."""

    def __init__(self, detail: str, reason: str, retry_after: int = 10):
        super().__init__(detail)
        self.reason, self.retry_after = reason, retry_after


def is_draining() -> Unavailable:
    return Unavailable("the server is stopping; try again in a moment", "draining")


class BlockQueue:
    """Blocks on their way from the engine's thread to a reader in the event loop; never more than `limit`."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop):
        self._limit, self._loop = limit, loop
        self._lock = threading.Lock()
        self._items: deque[Any] = deque()
        self._filled = asyncio.Event()
        self._ended = False
        self.full_since: float | None = None  # by time.monotonic

    def put(self, item: Any) -> bool:
        """False, and nothing is kept, where the reader is that far behind."""
        with self._lock:
            if self._ended or len(self._items) >= self._limit:
                self.full_since = self.full_since or time.monotonic()
                return False
            self.full_since = None
            self._items.append(item)
        self._notify()
        return True

    def end(self) -> None:
        """Nothing more will come."""
        with self._lock:
            self._ended = True
        self._notify()

    @property
    def has_room(self) -> bool:
        return len(self._items) < self._limit

    async def get(self) -> Any | None:
        """The next item; None after the last."""
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()
                if self._ended:
                    return None
                self._filled.clear()
            await self._filled.wait()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._filled.set)


@dataclasses.dataclass(eq=False)
class Seat:
    """A live session and its one listener."""

    name: str
    session: LiveSession
    queue: BlockQueue  # of pairs of a LiveBlock and the session's LiveStats
    adapter: Any = None  # as asked for, and its scale
    adapter_scale: float | None = None
    since: float = dataclasses.field(default_factory=time.monotonic)
    begun: bool = False  # a block of it was made
    held: deque[Any] = dataclasses.field(default_factory=deque)  # of what goes into the queue, what is not there yet
    dropped: int = 0
    under_runs: int = 0  # as last counted
    failures: int = 0  # steps in a row
    cost: float = 0.0  # seconds of a processor that its updates have taken
    ending: str | None = None  # why the engine ended it
    resume: str | None = None  # token of its saved state
    hand_over: bool = False  # its listener is given its state when the server stops
    state: bytes | None = None  # which is this
    remarks: list[str] = dataclasses.field(default_factory=list)  # about a melody, when it was last asked for

    def hand_out(self) -> bool:
        """Put what is held into the queue; False where a reader is so far behind that some of it is lost."""
        taken = True
        with contextlib.suppress(IndexError):  # several threads may come for it
            while True:
                taken = self.queue.put(self.held.popleft()) and taken
        return taken

    @property
    def mix(self) -> tuple:
        return mix_key(self.adapter, self.adapter_scale)


@dataclasses.dataclass(eq=False)
class Clip:
    """A clip in the making."""

    session: LiveSession
    queue: BlockQueue  # of arrays (2, samples)
    samples: int
    seed: int
    cost: float  # of a block, in blocks with the model's own settings
    made: int = 0  # samples
    progress: float = dataclasses.field(default_factory=time.monotonic)  # when it last got on
    failure: str | None = None

    @property
    def finished(self) -> bool:
        return self.made >= self.samples or self.failure is not None


def mix_key(adapter: Any, scale: float | None) -> tuple:
    """A mix of adapters, to be compared; strengths of 0 are none."""
    mix = {adapter: 1.0} if isinstance(adapter, str) else adapter or {}
    scale = 1.0 if scale is None else scale
    return tuple(sorted((name, weight * scale) for name, weight in mix.items() if weight * scale))
