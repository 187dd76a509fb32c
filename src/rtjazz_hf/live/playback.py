"""Playing a session to somebody: pace, count-in, clocks, recording, and what happens when the card goes."""

from __future__ import annotations

import math
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..audio import AUDIO_CHANNELS, SAMPLE_RATE
from ..music.metre import Metre
from ..music.vocabulary import MAX_TEMPO, MIN_TEMPO
from .outputs import Output, OutputLost, PacedOutput, grow_buffer

if TYPE_CHECKING:
    from ..music import LeadSheet
    from .chord_keys import ChordKeys
    from .clock import ClockFollower, ClockLeader
    from .recording import Recorder
    from .rider import LoudnessRider
    from .session import LiveBlock, LiveSession

_WAITING = 0.05  # seconds of silence at a time while a clock stands still
_CLICK_HZ = (1800.0, 1200.0)  # on the downbeat, on the others
_CLICK_SECONDS, _CLICK_LEVEL = 0.03, 0.35


@dataclass(frozen=True)
class Heard:
    """What is heard just now: bar, beat and chord of the moment, not of the block being made; bar is 0 or less
    in a count-in, and `chord` "N.C."."""

    bar: int
    beat: float
    chord: str
    tempo: float
    seconds: float


class Player:
    """Plays a session into an output, and into a recording too.

    `run` makes, records and plays block after block in the thread that calls it, until `duration` is over,
    `stop` is called or the session is closed. `session.update` may be called from other threads meanwhile.

    Args:
        count_in: bars of clicks before the first bar. duration: seconds of the band; None plays on.
        follower: a clock to follow: the band waits for its start, and falls silent while it stands still; that
            silence is not recorded.
        leader: told of every block, and sends MIDI clock. chord_keys: a keyboard whose chords are played.
        rider: brings the band to a loudness; what is recorded is what is heard.
        on_block: called after each block was handed on. say: told what the listener should know, as text.

    Attributes:
        samples: of the band and its count-in, played so far. output: changes when a card is lost.
    """

    def __init__(
        self,
        session: LiveSession,
        output: Output,
        *,
        recorder: Recorder | None = None,
        follower: ClockFollower | None = None,
        leader: ClockLeader | None = None,
        chord_keys: ChordKeys | None = None,
        rider: LoudnessRider | None = None,
        count_in: int = 0,
        duration: float | None = None,
        on_block: Callable[[LiveBlock], None] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.session, self.output, self.recorder = session, output, recorder
        self.follower, self.leader, self.chord_keys, self.rider = follower, leader, chord_keys, rider
        self.count_in, self.duration = count_in, duration
        self.samples = 0
        self.under_runs_before = 0  # of an output that was lost
        self._ran_out = 0  # under-runs of the output that were answered
        self._on_block, self.say = on_block, say
        self._handed = 0  # samples given to the output, silence included
        self._stopped = threading.Event()
        self._followed = False  # the clock, at any time
        self._location: int | None = None  # of the clock, when the band last played to it
        # output sample, sheet, seconds, and whether the music goes on from there
        self._timeline: deque[tuple[int, LeadSheet, float, bool]] = deque(maxlen=64)
        self._problem: str | None = None

    @property
    def under_runs(self) -> int:
        return self.under_runs_before + self.output.under_runs

    def stop(self) -> None:
        """End the music after what has been handed out."""
        self._stopped.set()

    def run(self) -> None:
        """Play.

        Raises:
            OutputLost: the card has gone and nothing is being recorded. OSError: the recording cannot be
            written; what was recorded stays.
        """
        drain = False
        try:
            if self.follower is None:
                self._count_in_freely()
            while not self._stopped.is_set() and not self.session.closed and not self._over():
                if self.follower is None or self._in_time(self.follower):
                    self._play_block()
            drain = not self._stopped.is_set()
        finally:
            try:
                if self.recorder is not None:
                    self.recorder.close()
            finally:
                self.output.close(drain=drain)
                if self.leader is not None:  # its last messages belong to what was heard just now
                    self.leader.close()

    def heard(self) -> Heard | None:
        """Where the listener is; None before the first sound. It stands while a clock that is followed does."""
        played = self.output.played
        at = None
        for entry in list(self._timeline):
            if entry[0] > played and at is not None:
                break
            at = entry
        if at is None:
            return None
        sample, sheet, seconds, moving = at
        if moving:
            seconds += max(0, played - sample) / SAMPLE_RATE
        where = sheet.position(seconds)
        return Heard(where.bar, where.beat, where.chord.symbol, sheet.tempo, seconds)

    def _over(self) -> bool:
        return self.duration is not None and self.session.position >= self.duration - 0.5 / SAMPLE_RATE

    def _play_block(self) -> None:
        if self.chord_keys is not None:
            self.chord_keys.answer(self.session, self.say)
        try:
            block = next(self.session)
        except StopIteration:
            return
        audio = block.audio
        if self.duration is not None:
            audio = audio[:, : max(1, round(self.duration * SAMPLE_RATE) - round(block.start * SAMPLE_RATE))]
        if self.rider is not None:
            audio = self.rider.process(audio)
        self._hand_on(audio, block.lead_sheet, block.start)
        if self._on_block is not None:
            self._on_block(block)

    def _hand_on(
        self, audio: np.ndarray, sheet: LeadSheet | None, seconds: float, record: bool = True
    ) -> None:
        """Sound that follows `sheet` from `seconds` on: to the clock that we lead, the recording, the ear."""
        if self.leader is not None and record:
            duration = audio.shape[1] / SAMPLE_RATE
            self.leader.block(sheet, seconds, duration, self.output.heard_at(self._handed))
            self._tell(self.leader.problem)
        if self.recorder is not None and record:
            self.recorder.write(audio)
        if record:
            self._timeline.append((self._handed, sheet, seconds, True))
            self.samples += audio.shape[1]
        elif self._timeline and self._timeline[-1][3]:  # silence: the music stands where it has come to
            sample, sheet, seconds, _ = self._timeline[-1]
            seconds += (self._handed - sample) / SAMPLE_RATE
            self._timeline.append((self._handed, sheet, seconds, False))
        self._handed += audio.shape[1]
        try:
            self.output.write(audio)
            self._keep_more()
        except OutputLost as error:
            if self.recorder is None:
                raise
            self.say(f"{error}; recording goes on into {self.recorder.path}")
            self.under_runs_before += self.output.under_runs
            self.output.close(drain=False)
            self.output, self._handed, self._ran_out = PacedOutput(), 0, 0
            self._timeline.clear()

    def _keep_more(self) -> None:
        """Of sound in hand, each time that it has run out."""
        if self.output.under_runs == self._ran_out:
            return
        self._ran_out = self.output.under_runs
        if grow_buffer(self.output):
            kept = self.output.buffer
            self.say(f"the sound ran out: {kept:.1f} s are kept in hand now, and a control is heard later")

    def _tell(self, problem: str | None) -> None:
        kind = None if problem is None else re.sub(r"[\d.]+", "", problem)  # a tempo in it may waver
        if kind is not None and kind != self._problem:
            self.say(problem)
        self._problem = kind or self._problem

    # -- count-in ------------------------------------------------------------------------------------------
    def _count_in_freely(self) -> None:
        """Bars of clicks, at the tempo of the sheet; the sheet's own beat 0 follows them."""
        sheet = self.session.lead_sheet
        beats = self.count_in * sheet.metre_of(0).beats
        left = round(beats * 60.0 / sheet.tempo * SAMPLE_RATE)
        while left > 0 and not self._stopped.is_set():
            size = min(left, SAMPLE_RATE // 4)
            seconds = -left / SAMPLE_RATE
            self._hand_on(
                clicks(sheet.beat_at(seconds), sheet.tempo, size, sheet.metre_of(0)), sheet, seconds
            )
            left -= size

    def _in_time(self, follower: ClockFollower) -> bool:
        """Put the next block in time with the clock; False where something else was played in its place."""
        heard_at = self.output.heard_at(self._handed)
        clock = follower.clock
        if not clock.running:
            self._tell("waiting for the clock" if not self._followed else "the clock stands still")
            self._hand_on(_silence(_WAITING), None, 0.0, record=False)
            return False
        beat, tempo = follower.beat_at(heard_at), clock.tempo
        entering = self._location != clock.location  # at its start, and at each one after a stop
        if entering and beat < -1e-3 and tempo is not None and MIN_TEMPO <= tempo <= MAX_TEMPO:
            self.session.align(tempo, 0.0, self.session.position)  # where this piece leads up to
            sheet = self.session.lead_sheet
            left = max(1, round(-beat * 60.0 / tempo * SAMPLE_RATE))
            size = min(left, SAMPLE_RATE // 4)
            self._hand_on(
                clicks(beat, tempo, size, sheet.metre_of(0)),
                sheet,
                self.session.position - left / SAMPLE_RATE,
            )
            return False
        self._location = clock.location
        if follower.align(self.session, heard_at):
            if not self._followed:
                self.say(f"following the clock at {clock.tempo:.1f} BPM")
            self._followed, self._problem = True, None
        else:
            self._tell(follower.problem)
        return True


def clicks(beat: float, tempo: float, samples: int, metre: Metre) -> np.ndarray:
    """A metronome, `(2, samples)` at 48 kHz, from `beat` on (negative in a count-in): higher on the downbeat.

    A sample depends on its own beat alone, so pieces join without a seam.
    """
    beats = beat + np.arange(samples) * (tempo / 60.0 / SAMPLE_RATE)
    within = np.mod(beats + 1e-9, metre.beats)
    starts = np.array(metre.clicks)
    number = np.searchsorted(starts, within, side="right") - 1
    since = np.maximum(within - 1e-9 - starts[number], 0.0) * 60.0 / tempo  # seconds
    hz = np.where(number == 0, *_CLICK_HZ)
    shape = np.where(since < _CLICK_SECONDS, np.exp(-since * 6.0 / _CLICK_SECONDS), 0.0)
    wave = _CLICK_LEVEL * np.sin(2.0 * math.pi * hz * since) * shape
    return np.broadcast_to(wave.astype(np.float32), (AUDIO_CHANNELS, samples)).copy()


def count_in(audio: np.ndarray, sheet: LeadSheet, bars: int) -> np.ndarray:
    """`audio` `(2, samples)`, which begins with beat 0 of `sheet`, after so many bars of clicks at its tempo."""
    metre = sheet.metre_of(0)
    beats = bars * metre.beats
    samples = round(beats * 60.0 / sheet.tempo * SAMPLE_RATE)
    return np.concatenate([clicks(-beats, sheet.tempo, samples, metre), np.asarray(audio)], axis=-1)


def _silence(seconds: float) -> np.ndarray:
    return np.zeros((AUDIO_CHANNELS, max(1, round(seconds * SAMPLE_RATE))), dtype=np.float32)
