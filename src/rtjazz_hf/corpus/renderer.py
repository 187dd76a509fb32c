"""Rendering of composed takes with FluidSynth: mix and stems, 48 kHz stereo, balanced, loudness set."""

from __future__ import annotations

import ctypes
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE
from ..band.expression import HABITS
from ..band.grooves import SWIRL
from ..band.performance import EXPRESSION, FULL_EXPRESSION, PITCH_BEND, VIBRATO, Note, Take
from ..music.vocabulary import KITS
from .lanes import WHEEL_RANGE, WHEEL_STEP, Lane, lanes_of
from .mixing import band_share, limit_lows, master

FADE_OUT_S = 0.05
LOUDNESS_RANGE = (-20.0, -14.0)  # LUFS
LOW_SHARE_RANGE = (0.2, 0.4)  # largest share of energy below LOW_BAND_HZ that a mix may keep
_BLOCK = 64  # samples FluidSynth computes at once; events fall on these
_ENGINE_GAIN = 0.55
_RELEASE_S = 0.3  # a note's own release fits into the end of the file
_STROKE_S = 0.03  # between the strokes that make a sweep of brushes
_LANE_CHANNELS = 17  # the first MIDI channel behind those of the players

SOUND_FONTS = ("musescore", "fluid")
HELD_OUT_FONTS = ("timgm6mb",)  # nothing is ever trained on these: they show what is heard for the first time
_FONT_FILES = {
    "musescore": ("MuseScore_General_Full.sf2", "MuseScore_General.sf3", "MuseScore_General.sf2"),
    "fluid": ("FluidR3_GM.sf2", "FluidR3_GM.sf3"),
    "timgm6mb": ("TimGM6mb.sf2",),
}
# Where each comes from and its terms, as its Debian package's copyright file has them.
FONT_TERMS = {
    "musescore": ("Debian: musescore-general-soundfont-lossless", "MIT, parts public domain or CC0"),
    "fluid": ("Debian: fluid-soundfont-gm", "MIT"),
    "timgm6mb": ("Debian: timgm6mb-soundfont", "GPL-2"),
}
_FONT_FOLDERS = (
    "/usr/share/sounds/sf2",
    "/usr/share/sounds/sf3",
    "/usr/share/soundfonts",
    "/usr/local/share/soundfonts",
)
INSTALL_HINT = (
    "Debian, Ubuntu: apt-get install fluidsynth musescore-general-soundfont-lossless fluid-soundfont-gm "
    "(timgm6mb-soundfont for the held-out one); then: pip install 'rtjazz-hf[corpus]'. "
    "Fonts kept elsewhere: set RTJAZZ_SOUNDFONTS to their folder."
)


@dataclass(frozen=True)
class Voice:
    """How an instrument stands in the mix: presets (bank, program) to draw from, level in dB, place -1 left
    to 1."""

    presets: tuple[tuple[int, int], ...]
    level_db: float
    pan: float
    reverb: float  # send, 0 to 1


# Levels bring the fonts' instruments, which differ by 15 dB, to the balance of a small jazz group.
VOICES = {
    "piano": Voice(((0, 0), (0, 0), (0, 1)), -9.0, -0.25, 0.3),
    "electric_piano": Voice(((0, 4), (0, 4), (0, 5)), -9.0, -0.25, 0.3),
    "organ": Voice(((0, 16), (0, 17)), -13.0, -0.3, 0.3),
    "guitar": Voice(((0, 26),), -7.0, 0.35, 0.3),
    "vibraphone": Voice(((0, 11),), -8.0, 0.3, 0.35),
    "bass": Voice(((0, 32),), -13.0, 0.0, 0.12),
    "drums": Voice(((128, 32), (128, 0)), -10.0, 0.1, 0.22),
    "brushes": Voice(((128, 40),), -7.0, 0.1, 0.22),
    "alto_sax": Voice(((0, 65),), -10.0, -0.1, 0.4),
    "tenor_sax": Voice(((0, 66),), -10.0, -0.1, 0.4),
    "trumpet": Voice(((0, 56),), -10.0, 0.12, 0.4),
    "muted_trumpet": Voice(((0, 59),), -9.0, 0.12, 0.45),
    "trombone": Voice(((0, 57),), -10.0, 0.2, 0.4),
    "clarinet": Voice(((0, 71),), -11.0, -0.12, 0.4),
    "flute": Voice(((0, 73),), -8.0, 0.12, 0.45),
    "synth_pad": Voice(((0, 89), (0, 88)), -16.0, 0.0, 0.4),
}


