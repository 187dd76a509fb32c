"""Chords from a keyboard: the keys that are held become the chord of the next block."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..music.chord_naming import name_chord
from ..music.chords import Chord

if TYPE_CHECKING:
    from .midi_ports import MidiInput
    from .session import LiveSession

_STILL = 0.05  # seconds; keys that went down since then are perhaps not all of a chord
_NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_ALL_OFF = (120, 123)


class ChordKeys:
    """What is held on a MIDI keyboard, as a chord. When all keys are let go the last chord goes on.

    `receive` may be called from another thread than the rest.

    Args:
        clock: the time now, in seconds.

    Attributes:
        port: where the messages come from, if anybody tells (`MidiInput`).
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._lock = threading.Lock()
        self._held: set[tuple[int, int]] = set()  # channel, key
        self._changed = -1.0
        self._answered: frozenset[int] = frozenset()
        self.port: MidiInput | None = None

    def receive(self, message: Any, seconds: float | None = None) -> None:
        """Take in a `mido.Message`; others than notes are passed over."""
        with self._lock:
            if message.type == "note_on" and message.velocity > 0:
                self._held.add((message.channel, message.note))
                self._changed = self._clock() if seconds is None else seconds
            elif message.type in ("note_on", "note_off"):
                self._held.discard((message.channel, message.note))
            elif message.type == "control_change" and message.control in _ALL_OFF:
                self._held.clear()

    @property
    def held(self) -> frozenset[int]:
        """MIDI keys that are down."""
        with self._lock:
            return frozenset(key for _, key in self._held)

    def poll(self) -> tuple[Chord | None, str]:
        """The chord that was struck since the last call, and what there is to say; (None, "") where nothing was."""
        held = self.held
        if not held or held == self._answered or held < self._answered:  # keys that are let go are no new chord
            return None, ""
        chord = name_chord(held)
        if chord is None and self._clock() - self._changed < _STILL:
            return None, ""
        self._answered = held
        if chord is not None:
            return chord, ""
        names = " ".join(_NAMES[key % 12] for key in sorted(held))
        few = "hold three notes or more" if len({key % 12 for key in held}) < 3 else "the chord before goes on"
        return None, f"{names}: not a chord that is known here; {few}"

    def answer(self, session: LiveSession, say: Callable[[str], None]) -> None:
        """Have the next block of a session play what is held."""
        chord, text = self.poll()
        if text:
            say(text)
        if chord is not None:
            session.update(chords=chord.symbol, at="now")
            say(f"chord {chord.symbol}")


__all__ = ["ChordKeys"]
