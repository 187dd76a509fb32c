"""Ableton Link as a clock to follow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any


class LinkClock:
    """The shared beat of an Ableton Link session; needs `aalink` (`rtjazz-hf[link]`).

    Link's peers share beat and bar phase; the number of the bar is each one's own. Here bar 1 is the bar of the
    set that sounds when this object is made, or, with `start_stop`, when a peer presses start.

    Link tells nobody who joins whether the others play; it passes on only that somebody presses start or stop.

    Args:
        tempo: of a session that nobody else is in. quantum: beats in a bar.
        start_stop: run only while the peers' transport does: from now on, until one of them presses stop.
        joins_playing: False: with `start_stop`, wait until one of them presses start.
        link: an `aalink.Link`, instead of a new one.

    Raises:
        ImportError: aalink is not installed.
    """

    def __init__(
        self,
        tempo: float = 120.0,
        quantum: int = 4,
        start_stop: bool = False,
        joins_playing: bool = True,
        link: Any = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._link = _open_link(tempo) if link is None else link
        self._clock = clock
        self._start_stop = start_stop
        self._link.quantum = float(quantum)
        self._link.enabled = True
        if start_stop and joins_playing:
            # Before they are shared our own transport's orders reach nobody, and it obeys the peers' next one.
            self._link.playing = True
        self._link.start_stop_sync_enabled = start_stop
        self._quantum = quantum
        self._was_running = False
        self._location = 0
        self._origin = 0.0

    @property
    def running(self) -> bool:
        running = not self._start_stop or bool(self._link.playing)
        if running and not self._was_running:
            self._origin = math.floor(self._link.beat / self._quantum) * self._quantum
            self._location += 1
        self._was_running = running
        return running

    @property
    def tempo(self) -> float:
        return float(self._link.tempo)

    @tempo.setter
    def tempo(self, tempo: float) -> None:
        """Change the tempo of all peers."""
        self._link.tempo = float(tempo)

    @property
    def location(self) -> int:
        return self._location

    @property
    def problem(self) -> None:
        return None  # a peer that leaves leaves the beat behind

    @property
    def num_peers(self) -> int:
        return int(self._link.num_peers)

    def beat_at(self, seconds: float) -> float:
        now = self._clock()
        return float(self._link.beat) - self._origin + (seconds - now) * self.tempo / 60.0

    def close(self) -> None:
        self._link.enabled = False


def _open_link(tempo: float) -> Any:
    try:
        import aalink
    except ImportError as error:
        raise ImportError("Ableton Link needs aalink; run: pip install 'rtjazz-hf[link]'") from error
    import asyncio

    async def made() -> Any:  # it wants a loop for its listeners; there are none here, so the loop may end
        return aalink.Link(tempo)

    return asyncio.run(made())