ACOUSTIC_GUITARS = {"bossa": (0, 24), "samba": (0, 24), "gypsy": (0, 25)}  # nylon, steel; electric elsewhere
# What a font plays softer than the first one, in dB (measured: loudness of the stems of the same takes).
_FONT_LEVELS = {
    "fluid": {"brushes": 6.5, "drums": 2.0},
    "timgm6mb": {"piano": 2.0, "electric_piano": 3.5, "organ": -3.0, "vibraphone": -5.0, "bass": 4.0,
                 "drums": 12.0, "brushes": 6.5, "muted_trumpet": 6.0, "trombone": 8.0},
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """How a player stands in one mix: preset of a font, level in dB and what this mix adds to it, place, send."""

    preset: tuple[int, int]
    level_db: float
    human_db: float
    pan: float
    wet: float


@dataclass(frozen=True)
class MixPlan:
    """What is drawn for one mix: where everybody stands, the room (size, damping, width, level, each as FluidSynth has
    them), loudness in LUFS, largest share of energy below 200 Hz."""

    places: dict[str, Place]
    reverb: tuple[float, float, float, float]
    loudness: float
    low_share: float


@dataclass(frozen=True)
class Rendering:
    """A rendered take: `mix` and each of `stems` float32 `(2, samples)` at 48 kHz; loudness in LUFS.

    With stems, the mix is their sum.
    """

    mix: np.ndarray
    stems: dict[str, np.ndarray]
    loudness: float
    low_share: float


class RendererUnavailable(RuntimeError):
    """FluidSynth, its Python binding or a sound font is missing; the message says how to install it."""


def find_soundfont(name: str) -> Path:
    """The file of a sound font: "musescore", "fluid", "timgm6mb", or a path to an sf2 or sf3 file.

    Raises:
        RendererUnavailable: where it is not installed.
        ValueError: for an unknown name.
    """
    if name not in _FONT_FILES:
        if name.lower().endswith((".sf2", ".sf3")):
            if Path(name).is_file():
                return Path(name)
            raise RendererUnavailable(f"there is no sound font '{name}'. {INSTALL_HINT}")
        raise ValueError(
            f"unknown sound font {name!r}: choose {', '.join(_FONT_FILES)} or give an .sf2 or .sf3 file"
        )
    extra = [os.environ["RTJAZZ_SOUNDFONTS"]] if os.environ.get("RTJAZZ_SOUNDFONTS") else []
    for folder in (*extra, *_FONT_FOLDERS):
        for file in _FONT_FILES[name]:
            if (path := Path(folder) / file).is_file():
                return path
    raise RendererUnavailable(
        f"the sound font {name!r} ({_FONT_FILES[name][0]}) is not installed. {INSTALL_HINT}"
    )


def _fluidsynth() -> Any:
    try:
        import fluidsynth
    except ImportError as error:
        raise RendererUnavailable(
            f"FluidSynth or its Python binding is missing ({error}). {INSTALL_HINT}"
        ) from error
    if not hasattr(fluidsynth, "Synth"):
        raise RendererUnavailable(f"the module 'fluidsynth' found is not pyfluidsynth. {INSTALL_HINT}")
    return fluidsynth


class Renderer:
    """FluidSynth with one font.

    Every pass has an engine of its own, since a used one carries the phases of its reverb's modulation into
    the next take; that costs little, as an engine reads only the samples of the presets that play.

    Args:
        soundfont: "musescore", "fluid" or a path.
        presets: (bank, program) of instruments that are to sound like others than `VOICES` has.

    Raises:
        RendererUnavailable: where FluidSynth or the font is missing.
    """

    def __init__(self, soundfont: str = "musescore", presets: Mapping[str, tuple[int, int]] | None = None):
        self.path = find_soundfont(soundfont)
        self.presets = dict(presets or {})
        self.module = _fluidsynth()
        self.soundfont = soundfont
        self.channels = {name: index if index < 9 else index + 1 for index, name in enumerate(VOICES)}
        self._wheel_range = self.module._fl.fluid_synth_pitch_wheel_sens  # not in the binding
        self._wheel_range.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        # The binding offers 16 bits only; the library gives floats.
        self._write = self.module._fl.fluid_synth_write_float
        self._write.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int,
            *([ctypes.c_void_p, ctypes.c_int, ctypes.c_int] * 2),
        ]

    def _engine(self) -> tuple[Any, int]:
        """A fresh engine and the number of its font."""
        synth = self.module.Synth(
            gain=_ENGINE_GAIN,
            samplerate=float(SAMPLE_RATE),
            channels=32,
            **{
                "synth.chorus.active": 0,
                "synth.reverb.active": 1,
                "synth.polyphony": 256,
                "synth.dynamic-sample-loading": 1,  # of a 500 MB font only what is played
                "synth.cpu-cores": 1,
            },
        )
        font = synth.sfload(str(self.path))
        if font == -1:
            synth.delete()
            raise RendererUnavailable(f"FluidSynth cannot read the sound font '{self.path}'. {INSTALL_HINT}")
        return synth, font

    def render(self, take: Take, rng: np.random.Generator, stems: bool = False) -> Rendering:
        """Render a take with a mix drawn from `rng`: presets, levels, places, room, loudness.

        Args:
            stems: also give every instrument alone; the mix is then their sum.
        """
        plan = draw_mix(take, rng)
        players = players_of(take)
        tracks = self.tracks(take, [[name] for name in players] if stems else [players], plan)
        return finish(tracks, players if stems else [], plan)

    def tracks(self, take: Take, passes: Sequence[Sequence[str]], plan: MixPlan) -> np.ndarray:
        """`(passes, 2, samples)`, the players of each pass together, before the mix is set to its loudness."""
        samples = round(take.duration_s * SAMPLE_RATE)
        return np.stack([self._pass(take, list(group), plan, samples) for group in passes])

    def _pass(self, take: Take, players: list[str], plan: MixPlan, samples: int) -> np.ndarray:
        synth, font = self._engine()
        try:
            return self._play(synth, font, take, players, plan, samples)
        finally:
            synth.delete()

    def _play(
        self, synth: Any, font: int, take: Take, players: list[str], plan: MixPlan, samples: int
    ) -> np.ndarray:
        synth.set_reverb(*plan.reverb)
        lanes = {name: lanes_of(take, name) for name in players}
        for name in players:
            place = plan.places[name]
            bank, program = self.presets.get(name, place.preset)
            level = place.level_db + _FONT_LEVELS.get(self.soundfont, {}).get(name, 0.0) + place.human_db
            for lane in range(len(lanes[name])):
                channel = self._channel(name, lane)
                if synth.program_select(channel, font, bank, program) != 0:
                    synth.program_select(channel, font, 128 if name in KITS else 0, 0)
                volume = 127 * 10 ** (level / 40)  # FluidSynth takes it as 40 log10(value / 127) dB
                for controller, value in ((7, volume), (10, 64 + 63 * place.pan), (91, 127 * place.wet)):
                    synth.cc(channel, controller, int(np.clip(round(value), 0, 127)))
                synth.cc(channel, EXPRESSION, FULL_EXPRESSION)
                synth.cc(channel, VIBRATO, 0)
                if name in take.touches:
                    self._wheel_range(synth.synth, channel, WHEEL_RANGE)
                synth.pitch_bend(channel, 0)
        out = np.zeros((2, -(-samples // _BLOCK) * _BLOCK), dtype=np.float32)
        at = 0
        for time, _, channel, kind, one, two in self._events(take, lanes):
            block = min(int(time * SAMPLE_RATE) // _BLOCK * _BLOCK, out.shape[1])
            if block > at:
                self._advance(synth, out, at, block)
                at = block
            if kind == "on":
                synth.noteon(channel, one, two)
            elif kind == "off":
                synth.noteoff(channel, one)
            elif one == PITCH_BEND:
                synth.pitch_bend(channel, two)
            else:
                synth.cc(channel, one, two)
        self._advance(synth, out, at, out.shape[1])
        return faded(out[:, :samples])

    def _channel(self, name: str, lane: int) -> int:
        """The first lane of a player has the player's own channel, the others those behind all players' own."""
        if lane == 0:
            return self.channels[name]
        if lane == 1:
            return _LANE_CHANNELS + list(HABITS).index(name)
        return _LANE_CHANNELS + len(HABITS)  # a guitarist's chords; nobody else has both a line and chords

    def _events(self, take: Take, lanes: Mapping[str, Sequence[Lane]]) -> list[tuple]:
        events = []
        for name, own in lanes.items():
            touched = name in take.touches
            for index, lane in enumerate(own):
                channel = self._channel(name, index)
                notes = strokes(lane.notes) if touched and name in KITS else lane.notes
                for note in notes:
                    stop = note.start_s + note.duration_s
                    if name not in KITS:
                        stop = last_stop(note, take.duration_s)
                    events.append((note.start_s, 2, channel, "on", note.midi, note.velocity))
                    events.append((stop, 0, channel, "off", note.midi, 0))
                events += _movements(lane, channel)
            for control in () if touched else take.controls.get(name, ()):
                channel = self._channel(name, 0)
                events.append((control.start_s, 1, channel, "control", control.controller, control.value))
        return sorted(events, key=lambda event: (event[0], event[1], event[2], event[4]))

    def _advance(self, synth: Any, out: np.ndarray, start: int, stop: int) -> None:
        """Compute samples `[start, stop)` into `out` in place."""
        if stop > start:
            left, right = out[0].ctypes.data, out[1].ctypes.data
            self._write(synth.synth, stop - start, left, start, 1, right, start, 1)


def players_of(take: Take) -> list[str]:
    """Who has notes, in the order of `VOICES`."""
    return [name for name in VOICES if take.notes.get(name)]


def draw_mix(take: Take, rng: np.random.Generator) -> MixPlan:
    """Draw how a take is mixed."""
    room = float(rng.uniform(0.15, 0.7))
    reverb = (room, float(rng.uniform(0.2, 0.6)), float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.3, 0.9)))
    width = float(rng.uniform(0.6, 1.5)) * (1 if rng.random() < 0.5 else -1)
    places = {}
    for name, voice in VOICES.items():  # drawn for all, so that one more player changes nobody else's place
        human = float(rng.normal(0, 1.3))
        pan = float(np.clip(voice.pan * width + rng.normal(0, 0.08), -0.8, 0.8))
        wet = float(np.clip(voice.reverb * rng.uniform(0.5, 1.6), 0, 1))
        preset = voice.presets[int(rng.integers(len(voice.presets)))]
        if name == "guitar":
            preset = ACOUSTIC_GUITARS.get(take.lead_sheet.genre, preset)
        places[name] = Place(preset, voice.level_db, human, pan, wet)
    return MixPlan(places, reverb, float(rng.uniform(*LOUDNESS_RANGE)), float(rng.uniform(*LOW_SHARE_RANGE)))


def finish(tracks: np.ndarray, names: Sequence[str], plan: MixPlan) -> Rendering:
    """The mix of `(tracks, 2, samples)`, at its loudness; `names`: of the tracks, where they are wanted as stems."""
    tracks, loudness = master(limit_lows(tracks, plan.low_share), plan.loudness)
    mix = tracks.sum(axis=0)
    stems = dict(zip(names, tracks, strict=True)) if names else {}
    return Rendering(mix, stems, loudness, band_share(mix))


def last_stop(note: Note, duration: float) -> float:
    """When a note is let go, so that one that lasts to the end of the take dies inside it, in seconds."""
    return min(note.start_s + note.duration_s, max(note.start_s + 0.05, duration - _RELEASE_S))


def faded(audio: np.ndarray) -> np.ndarray:
    """`(2, samples)` with its end faded out, in place."""
    fade = min(audio.shape[1], round(FADE_OUT_S * SAMPLE_RATE))
    audio[:, audio.shape[1] - fade :] *= np.cos(np.linspace(0, np.pi / 2, fade, dtype=np.float32)) ** 2
    return audio


def _movements(lane: Lane, channel: int) -> list[tuple]:
    """A lane's wheel and swell as events, where they change."""
    events: list[tuple] = []
    for curve, controller in ((lane.wheel, PITCH_BEND), (lane.swell, EXPRESSION)):
        if curve is None:
            continue
        fine = np.interp(np.arange(0, len(curve), 0.5), np.arange(len(curve)), curve)
        if controller == PITCH_BEND:
            values = np.clip(np.round(fine * (8192 / WHEEL_RANGE)), -8192, 8191).astype(int)
        else:
            values = np.clip(np.round(FULL_EXPRESSION * np.sqrt(fine)), 0, 127).astype(int)
        rest = 0 if controller == PITCH_BEND else FULL_EXPRESSION
        for index in np.flatnonzero(np.diff(values, prepend=rest)):
            time = index * WHEEL_STEP / 2 / SAMPLE_RATE
            events.append((time, 1, channel, "control", controller, int(values[index])))
    return events


def strokes(notes: Iterable[Note]) -> list[Note]:
    """Brush strokes as a font has them: a sweep becomes a train of light ones that swells and fades."""
    out: list[Note] = []
    for note in notes:
        count = int(note.duration_s / _STROKE_S)
        if note.midi != SWIRL or count < 3:
            out.append(note)
            continue
        dice = np.random.default_rng([round(note.start_s * 1e5), note.velocity])
        for index in range(count):
            part = (index + 0.5) / count
            late = 0.0 if index == 0 else float(dice.uniform(-0.3, 0.3)) * _STROKE_S
            loud = note.velocity * (0.3 + 0.45 * np.sin(np.pi * part**0.6)) * float(dice.uniform(0.85, 1.1))
            loud = note.velocity * 0.7 if index == 0 else loud
            velocity = int(np.clip(round(loud), 1, 127))
            out.append(dataclasses.replace(note, start_s=note.start_s + index * _STROKE_S + late,
                                           duration_s=_STROKE_S, velocity=velocity))  # fmt: skip
    return out


def render(
    take: Take, soundfont: str = "musescore", rng: np.random.Generator | None = None, stems: bool = True
) -> Rendering:
    """Render one take with the process's renderer for `soundfont` (kept for the next call)."""
    return shared_renderer(soundfont).render(take, np.random.default_rng(0) if rng is None else rng, stems)


@lru_cache(maxsize=2)
def shared_renderer(soundfont: str) -> Renderer:
    """This process's renderer for a font, made on first use."""
    return Renderer(soundfont)


