"""In time with other machines: clocks that are followed, MIDI clock (`link.py` has Ableton Link's), and led.

Times are seconds of one clock, `time.perf_counter` unless something else is given; beats are quarter notes,
0 the first downbeat of the set. A `Clock` says which beat sounds at which time; a `ClockFollower` keeps a
session's beat on it; a `ClockLeader` turns a session's beats into MIDI clock.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..audio import FRAME_RATE
from ..music.vocabulary import MAX_TEMPO, MIN_TEMPO
from .midi_ports import import_mido

if TYPE_CHECKING:
    from ..music import LeadSheet
    from .midi_ports import MidiInput
    from .session import LiveSession

TICKS_PER_BEAT = 24  # MIDI 1.0: Timing Clock
TICKS_PER_POSITION = 6  # MIDI 1.0: Song Position Pointer counts semiquavers
_WINDOWS = (192, 96, 48, 24, 12)  # ticks that a fit looks at: 8 beats down to half a beat
_LEAST_TICKS = 6
_PAUSE = 0.5  # seconds without a tick after which the clock has stopped or gone
_MISSING = 2.5  # periods without a tick after which ticks are missing, and are not only late
_FINEST = 2e-4  # seconds; jitter below it is not looked for
_JUMP = 0.12  # seconds off beyond which the beat is moved at once, not led back
_MAX_STRETCH = 0.08  # of the tempo, while the beat is led back
_NEW_TEMPO = 0.06  # of the tempo: a change by more is none to lead through, the beat is moved with it
_ON_THE_BEAT = 0.01  # seconds


class Clock(Protocol):
    """What a session can follow.

    Attributes:
        running: whether the music of the set plays.
        tempo: beats per minute; None while not known yet.
        location: a number that changes when the set starts, or goes on from another place.
        problem: why the band is on its own just now, though the set is running; None where all is well.
    """

    @property
    def running(self) -> bool: ...
    @property
    def tempo(self) -> float | None: ...
    @property
    def location(self) -> int: ...
    @property
    def problem(self) -> str | None: ...
    def beat_at(self, seconds: float) -> float: ...


# ----------------------------------------------------------------------------------------------------------
# MIDI clock
# ----------------------------------------------------------------------------------------------------------
class MidiClock:
    """Tempo and place of an external MIDI clock: 24 ticks a beat, start, stop, continue and song position.

    A straight line is fitted to the last ticks (least squares, what lies far off left out), so that jitter of
    2 ms leaves well under 1 ms. The line looks back eight beats while they lie on one, and less, down to half a
    beat, where the last ticks leave it: a change of tempo is followed within a quarter of a beat.

    The place is a count of ticks, nothing else: a clock that sends none while it is stopped has not moved, however
    long that was, and a start counts from the first tick after it. Ticks after such a gap begin a new line, which
    has the tempo of the old one until there are enough of them.

    `receive` may be called from another thread than the rest.

    Args:
        clock: the time now, in seconds; of the same clock as the times given to `receive`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._lock = threading.Lock()
        self._ticks: deque[tuple[int, float]] = deque(maxlen=_WINDOWS[0])  # number, time
        self._next = 0  # number of the next tick, whether the set plays or not
        self._origin = 0  # the number of the tick at beat 0
        self._position = 0  # ticks from beat 0, where `continue` goes on
        self._playing = False
        self._location = 0
        self._line: tuple[float, float, float] | None = None  # seconds a tick, a tick's number and its time
        self._new_ticks = False  # since the line was drawn
        self.port: MidiInput | None = None  # where the messages come from, if anybody tells

    def receive(self, message: Any, seconds: float | None = None) -> None:
        """Take in a `mido.Message` (others than those of the clock are passed over) at `seconds`, or now."""
        seconds = self._clock() if seconds is None else seconds
        with self._lock:
            if message.type == "clock":
                self._tick(seconds)
            elif message.type == "start":
                self._go_on(0, seconds)
            elif message.type == "continue" and not self._playing:  # else it is where it goes on already
                self._go_on(self._position, seconds)
            elif message.type == "stop":
                self._position = self._next - self._origin if self._playing else self._position
                self._playing = False
            elif message.type == "songpos":
                self._position = TICKS_PER_POSITION * message.pos
                if self._playing:  # not in the standard, and common: a jump while it plays
                    self._locate(self._position)

    def _tick(self, seconds: float) -> None:
        if self._is_gap(seconds):
            self._fitted()  # its tempo
            self._ticks.clear()
        elif self._line is not None and len(self._ticks) > 1:
            before, last = self._ticks[-2][1], self._ticks[-1][1]
            period = self._line[0]
            if last - before > _MISSING * period and seconds - last > 0.5 * period:
                while (
                    len(self._ticks) > 1
                ):  # ticks that were only held up would come at once, one upon another
                    self._ticks.popleft()
        self._ticks.append((self._next, seconds))
        self._next += 1
        self._new_ticks = True

    def _is_gap(self, seconds: float) -> bool:
        """Whether ticks are missing between the last one and `seconds`, so that no line goes through both."""
        if not self._ticks:
            return False
        silent = seconds - self._ticks[-1][1]
        line = None if self._playing else self._fitted()  # while it plays, a late tick is only late
        return not 0 <= silent < (_PAUSE if line is None else min(_PAUSE, _MISSING * line[0]))

    def _go_on(self, position: int, seconds: float) -> None:
        if self._is_gap(seconds):  # when the next tick comes, nobody can tell before it is there
            self._fitted()
            self._ticks.clear()
        self._locate(position)
        self._playing = True

    def _locate(self, position: int) -> None:
        self._origin = self._next - position
        self._location += 1

    def _fitted(self) -> tuple[float, float, float] | None:
        if self._new_ticks and (self._line is not None or len(self._ticks) >= _LEAST_TICKS):
            numbers, times = np.array(self._ticks, dtype=np.float64).T
            if len(self._ticks) >= _LEAST_TICKS:
                self._line = fit_ticks(numbers, times)
            else:
                self._line = (self._line[0], float(numbers.mean()), float(times.mean()))
            self._new_ticks = False
        return self._line

    @property
    def alive(self) -> bool:
        """Whether ticks are coming in."""
        with self._lock:
            return bool(self._ticks) and self._clock() - self._ticks[-1][1] < _PAUSE

    @property
    def running(self) -> bool:
        """Started and not stopped, the tempo known, and the first tick of it come where there was none before.

        A clock that only falls silent runs on at its last tempo."""
        with self._lock:
            return self._playing and bool(self._ticks) and self._fitted() is not None

    @property
    def problem(self) -> str | None:
        if self.alive:
            return None
        gone = self.port is not None and self.port.gone
        return f"the MIDI port {self.port.name!r} is gone" if gone else "the MIDI clock has fallen silent"

    @property
    def tempo(self) -> float | None:
        """Beats per minute; None until six ticks have come."""
        with self._lock:
            line = self._fitted()
        return None if line is None else 60.0 / (TICKS_PER_BEAT * line[0])

    @property
    def location(self) -> int:
        return self._location

    def beat_at(self, seconds: float) -> float:
        """The beat of the set at `seconds`, by the last ticks; NaN until six ticks have come."""
        with self._lock:
            line = self._fitted()
            if line is None:
                return math.nan
            period, number, at = line
            return (number + (seconds - at) / period - self._origin) / TICKS_PER_BEAT


