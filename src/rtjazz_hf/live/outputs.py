"""Where the sound of a player goes: a sound card, a pipe, or nowhere at real-time pace.

An output takes 48 kHz stereo in order. `write` returns when no more than `buffer` seconds wait to be heard, so
whoever makes the sound is held to real time. Times are seconds of `time.perf_counter`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

import numpy as np

from ..audio import AUDIO_CHANNELS, SAMPLE_RATE

PCM_FORMATS = ("s16le", "f32le")
_LOST_AFTER = 2.0  # seconds without a call of the card's driver
_LOOK = 0.1  # seconds at most from one look at the card to the next
_ASLEEP = 1.0  # seconds over a look's time: not the driver was away but the whole machine
_MOST_BUFFER, _GROWTH = 3.0, 1.5  # seconds, and a step towards them


class OutputLost(OSError):
    """What played the sound has gone, while it played."""


class Output(Protocol):
    """
    Attributes:
        under_runs: how often the sound ran out. played: samples heard so far. latency: seconds from the output
            to the ear, as far as it is known. buffer: seconds that may wait to be heard; None where the reader has it.
    """

    under_runs: int
    latency: float
    buffer: float | None

    @property
    def played(self) -> int: ...
    def write(self, audio: np.ndarray) -> None: ...
    def heard_at(self, sample: int) -> float: ...
    def close(self, drain: bool = True) -> None: ...


class PacedOutput:
    """No sound, at the pace of one: for recordings where no sound card is.

    Args:
        buffer: seconds. clock, sleep: the time, and how to let it pass.
    """

    latency = 0.0

    def __init__(
        self,
        buffer: float = 0.3,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.under_runs = 0
        self.buffer, self._clock, self._sleep = buffer, clock, sleep
        self._written = 0
        self._started: float | None = None  # when sample 0 was heard, had there been no pause

    @property
    def played(self) -> int:
        if self._started is None:
            return 0
        return min(self._written, max(0, int((self._clock() - self._started) * SAMPLE_RATE)))

    def heard_at(self, sample: int) -> float:
        return (self._clock() if self._started is None else self._started) + sample / SAMPLE_RATE

    def write(self, audio: np.ndarray) -> None:
        now = self._clock()
        if self._started is None:
            self._started = now
        elif (late := now - self.heard_at(self._written)) > 0:
            self.under_runs += 1
            self._started += late
        self._written += audio.shape[1]
        self._wait(self.buffer)

    def _wait(self, left: float) -> None:
        wait = self.heard_at(self._written) - left - self._clock()
        if wait > 0:
            self._sleep(wait)

    def close(self, drain: bool = True) -> None:
        if drain and self._started is not None:
            self._wait(0.0)


class PipeOutput:
    """PCM, samples of the two channels in turn, to a binary stream; its reader sets the pace.

    Args:
        pcm: "s16le" (16 bits) or "f32le" (float, not clipped).
    """

    latency, buffer = 0.0, None

    def __init__(self, stream: BinaryIO, pcm: str = "s16le", clock: Callable[[], float] = time.perf_counter):
        if pcm not in PCM_FORMATS:
            raise ValueError(f"PCM format {pcm!r}: choose from {', '.join(PCM_FORMATS)}")
        self.under_runs = 0
        self._stream, self._pcm, self._clock = stream, pcm, clock
        self._written = 0
        self._started: float | None = None

    @property
    def played(self) -> int:
        return self._written

    def heard_at(self, sample: int) -> float:
        return (self._clock() if self._started is None else self._started) + sample / SAMPLE_RATE

    def write(self, audio: np.ndarray) -> None:
        """Raises BrokenPipeError where the reader has gone."""
        if self._started is None:
            self._started = self._clock()
        self._stream.write(to_pcm(audio, self._pcm))
        self._stream.flush()
        self._written += audio.shape[1]

    def close(self, drain: bool = True) -> None:
        pass  # the stream is its owner's


def to_pcm(audio: np.ndarray, pcm: str) -> bytes:
    """Float `(2, samples)` as interleaved PCM."""
    if pcm == "f32le":
        return np.ascontiguousarray(audio.T, dtype="<f4").tobytes()
    return np.round(audio.T.clip(-1.0, 1.0) * 32767.0).astype("<i2").tobytes()


class SoundCardOutput:
    """The sound card, by PortAudio.

    A callback of the driver takes what has been written; where nothing is left it plays silence and counts an
    under-run. It never waits: what the two threads share has one of them as its writer, and no lock. The card counts as
    lost when the driver ends the stream, or calls no more for two seconds while the machine does not sleep.

    Args:
        device: name or number of the card; None is the system's choice.
        api: the module `sounddevice`, or what stands in for it.
        lost_after: seconds without a call of the driver. clock, sleep: the time, and how to let it pass.

    Raises:
        ImportError: sounddevice is not installed. OSError: no sound card (that plays 48 kHz stereo), or no
        PortAudio.
    """

    def __init__(
        self,
        device: str | int | None = None,
        buffer: float = 0.3,
        api: Any = None,
        lost_after: float = _LOST_AFTER,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.under_runs, self.buffer = 0, buffer
        self._lost_after, self._clock, self._sleep = lost_after, clock, sleep
        # (samples, 2) each; one thread puts them in at the end and the other takes them from the beginning
        self._queue: deque[np.ndarray] = deque()
        self._written = 0  # of the player's thread; what follows, down to `_called`, is written by the driver's
        self._taken = self._begun = 0  # samples played, and those of them that are of the queue's first piece
        self._origin: float | None = None  # when sample 0 was heard, had there been no pause
        self._dry = False  # the last call found less than it wanted
        self._called = clock()
        self._ended: str | None = None
        self._closing = False
        self._stream = self._open(import_sounddevice() if api is None else api, device)
        self.latency = float(self._stream.latency)

    def _open(self, api: Any, device: str | int | None) -> Any:
        try:
            stream = api.OutputStream(
                samplerate=SAMPLE_RATE,
                channels=AUDIO_CHANNELS,
                dtype="float32",
                device=device,
                callback=self._callback,
                finished_callback=self._finished,
            )
            stream.start()
        except Exception as error:  # PortAudioError, and ValueError for a name that no card has
            cards = ", ".join(output_devices(api)) or "none"
            name = "" if device is None else f" {device!r}"
            raise OSError(f"no sound card{name} to play on ({error}); there are: {cards}") from error
        return stream

    def _callback(self, out: np.ndarray, frames: int, when: Any, status: Any) -> None:
        now = self._clock()
        if self._queue:
            self._clock_sample(now + max(0.0, float(when.outputBufferDacTime - when.currentTime)))
        filled = 0
        while filled < frames and self._queue:
            first = self._queue[0]
            piece = first[self._begun : self._begun + frames - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._begun += len(piece)
            if self._begun == len(first):
                self._queue.popleft()
                self._begun = 0
        out[filled:] = 0.0
        dry = filled < frames and self._taken + filled > 0 and not self._closing
        if dry and not self._dry:
            self.under_runs += 1
        self._dry = dry
        self._taken += filled
        self._called = now

    def _clock_sample(self, heard: float) -> None:
        """Note when the next sample is heard; smoothed, since drivers' times are uneven."""
        origin = heard - self._taken / SAMPLE_RATE
        if self._origin is None or self._dry:  # a gap moves everything after it
            self._origin = origin
        else:
            self._origin += 0.1 * (origin - self._origin)

    def _finished(self) -> None:
        self._ended = "its driver ended the stream"

    @property
    def played(self) -> int:
        return self._taken

    def heard_at(self, sample: int) -> float:
        now = self._clock()
        origin = now + self.latency if self._origin is None else self._origin
        if self._dry or self._origin is None:  # what is written next will be heard at once
            return max(origin + sample / SAMPLE_RATE, now + self.latency)
        return origin + sample / SAMPLE_RATE

    def write(self, audio: np.ndarray) -> None:
        """Raises OutputLost."""
        self._queue.append(np.ascontiguousarray(audio.T, dtype=np.float32))
        self._written += audio.shape[1]
        self._wait(self.buffer)

    def _wait(self, left: float) -> None:
        """Until no more than `left` seconds wait to be heard."""
        while (over := (self._written - self._taken) / SAMPLE_RATE - left) > 1e-9:
            if self._ended is None and self._clock() - self._called > self._lost_after:
                self._ended = f"its driver has been silent for {self._lost_after:g} s"
            if self._ended is not None:
                raise OutputLost(f"the sound card is lost: {self._ended}")
            looked, wait = self._clock(), min(max(over, 0.002), _LOOK)
            self._sleep(wait)
            if self._clock() - looked > wait + _ASLEEP:
                self._called = self._clock()  # the driver has to wake up too

    def close(self, drain: bool = True) -> None:
        self._closing = True
        try:
            if drain and self._ended is None:
                self._wait(0.0)
                self._sleep(min(self.latency, 1.0))
        except OutputLost:
            pass
        finally:
            # a driver whose card has gone may raise, or block for ever
            closing = threading.Thread(target=_quietly, args=(self._stream.close,), daemon=True)
            closing.start()
            closing.join(timeout=1.0)


def grow_buffer(output: Output) -> bool:
    """More sound in hand, after it ran out; False where it is the most already. A control is heard so much later."""
    if output.buffer is None or output.buffer >= _MOST_BUFFER:
        return False
    output.buffer = min(max(_GROWTH * output.buffer, 0.1), _MOST_BUFFER)
    return True


def _quietly(call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception:  # the stream is of no use any more, whatever its driver says
        return


def import_sounddevice() -> Any:
    """The module.

    Raises:
        ImportError: not installed. OSError: installed, and PortAudio is not.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise ImportError("the sound card needs sounddevice; run: pip install 'rtjazz-hf[live]'") from error
    except OSError as error:
        raise OSError(
            f"no sound card to play on: {error}; install PortAudio (Debian: apt install libportaudio2)"
        ) from error
    return sounddevice


def output_devices(api: Any) -> list[str]:
    """Cards that play: 'number: name'."""
    try:
        return [
            f"{number}: {card['name']}"
            for number, card in enumerate(api.query_devices())
            if card["max_output_channels"] >= AUDIO_CHANNELS
        ]
    except Exception:  # there is no sound system to ask
        return []
