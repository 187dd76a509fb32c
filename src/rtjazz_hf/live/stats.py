"""How a session keeps up: block times, under-runs against a listener's clock, and answers to controls."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_REMEMBERED = 4096  # block times kept for the percentiles: half an hour of 36-frame blocks


@dataclass(frozen=True)
class Latency:
    """Seconds from an update to what obeys it: of the last one, on average, and at most; NaN without any."""

    last: float = math.nan
    mean: float = math.nan
    max: float = math.nan


@dataclass(frozen=True)
class LiveStats:
    """How a session keeps up. All times are in seconds.

    Under-runs are counted against a listener who begins to play the first block when it is handed out (or
    when `LiveSession.playback_started` says so) and plays on without a break: a block is late when it is
    handed out after the sound before it has run out, however long it took to make. A listener who came back
    for more later than a block's length after the sound had run out had stopped listening; that is a pause,
    no under-run, and the clock starts again.

    Attributes:
        blocks: blocks made. audio_seconds: their length in all.
        p50, p95, p99: percentiles of the time a block takes, from being asked for to being handed out.
        real_time_factor: time to make over length; below 1 keeps up.
        under_runs: late blocks. under_run_seconds: the silence that they left in all. pauses: see above.
        time_to_first_audio: from the call of `live` to the first block, the listener's own time and the
            first warm-up of the models not counted.
        updates: updates that a block has obeyed while the music played; those that waited for a bar line are not
            among them.
        control_to_output: from the call of `update` until the first block that obeys it is handed out.
        control_to_ear: until the listener hears it: what was handed out before plays to its end first. For one
            who asks just in time it is at most a block's length and the time to make one; for a loop that asks for
            blocks faster than they are heard, into a file, it is as long as what lies ready then.
    """

    blocks: int
    audio_seconds: float
    p50: float
    p95: float
    p99: float
    real_time_factor: float
    under_runs: int
    under_run_seconds: float
    pauses: int
    time_to_first_audio: float
    updates: int
    control_to_output: Latency
    control_to_ear: Latency

    def to_dict(self) -> dict[str, Any]:
        """The numbers in JSON's types, latencies as dicts."""
        return dataclasses.asdict(self)


class LiveMeter:
    """The stop-watch of one session. Its methods may be called from several threads.

    Args:
        setup_seconds: what `live` took before the first block could be asked for.
        clock: a clock in seconds.
    """

    def __init__(self, setup_seconds: float = 0.0, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.setup_seconds = setup_seconds
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self._blocks = self._under_runs = self._pauses = 0
        self._audio_seconds = self._making_seconds = self._under_run_seconds = 0.0
        self._first_audio = math.nan
        self._ends = math.nan  # when the listener will have played all that was handed out
        self._last_duration = 0.0
        self._to_output, self._to_ear = _Latencies(), _Latencies()

    def handed_out(self, asked: float, duration: float, updates: Sequence[float] = ()) -> float:
        """Note that a block of `duration`, asked for at `asked`, is ready now; the time that it took.

        updates: when those updates were called that this block is the first to obey.
        """
        now = self.clock()
        with self._lock:
            starts = now  # to be heard
            if self._blocks == 0:
                self._first_audio = self.setup_seconds + now - asked
                updates = ()  # nothing played that they could have changed
            elif now <= self._ends:
                starts = self._ends
            elif asked > self._ends + self._last_duration:
                self._pauses += 1
                updates = ()
            else:
                self._under_runs += 1
                self._under_run_seconds += now - self._ends
            self._ends, self._last_duration = starts + duration, duration
            for called in updates:
                self._to_output.add(now - called)
                self._to_ear.add(starts - called)
            self._blocks += 1
            self._audio_seconds += duration
            self._making_seconds += now - asked
            self._times.append(now - asked)
        return now - asked

    def playback_started(self) -> None:
        """The listener, who had waited to have some sound in hand, begins to play what it got so far."""
        with self._lock:
            self._ends = self.clock() + self._audio_seconds

    @property
    def seconds_ahead(self) -> float:
        """Sound that was handed out and, by the listener's clock, is still to be heard."""
        return max(0.0, self._ends - self.clock()) if self._blocks else 0.0

    def stats(self) -> LiveStats:
        with self._lock:
            p50, p95, p99 = map(float, np.percentile(list(self._times) or [math.nan], (50, 95, 99)))
            return LiveStats(
                blocks=self._blocks,
                audio_seconds=self._audio_seconds,
                p50=p50,
                p95=p95,
                p99=p99,
                real_time_factor=self._making_seconds / self._audio_seconds if self._blocks else math.nan,
                under_runs=self._under_runs,
                under_run_seconds=self._under_run_seconds,
                pauses=self._pauses,
                time_to_first_audio=self._first_audio,
                updates=self._to_ear.count,
                control_to_output=self._to_output.latency(),
                control_to_ear=self._to_ear.latency(),
            )


class _Latencies:
    def __init__(self) -> None:
        self.count, self.total, self.last, self.most = 0, 0.0, math.nan, -math.inf

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.last, self.most = seconds, max(self.most, seconds)

    def latency(self) -> Latency:
        return Latency(self.last, self.total / self.count, self.most) if self.count else Latency()