def fit_ticks(numbers: np.ndarray, times: np.ndarray) -> tuple[float, float, float]:
    """A line through ticks: seconds a tick, and the (fractional) number of a tick and its time in seconds.

    The longest window of `_WINDOWS` whose last ticks lie on its own line, by three standard errors of the jitter.
    """
    line = (math.nan, 0.0, 0.0)
    # of what is left of the times differenced twice, which a change of tempo touches in one place only
    jitter = 1.4826 * float(np.median(np.abs(np.diff(times, 2)))) / math.sqrt(6.0)
    jitter = max(jitter, _FINEST)
    for window in _WINDOWS:
        if window > len(numbers) and window != _WINDOWS[-1] and len(numbers) <= _next_window(window):
            continue
        x, y = numbers[-window:], times[-window:]
        line, residuals = _robust_line(x, y)
        last = residuals[-max(_LEAST_TICKS, len(x) // 8) :]
        if abs(last.mean()) < 3.0 * jitter / math.sqrt(len(last)):
            break
    return line


def _next_window(window: int) -> int:
    return _WINDOWS[_WINDOWS.index(window) + 1]


def _robust_line(x: np.ndarray, y: np.ndarray) -> tuple[tuple[float, float, float], np.ndarray]:
    keep = np.ones(len(x), dtype=bool)
    for _ in range(2):  # the second time without what the first found far off
        x0, y0 = x[keep].mean(), y[keep].mean()
        slope = float(((x[keep] - x0) * (y[keep] - y0)).sum() / ((x[keep] - x0) ** 2).sum())
        residuals = y - y0 - slope * (x - x0)
        sigma = max(1.4826 * float(np.median(np.abs(residuals))), _FINEST)
        keep = np.abs(residuals) < 4.0 * sigma
        if keep.sum() < _LEAST_TICKS // 2:
            break
    return (slope, float(x0), float(y0)), residuals


# ----------------------------------------------------------------------------------------------------------
# following and leading
# ----------------------------------------------------------------------------------------------------------
class ClockFollower:
    """Keeps a session's beat on a clock's, block by block.

    A small error is led back by the tempo, at most 8% off the clock's, so that the beat does not jump; a large
    one, a start, another song position or a tempo that turns by more than 6% moves the beat at the next block.

    Args:
        offset: seconds by which the band shall sound later than the clock (negative: sooner).
        count_in: beats of the set before the band's first.
    """

    def __init__(self, clock: Clock, offset: float = 0.0, count_in: float = 0.0):
        if not math.isfinite(offset):
            raise ValueError(f"clock offset {offset!r}: give a finite number of seconds")
        self.clock = clock
        self.offset = offset
        self.count_in = count_in
        self.error = math.nan  # seconds that the next block was off, before it was put right
        self.problem: str | None = None  # why the clock is not followed just now
        self._location: int | None = None
        self._sheet: LeadSheet | None = None  # as this object left it
        self._tempo = math.nan  # of the clock, while the band was last on its beat
        self._lead = 0.0  # beats by which a chart that somebody changed stands before the set: whole bars

    def beat_at(self, seconds: float) -> float:
        """The band's beat that is to sound at `seconds`; negative in the count-in."""
        return self.clock.beat_at(seconds - self.offset) - self.count_in

    def align(self, session: LiveSession, heard_at: float) -> bool:
        """Put the next block of `session`, whose first sample is heard at `heard_at`, in time with the clock.

        Returns:
            whether the clock could be followed; if not, `problem` says why, and the session plays on as it did.
        """
        tempo = self.clock.tempo
        if not self.clock.running or tempo is None:
            self.problem = "the clock stands still"
            return False
        if self.clock.problem is not None:
            self.problem = f"{self.clock.problem}: the band plays on at {session.lead_sheet.tempo:.1f} BPM"
            return False
        if not MIN_TEMPO <= tempo <= MAX_TEMPO:
            self.problem = (
                f"the clock runs at {tempo:.1f} BPM; the band follows {MIN_TEMPO:g} to {MAX_TEMPO:g} BPM"
            )
            return False
        sheet, position = session.lead_sheet, session.position
        have, want = sheet.beat_at(position), self.beat_at(heard_at)
        if self._location != self.clock.location:
            self._lead = 0.0
        elif sheet is not self._sheet:
            # a chart that somebody changed starts at its own bar 1: from there on, bar lines are what is shared
            shared = sheet.beats_per_bar if len(set(sheet.metres)) <= 1 else sheet.num_beats
            self._lead -= shared * round((want + self._lead - have) / shared)
        error = want + self._lead - have
        self._location = self.clock.location
        self.error, self.problem = error * 60.0 / tempo, None
        if not abs(self.error) > _ON_THE_BEAT:
            self._tempo = tempo
        turned = abs(tempo / self._tempo - 1.0) > _NEW_TEMPO
        if abs(self.error) > (_ON_THE_BEAT if turned else _JUMP):
            self._sheet = session.align(tempo, have + error, position)
        else:
            beats = session.block_frames / FRAME_RATE * tempo / 60.0
            stretch = min(max(error / beats, -_MAX_STRETCH), _MAX_STRETCH)
            led = min(max(tempo * (1.0 + stretch), MIN_TEMPO), MAX_TEMPO)
            self._sheet = session.align(led, have, position)
        return True


class ClockLeader:
    """Sends MIDI clock from the beats that a session plays: ticks, start, continue with song position, stop.

    Args:
        send: takes a `mido.Message`; called from a thread of this object's own.
        offset: seconds by which the messages go out later than the sound is heard (negative: sooner).
        clock: the time now.

    Raises:
        ImportError: mido is not installed.
    """

    def __init__(
        self,
        send: Callable[[Any], None],
        offset: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._message = import_mido().Message
        self._send = send
        self._offset = offset
        self._clock = clock
        self._started = False
        self._queue: deque[tuple[float, Any]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self.problem: str | None = None

    def messages(
        self, sheet: LeadSheet, start: float, duration: float, heard_at: float
    ) -> Iterator[tuple[float, Any]]:
        """What belongs to a block that follows `sheet` from `start` seconds for `duration`: (time, message).

        `heard_at`: when its first sample is heard. Blocks are given in their order.
        """
        first, last = (sheet.beat_at(at) * TICKS_PER_BEAT for at in (start, start + duration))
        for tick in range(math.ceil(first - 1e-6), math.ceil(last - 1e-6)):
            due = heard_at + sheet.time_of(tick / TICKS_PER_BEAT) - start + self._offset
            if not self._started and tick >= 0 and tick % TICKS_PER_POSITION == 0:
                self._started = True
                if tick:
                    yield due, self._message("songpos", pos=tick // TICKS_PER_POSITION % 2**14)
                yield due, self._message("continue" if tick else "start")
            yield due, self._message("clock")

    def block(self, sheet: LeadSheet, start: float, duration: float, heard_at: float) -> None:
        """Send what belongs to a block, in its time; see `messages`."""
        with self._wake:
            self._queue.extend(self.messages(sheet, start, duration, heard_at))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rtjazz-clock", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closed and (
                    not self._queue or (wait := self._queue[0][0] - self._clock()) > 0
                ):
                    self._wake.wait(wait if self._queue else None)
                if self._closed:
                    return
                message = self._queue.popleft()[1]
            try:
                self._send(message)
            except Exception as error:  # whatever the driver raises: the music goes on
                self.problem = f"the MIDI port no longer takes the clock ({error})"
                return

    def close(self) -> None:
        """Send stop, and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
            self._thread = None
            if self._started and self.problem is None:
                self._send(self._message("stop"))
