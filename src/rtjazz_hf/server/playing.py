"""The loop of the engine's thread: a step of the live sessions when they need one, else a block of a clip."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from typing import TYPE_CHECKING

from .memory import give_back_memory

if TYPE_CHECKING:
    from ..live import LiveBlock, LiveSession
    from .seats import Seat

log = logging.getLogger("rtjazz.server")

SPARE = 0.05  # seconds before a live block is due in which no block of a clip may still be in the making
_MAX_FAILURES = 3  # steps in a row, after which a session ends, or all
_MEASURE_EVERY = 15.0  # seconds between measurements of a machine that was too slow
_GATHER = 0.25  # seconds that a new session waits at most for others that are being made, to begin with them
_TIDY_EVERY = 5.0  # seconds between two times that memory is given back


class PlayingLoop:
    """Of `SessionEngine`, whose state this is."""

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._serve_line()
                busy = self._step_live() or self._step_clip()
                self._failures = 0
            except Exception:
                busy = True
                self._failed()
            if not busy:
                self._idle()

    def _idle(self) -> None:
        playing = self.group.sessions
        with self._lock:
            too_slow = not playing and self.strain is not None
        if too_slow and time.monotonic() - self._measured > _MEASURE_EVERY:
            self.times.alone = self._measure()
            self._measured = time.monotonic()
        ahead = min((session.seconds_ahead for session in playing), default=math.inf)
        now = time.monotonic()
        if self._untidy and now - self._tidied > _TIDY_EVERY and ahead > self.settings.buffer + SPARE:
            self._untidy, self._tidied = False, now
            give_back_memory()
            return
        self._wake.wait(min(0.5, max(0.002, ahead - self.buffer)) if playing else 0.5)
        self._wake.clear()

    def _step_live(self) -> bool:
        ahead, buffer = {session: session.seconds_ahead for session in self.group.sessions}, self.buffer
        if not ahead or min(ahead.values()) >= buffer:
            return False
        if self._others_come(ahead, buffer):
            return False
        # Those that are due within a block come along: from then on all are due at once, and share a batch.
        due = [s for s, seconds in ahead.items() if seconds < buffer + self.block_seconds]
        with self._handing:
            began = time.perf_counter()
            try:
                blocks = self.group.step(due)
            except Exception:
                log.exception("a step of the engine failed")
                blocks = self._step_apart(due)
            seconds = time.perf_counter() - began
            if blocks:
                self.times.add(len(blocks), seconds, self._settled(blocks))
                self.metrics.step_seconds.observe(seconds)
                self.metrics.blocks.labels("live").inc(len(blocks))
            seats = {seat.session: seat for seat in self.seats}
            for session, block in blocks.items():
                if session in seats:
                    seats[session].failures = 0
                    self._hand_out(seats[session], block)
        return True

    def _others_come(self, ahead: dict[LiveSession, float], buffer: float) -> bool:
        """Whether only such are due as have not begun, and more are about to come: a step for each of those who come at
        once would be slowed down by what it takes to make the next one's session, and have other rows each time."""
        due = [session for session, seconds in ahead.items() if seconds < buffer]
        now = time.monotonic()
        with self._lock:
            new = {seat.session for seat in self._seats.values() if now - seat.since < _GATHER}
            return bool(self._opening) and all(s in new and not s.position for s in due)

    def _settled(self, blocks: dict[LiveSession, LiveBlock]) -> bool:
        """Whether the same were played twice before: a session's first block is no part of the others' batch, and with
        its second the rows of all are put together anew."""
        stepped = frozenset(id(session) for session in blocks)
        self._alike = self._alike + 1 if stepped == self._stepped else 0
        self._stepped = stepped
        return self._alike >= 2

    def _step_apart(self, due: list[LiveSession]) -> dict[LiveSession, LiveBlock]:
        """One session after another, so that one which cannot be played does not end the others' music."""
        blocks, seats = {}, {seat.session: seat for seat in self.seats}
        for session in due:
            try:
                blocks.update(self.group.step([session]))
            except Exception:
                self.metrics.failures.inc()
                if (seat := seats.get(session)) is None:  # closed meanwhile
                    continue
                seat.failures += 1
                if seat.failures >= _MAX_FAILURES:
                    seat.ending = "failed"
                    self.close(seat, "failed")
        return blocks

    def _hand_out(self, seat: Seat, block: LiveBlock) -> None:
        stats = seat.session.stats()
        self.metrics.under_runs.inc(stats.under_runs - seat.under_runs)
        seat.under_runs = stats.under_runs
        # Who begins where blocks take long begins with two of them: the second is made with those of all others, whose
        # rows are put together anew for it, and may take longer than the first plays.
        begins, seat.begun = not seat.begun, True
        seat.held.append((block, stats))
        if begins and self.buffer > self.settings.buffer:
            return
        if not seat.hand_out():
            seat.dropped += 1
            self.metrics.dropped.inc()
            since = seat.queue.full_since
            if since is not None and time.monotonic() - since > self.settings.slow_limit:
                seat.ending = "slow"
                self.close(seat, "slow")

    def _step_clip(self) -> bool:
        with self._lock:
            waiting, playing = list(self._clips), len(self._seats)
        ready = None
        for clip in waiting:
            if time.monotonic() - clip.progress > self.settings.clip_patience:
                self.end_clip(clip, "its reader was too slow, or the live sessions left no time for it")
            elif ready is None and clip.queue.has_room:
                ready = clip
        if ready is None:
            return False
        ahead = min((session.seconds_ahead for session in self.group.sessions), default=math.inf)
        if ahead < self._clip_needs(playing, ready.cost):
            return False
        with self._lock, contextlib.suppress(ValueError):  # the others' turn is next
            self._clips.remove(ready)
            self._clips.append(ready)
        try:
            block = next(ready.session)
        except StopIteration:  # closed
            return True
        except Exception as error:
            self.end_clip(ready, "the clip could not be made")
            raise error
        audio = block.audio[:, : ready.samples - ready.made]
        ready.made += audio.shape[1]
        ready.progress = time.monotonic()
        self.metrics.blocks.labels("clip").inc()
        ready.queue.put(audio)
        if ready.finished:
            self.end_clip(ready)
        return True

    def _failed(self) -> None:
        self._failures += 1
        self.metrics.failures.inc()
        log.exception("a step of the engine failed")
        if self._failures >= _MAX_FAILURES:
            for seat in self.seats:
                seat.ending = "failed"
                self.close(seat, "failed")
        time.sleep(0.05)


__all__ = ["SPARE", "PlayingLoop"]
