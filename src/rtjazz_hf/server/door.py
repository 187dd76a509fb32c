"""The door: who is let in, who waits for it, and who is sent away."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

from .seats import Unavailable, is_draining

if TYPE_CHECKING:
    from .seats import Seat

UNKNOWN = (None,)  # the mix of adapters of a session that is yet to be read: another than anybody's


@dataclasses.dataclass(eq=False)
class Waiting:
    """A listener in the line."""

    name: str  # of the session
    mix: tuple  # see `seats.mix_key`
    answer: asyncio.Future[None]
    let_in: bool = False

    def tell(self, refusal: Unavailable | None) -> None:
        """Let it go on, or away; from any thread."""

        def answered() -> None:
            if self.answer.done():  # gone meanwhile
                return
            if refusal is None:
                self.answer.set_result(None)
            else:
                self.answer.set_exception(refusal)

        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.answer.get_loop().call_soon_threadsafe(answered)


class Door:
    """Of `SessionEngine`, whose state this is.

    A listener is let in while a step with it would still take less than `settings.load` of a block's length, by what
    the slow ones of the steps take now (`BlockTimes`). Who comes while others are taken in, of whom nobody knows yet
    what they cost, waits for as many steps as tell it, `settings.patience` at most: what a hundred cost is not to be
    guessed from one. Who would find no room by what steps mostly take is told so at once.
    """

    async def admit(self, name: str, mix: tuple) -> None:
        """Reserve a place for a session of this name, waiting for it where that may help; `open` takes it.

        Raises:
            Unavailable: there is none, or the server is stopping. ValueError: the name is taken.
        """
        with self._lock:
            if self.draining:
                raise is_draining()
            if name in self._seats or name in self._opening or any(name == each.name for each in self._line):
                raise ValueError(
                    f"session {name!r} has a controller already: one connection plays and steers it; open a session "
                    "of your own under another name"
                )
            verdict = self._verdict(mix, len(self._line))
            if isinstance(verdict, Unavailable):
                raise self._counted(verdict)
            if verdict and not self._line:
                self._opening[name] = mix
                return
            waiting = Waiting(name, mix, asyncio.get_running_loop().create_future())
            self._line.append(waiting)
            self.metrics.waiting.set(len(self._line))
        try:
            async with asyncio.timeout(self.settings.patience):
                await waiting.answer
        except TimeoutError:
            with self._lock:
                if waiting.let_in:
                    return
                self._leave(waiting)
                raise self._counted(self._no_room(mix)) from None
        except asyncio.CancelledError:
            with self._lock:
                self._leave(waiting)
                if waiting.let_in:
                    del self._opening[name]
            raise

    def check_room(self) -> None:
        """Refuse at once what would be refused when it has sent its state.

        Raises:
            Unavailable: as `admit` does.
        """
        with self._lock:
            verdict = is_draining() if self.draining else self._verdict(UNKNOWN, len(self._line))
            if isinstance(verdict, Unavailable):
                raise self._counted(verdict)

    def _serve_line(self) -> None:
        """Let in as many of the line as may come now; in the engine's thread, between two steps."""
        while self._line:
            with self._lock:
                if not self._line:
                    return
                first = self._line[0]
                verdict = is_draining() if self.draining else self._verdict(first.mix)
                if verdict is False:
                    return
                self._leave(first)
                if verdict is True:
                    self._opening[first.name], first.let_in = first.mix, True
            first.tell(None if verdict is True else self._counted(verdict))

    def _leave(self, waiting: Waiting) -> None:
        with contextlib.suppress(ValueError):
            self._line.remove(waiting)
        self.metrics.waiting.set(len(self._line))

    def _counted(self, refusal: Unavailable) -> Unavailable:
        self.metrics.refused.labels(refusal.reason).inc()
        return refusal

    def _verdict(self, mix: tuple, before: int = 0) -> bool | Unavailable:
        """Whether one more is let in now, or else waits; or why it is refused. `before`: who wait before it."""
        playing = len(self._seats) + len(self._opening)
        if playing + before >= self.settings.max_sessions:
            return Unavailable(f"{playing} sessions play, which is the most that this server takes", "full")
        if not playing:  # nobody is harmed by a first one that does not keep up: `strain` says what is wrong
            return True
        if self._seconds_with(playing + 1, mix) < self._allowed:
            return self.times.reaches(playing + 1)
        known = not self._opening and self.times.knows(playing)
        if known and self._seconds_with(playing + 1, mix, mostly=True) >= self._allowed:
            return self._no_room(mix)
        return False

    def _no_room(self, mix: tuple) -> Unavailable:
        playing = len(self._seats) + len(self._opening)
        seconds = self._seconds_with(playing + 1, mix)
        return Unavailable(
            f"this machine has no room for one session more beside {playing}: a block of {self.block_seconds:.2f} s "
            f"would take {seconds:.2f} s to make, of {self._allowed:.2f} s allowed; try again later",
            "busy",
        )

    @property
    def _allowed(self) -> float:
        return self.block_seconds * self.settings.load

    def _seconds_with(self, sessions: int, mix: tuple, mostly: bool = False) -> float:
        """Seconds of a step of so many sessions, one of which plays `mix`: another model is another batch. Of a slow
        step, or of what they are `mostly`."""
        of = self.times.typical if mostly else self.times.predict
        mixes = {seat.mix for seat in self._seats.values()} | set(self._opening.values())
        predicted = of(sessions)
        if mixes and mix not in mixes:
            predicted = max(predicted, of(sessions - 1) + of(1))
        return predicted

    def _check_mix(self, seat: Seat, mix: tuple) -> None:
        """Refuse a change to another mix of adapters that would cost the others their time.

        Raises:
            ValueError: it would.
        """
        with self._lock:
            playing = len(self._seats) + len(self._opening)
            if playing < 2 or mix == seat.mix:
                return
            seconds = self._seconds_with(playing, mix)
        if seconds >= self._allowed:
            raise ValueError(
                f"this machine has no room for another mix of adapters beside {playing - 1} other sessions; play one "
                "that is being played, or try again later"
            )


__all__ = ["UNKNOWN", "Door"]
