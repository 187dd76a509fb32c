"""Several sessions on one model, their blocks made in one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .session import LiveBlock, LiveSession, Take, make_blocks

if TYPE_CHECKING:
    from .models import LiveModels

_ROWS = 8  # of a batch that is worth a thread of its own: each batch costs something whatever its rows


class SessionGroup:
    """Sessions that come and go, and are played together; made by `RealTimeJazzPipeline.live_group`.

        with pipe.live_group() as group:
            one = group.join("bossa nova", tempo=120, seed=1)
            two = group.join("fast bebop sax quartet", chords="Dm7 | G7 | Cmaj7 | %", seed=2)
            while group.sessions:
                for session, block in group.step(ahead=0.5).items():
                    send(session, block.audio)

    Each session keeps its own prompt, chart, tempo, seed and settings, and plays what it would play alone
    (to float rounding). Blocks of equal size, number of steps and kind of guidance are made in one batch; those of many
    sessions in as many batches side by side as torch may have threads.
    Sessions may join, leave, be updated, saved and closed from any thread, `step` may be called from any.
    """

    def __init__(self, models: LiveModels, open_session: Callable[..., LiveSession]):
        self.models, self._open_session = models, open_session
        self._lock = threading.Lock()  # of the list
        self._sessions: list[LiveSession] = []
        self._stepping = threading.Lock()  # one step at a time; guards what follows
        self._made: dict[LiveSession, LiveBlock] = {}  # not delivered, because another batch failed
        self._hands: ThreadPoolExecutor | None = None  # that make batches side by side, once there are many sessions

    def __reduce__(self) -> Any:
        raise TypeError(
            "a group is not copied or pickled: pickle the pipeline, and session.to_bytes() of each of its sessions"
        )

    @property
    def sessions(self) -> list[LiveSession]:
        """Those that play, in the order of their joining; a closed one is gone."""
        with self._lock:
            self._sessions = [session for session in self._sessions if not session.closed]
            return list(self._sessions)

    def join(self, prompt: Any, **options: Any) -> LiveSession:
        """A new session; takes what `RealTimeJazzPipeline.live` takes, and raises what it raises."""
        session = self._open_session(prompt, **{"overlap": False, **options})
        self.add(session)
        return session

    def add(self, session: LiveSession) -> None:
        """Take in a session that exists, such as one that was resumed. It goes on where it stands.

        Raises:
            ValueError: it plays on another pipeline, or is in the group already.
        """
        if session.models is not self.models:
            raise ValueError("the session plays on another pipeline; a group shares one")
        with self._lock:
            if session in self._sessions:
                raise ValueError("the session is in the group already")
            self._sessions.append(session)

    def leave(self, session: LiveSession) -> None:
        """Let a session go; it stays open and can be iterated alone.

        Raises:
            ValueError: it is not in the group.
        """
        with self._lock:
            if session not in self._sessions:
                raise ValueError("the session is not in the group")
            self._sessions.remove(session)

    def step(
        self, sessions: Iterable[LiveSession] | None = None, *, ahead: float | None = None
    ) -> dict[LiveSession, LiveBlock]:
        """The next block of every session that is due.

        A session whose block another thread is making (by iterating it) is passed over.

        Args:
            sessions: only of these. ahead: only of those whose listeners have less than this many seconds of
                sound in hand (`LiveSession.seconds_ahead`).

        Raises:
            ValueError: a session is not in the group.
        """
        playing = self.sessions
        due = playing if sessions is None else list(dict.fromkeys(sessions))
        if any(session not in playing and not session.closed for session in due):
            raise ValueError("a session is not in the group; join or add it first")
        with self._stepping:
            due = [session for session in due if session not in self._made and not session.closed]
            if ahead is not None:
                due = [session for session in due if session.seconds_ahead < ahead]
            claimed = [session for session in due if session._claim()]
            try:
                self._step([session._begin() for session in claimed])
            finally:
                for session in claimed:
                    session._release()
            blocks, self._made = self._made, {}
            return blocks

    def _step(self, takes: list[Take]) -> None:
        batches: dict[tuple, list[Take]] = {}
        for take in takes:
            batches.setdefault(take.batch_key, []).append(take)
        hands = 1 if self.models.thread_count is None else self.models.threads.counts[-1]
        waiting = [part for batch in batches.values() for part in _parts(batch, hands)]
        if len(waiting) > len(batches):
            self._step_side_by_side(waiting, hands)
            return
        try:
            while waiting:
                batch = waiting.pop(0)
                self._keep(batch, make_blocks(batch))
        finally:
            for take in (take for batch in waiting for take in batch):
                take.session._undo(take)

    def _step_side_by_side(self, batches: list[list[Take]], hands: int) -> None:
        """A thread of torch for each batch: its threads within a block are idle for most of it."""
        if self._hands is None:
            self._hands = ThreadPoolExecutor(hands, "rtjazz-batch")
        making = [self._hands.submit(make_blocks, batch, 1) for batch in batches]
        try:
            wait(making)
        finally:
            wait(making)  # an interrupt ends none that has begun
            for batch, each in zip(batches, making):
                if each.exception() is None:
                    self._keep(batch, each.result())
        for each in making:
            each.result()  # raises what went wrong

    def _keep(self, batch: list[Take], blocks: list[LiveBlock]) -> None:
        for take, block in zip(batch, blocks):
            self._made[take.session] = block

    def close(self) -> None:
        """Close every session of the group."""
        for session in self.sessions:
            session.close()
        with self._stepping:
            if self._hands is not None:
                self._hands.shutdown(wait=False)
                self._hands = None

    def __enter__(self) -> SessionGroup:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _parts(batch: list[Take], hands: int) -> list[list[Take]]:
    """A batch in as many parts as there are hands for, and rows; neighbours stay together, and so in their stream."""
    count = max(1, min(hands, len(batch) // _ROWS))
    size, more = divmod(len(batch), count)
    ends = [size * part + min(part, more) for part in range(count + 1)]
    return [batch[start:end] for start, end in pairwise(ends)]
