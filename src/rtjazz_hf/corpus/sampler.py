"""Recorded instruments, played by sfizz (pysfizz): notes at the sample, wheels and swells of lanes, the same sound for
the same notes and dice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE
from ..band.performance import Note
from .lanes import WHEEL_RANGE, WHEEL_STEP, Lane
from .renderer import RendererUnavailable, last_stop

INSTALL_HINT = "recorded instruments want pysfizz: pip install 'rtjazz-hf[corpus]'"
_AHEAD_S = 0.1  # a note whose sound begins late is struck before its time, the first one too
_SETTLE = 4  # blocks in which a synth comes to rest between two lanes


@dataclass(frozen=True)
class Zone:
    """Where one region sounds, and how long after being struck it is heard.

    Attributes:
        keys, velocities: lowest and highest, both included. robin: its place among round robins, from 1. robins: how
            many there are. dice: of 0 to 127, which values let it sound. lag_s: from its stroke to its onset.
    """

    keys: tuple[int, int]
    velocities: tuple[int, int]
    robin: int = 1
    robins: int = 1
    dice: tuple[int, int] = (0, 127)
    lag_s: float = 0.0

    def sounds(self, key: int, velocity: int, robin: int, dice: int) -> bool:
        return (
            self.keys[0] <= key <= self.keys[1]
            and self.velocities[0] <= velocity <= self.velocities[1]
            and (robin - 1) % self.robins == self.robin - 1
            and self.dice[0] <= dice <= self.dice[1]
        )


@dataclass(frozen=True)
class Mapped:
    """A mapping that is ready to be played: its text as `Mapping.rewritten` gives it, its attack zones, the controllers
    that choose among so many round robins and by dice, and its gain (1 is as sfizz gives it)."""

    text: str
    zones: tuple[Zone, ...]
    robin_controllers: tuple[tuple[int, int], ...]
    dice_controller: int
    gain: float = 1.0


def _sfizz() -> Any:
    try:
        from pysfizz import _sfizz
    except ImportError as error:
        raise RendererUnavailable(f"{INSTALL_HINT} ({error})") from error
    return _sfizz


def open_synth(text: str) -> Any:
    """A synth of sfizz with a mapping whose samples are given by whole paths; one block is `WHEEL_STEP` samples.

    Raises:
        RendererUnavailable: pysfizz is not installed.
        ValueError: sfizz cannot load it.
    """
    synth = _sfizz().Synth(SAMPLE_RATE, WHEEL_STEP)
    synth.enable_freewheeling()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mapping.sfz"
        file.write_text(text, encoding="utf-8")
        if not synth.load_sfz_file(str(file)):
            raise ValueError("sfizz cannot load it")
    return synth


def choose(
    synth: Any, robins: Iterable[tuple[int, int]], dice_controller: int, robin: int, dice: int, delay: int = 0
) -> None:
    """Set what the next note is chosen by: the round robin, from 1, whatever number of them a region has, and dice."""
    for count, controller in robins:
        synth.cc(delay, controller, (robin - 1) % count + 1)
    synth.cc(delay, dice_controller, dice)


class Sampler:
    """One recorded instrument in this process, its samples in memory.

    Raises:
        RendererUnavailable: pysfizz is not installed.
    """

    def __init__(self, mapped: Mapped):
        self.mapped = mapped
        self.synth = open_synth(mapped.text)

    def play(self, lanes: Sequence[Lane], seconds: float, rng: np.random.Generator) -> np.ndarray:
        """float32 `(2, samples)` without a room. `rng` chooses among round robins, none twice running on a key."""
        samples = round(seconds * SAMPLE_RATE)
        ahead = -(-round(_AHEAD_S * SAMPLE_RATE) // WHEEL_STEP)  # blocks
        blocks = ahead + -(-samples // WHEEL_STEP)
        out = np.zeros((2, blocks * WHEEL_STEP), dtype=np.float32)
        for lane in lanes:
            sound = self._lane(lane, seconds, ahead, blocks, rng)
            if lane.swell is not None:
                at = np.arange(sound.shape[1]) / WHEEL_STEP - ahead
                sound *= np.interp(at, np.arange(len(lane.swell)), lane.swell).astype(np.float32)
            out += sound
        out = out[:, ahead * WHEEL_STEP :][:, :samples]
        return out * np.float32(self.mapped.gain)

    def _lane(
        self, lane: Lane, seconds: float, ahead: int, blocks: int, rng: np.random.Generator
    ) -> np.ndarray:
        synth = self.synth
        self._rest()
        waiting = self._events(lane.notes, seconds, ahead * WHEEL_STEP, rng)
        wheel = np.zeros(blocks + 1, dtype=int)
        if lane.wheel is not None:
            curve = np.append(np.full(ahead, lane.wheel[0]), lane.wheel)[: blocks + 1]
            wheel[: len(curve)] = np.round(np.clip(curve / WHEEL_RANGE, -1, 1) * 8191)
            wheel[len(curve) :] = wheel[len(curve) - 1]
            synth.pitch_wheel(0, int(wheel[0]))
            synth.render_block()
        out = np.zeros((2, blocks * WHEEL_STEP), dtype=np.float32)
        place, sounding = 0, False
        for block in range(blocks):
            first = block * WHEEL_STEP
            if wheel[block + 1] != wheel[block]:  # reached by a line at the end of the block
                synth.pitch_wheel(WHEEL_STEP - 1, int(wheel[block + 1]))
                sounding = True
            while place < len(waiting) and waiting[place][0] < first + WHEEL_STEP:
                at, _, key, velocity, robin, dice = waiting[place]
                delay = max(0, at - first)
                if velocity:
                    choose(synth, self.mapped.robin_controllers, self.mapped.dice_controller, robin, dice, delay)
                    synth.note_on(delay, key, velocity)
                else:
                    synth.note_off(delay, key, 0)
                place, sounding = place + 1, True
            if sounding:
                left, right = synth.render_block()
                out[0, first : first + WHEEL_STEP] = left
                out[1, first : first + WHEEL_STEP] = right
                sounding = synth.get_num_active_voices() > 0
        return out

    def _events(self, notes: Sequence[Note], seconds: float, ahead: int, rng: np.random.Generator) -> list[tuple]:
        """(sample, order, key, velocity, robin, dice) of notes on and, with velocity 0, off."""
        last: dict[int, int] = {}  # key: its last round robin
        struck = []
        for note in notes:
            robins = max((zone.robins for zone in self._at(note)), default=1)
            free = [robin for robin in range(1, robins + 1) if robin != last.get(note.midi)] or [1]
            robin, dice = free[int(rng.integers(len(free)))], int(rng.integers(128))
            last[note.midi] = robin
            lag = min(
                (zone.lag_s for zone in self._at(note) if zone.sounds(note.midi, note.velocity, robin, dice)),
                default=0.0,
            )
            struck.append((ahead + round((note.start_s - lag) * SAMPLE_RATE), note, robin, dice))
        events: list[tuple] = []
        again: dict[int, int] = {}  # key: when it is struck next
        for on, note, robin, dice in sorted(struck, key=lambda each: each[0], reverse=True):
            off = ahead + round(last_stop(note, seconds) * SAMPLE_RATE)
            off = max(on + 1, min(off, again.get(note.midi, off + 1) - 1))
            again[note.midi] = on
            events += [(max(0, on), 1, note.midi, note.velocity, robin, dice), (off, 0, note.midi, 0, 0, 0)]
        return sorted(events)

    def _at(self, note: Note) -> list[Zone]:
        return [
            zone
            for zone in self.mapped.zones
            if zone.keys[0] <= note.midi <= zone.keys[1] and zone.velocities[0] <= note.velocity <= zone.velocities[1]
        ]

    def _rest(self) -> None:
        """As a fresh synth is: nothing sounds, the wheel stands in the middle."""
        self.synth.all_sound_off()
        self.synth.pitch_wheel(0, 0)
        for _ in range(_SETTLE):
            self.synth.render_block()


@cache
def shared_sampler(mapped: Mapped) -> Sampler:
    """This process's sampler for a mapping, made on first use."""
    return Sampler(mapped)


__all__ = ["Mapped", "Sampler", "Zone", "choose", "open_synth", "shared_sampler"]
