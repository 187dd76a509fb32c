"""Rendering of composed takes with FluidSynth: mix and stems, 48 kHz stereo, balanced, loudness set."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE
from ..band.performance import EXPRESSION, PITCH_BEND, VIBRATO, Take
from ..music.vocabulary import KITS

FADE_OUT_S = 0.05
LOUDNESS_RANGE = (-20.0, -14.0)  # LUFS
TRUE_PEAK = 0.95
LOW_BAND_HZ = 200.0
LOW_SHARE_RANGE = (0.2, 0.4)  # largest share of energy below LOW_BAND_HZ that a mix may keep
_BLOCK = 64  # samples FluidSynth computes at once; events fall on these
_ENGINE_GAIN = 0.55
_RELEASE_S = 0.3  # a note's own release fits into the end of the file

SOUND_FONTS = ("musescore", "fluid")
HELD_OUT_FONTS = ("timgm6mb",)  # nothing is ever trained on these: they show what is heard for the first time
_FONT_FILES = {
    "musescore": ("MuseScore_General_Full.sf2", "MuseScore_General.sf3", "MuseScore_General.sf2"),
    "fluid": ("FluidR3_GM.sf2", "FluidR3_GM.sf3"),
    "timgm6mb": ("TimGM6mb.sf2",),
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


_GUITARS = {"bossa": (0, 24), "samba": (0, 24), "gypsy": (0, 25)}  # nylon, steel; electric elsewhere
# What a font plays softer than the first one, in dB (measured: loudness of the stems of the same takes).
_FONT_LEVELS = {
    "fluid": {"brushes": 6.5, "drums": 2.0},
    "timgm6mb": {"piano": 2.0, "electric_piano": 3.5, "organ": -3.0, "vibraphone": -5.0, "bass": 4.0,
                 "drums": 12.0, "brushes": 6.5, "muted_trumpet": 6.0, "trombone": 8.0},
}  # fmt: skip


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
        players = [name for name in VOICES if take.notes.get(name)]
        samples = round(take.duration_s * SAMPLE_RATE)
        room = float(rng.uniform(0.15, 0.7))
        reverb = (
            room,
            float(rng.uniform(0.2, 0.6)),
            float(rng.uniform(0.5, 1.0)),
            float(rng.uniform(0.3, 0.9)),
        )
        width = float(rng.uniform(0.6, 1.5)) * (1 if rng.random() < 0.5 else -1)
        setup = {}
        for name in VOICES:  # drawn for all, so that one more player changes nobody else's place
            voice = VOICES[name]
            level = (
                voice.level_db
                + _FONT_LEVELS.get(self.soundfont, {}).get(name, 0.0)
                + float(rng.normal(0, 1.3))
            )
            pan = float(np.clip(voice.pan * width + rng.normal(0, 0.08), -0.8, 0.8))
            wet = float(np.clip(voice.reverb * rng.uniform(0.5, 1.6), 0, 1))
            preset = voice.presets[int(rng.integers(len(voice.presets)))]
            if name == "guitar":
                preset = _GUITARS.get(take.lead_sheet.genre, preset)
            preset = self.presets.get(name, preset)
            setup[name] = (preset, level, pan, wet)
        target = float(rng.uniform(*LOUDNESS_RANGE))
        low_share = float(rng.uniform(*LOW_SHARE_RANGE))

        passes = [[name] for name in players] if stems else [players]
        tracks = np.stack(
            [self._pass(take, group, setup, reverb, samples) for group in passes]
        )  # (passes, 2, samples)
        tracks = _limit_lows(tracks, low_share)
        tracks, loudness = _master(tracks, target)
        mix = tracks.sum(axis=0)
        parts = dict(zip(players, tracks, strict=True)) if stems else {}
        return Rendering(mix, parts, loudness, band_share(mix))

    def _pass(self, take: Take, players: list[str], setup: dict, reverb: tuple, samples: int) -> np.ndarray:
        synth, font = self._engine()
        try:
            return self._play(synth, font, take, players, setup, reverb, samples)
        finally:
            synth.delete()

    def _play(
        self, synth: Any, font: int, take: Take, players: list[str], setup: dict, reverb: tuple, samples: int
    ) -> np.ndarray:
        synth.set_reverb(*reverb)
        for name in players:
            channel = self.channels[name]
            (bank, program), level, pan, wet = setup[name]
            if synth.program_select(channel, font, bank, program) != 0:
                synth.program_select(channel, font, 128 if name in KITS else 0, 0)
            # FluidSynth takes volume as 40 log10(value / 127) dB.
            for controller, value in ((7, 127 * 10 ** (level / 40)), (10, 64 + 63 * pan), (91, 127 * wet)):
                synth.cc(channel, controller, int(np.clip(round(value), 0, 127)))
            synth.cc(channel, EXPRESSION, 112)
            synth.cc(channel, VIBRATO, 0)
            synth.pitch_bend(channel, 0)
        out = np.zeros((2, -(-samples // _BLOCK) * _BLOCK), dtype=np.float32)
        at = 0
        for time, _, channel, kind, one, two in self._events(take, players):
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
        out = out[:, :samples]
        fade = min(samples, round(FADE_OUT_S * SAMPLE_RATE))
        out[:, samples - fade :] *= np.cos(np.linspace(0, np.pi / 2, fade, dtype=np.float32)) ** 2
        return out

    def _events(self, take: Take, players: list[str]) -> list[tuple]:
        events = []
        for name in players:
            channel = self.channels[name]
            for note in take.notes[name]:
                stop = note.start_s + note.duration_s
                if name not in KITS:  # let a note that lasts to the end die inside the file
                    stop = min(stop, max(note.start_s + 0.05, take.duration_s - _RELEASE_S))
                events.append((note.start_s, 2, channel, "on", note.midi, note.velocity))
                events.append((stop, 0, channel, "off", note.midi, 0))
            for control in take.controls.get(name, ()):
                events.append((control.start_s, 1, channel, "control", control.controller, control.value))
        return sorted(events, key=lambda event: (event[0], event[1], event[2], event[4]))

    def _advance(self, synth: Any, out: np.ndarray, start: int, stop: int) -> None:
        """Compute samples `[start, stop)` into `out` in place."""
        if stop > start:
            left, right = out[0].ctypes.data, out[1].ctypes.data
            self._write(synth.synth, stop - start, left, start, 1, right, start, 1)


def render(
    take: Take, soundfont: str = "musescore", rng: np.random.Generator | None = None, stems: bool = True
) -> Rendering:
    """Render one take with the process's renderer for `soundfont` (kept for the next call)."""
    return shared_renderer(soundfont).render(take, np.random.default_rng(0) if rng is None else rng, stems)


@lru_cache(maxsize=2)
def shared_renderer(soundfont: str) -> Renderer:
    """This process's renderer for a font, made on first use."""
    return Renderer(soundfont)


def band_share(audio: np.ndarray, below_hz: float = LOW_BAND_HZ) -> float:
    """Share of the energy of `(2, samples)` below a frequency in Hz."""
    size = _fast_length(audio.shape[-1])  # an odd length costs ten times as much
    power = np.abs(np.fft.rfft(audio, size, axis=-1)) ** 2
    edge = int(below_hz * size / SAMPLE_RATE)
    total = float(power.sum())
    return float(power[:, :edge].sum()) / total if total > 0 else 0.0


def _limit_lows(tracks: np.ndarray, most: float) -> np.ndarray:
    """Turn down what lies below 200 Hz of `(tracks, 2, samples)` so that the mix has at most the share `most`
    there."""
    size = _fast_length(tracks.shape[-1])
    spectrum = np.fft.rfft(tracks.astype(np.float32), size, axis=-1)
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    power = (np.abs(spectrum.sum(axis=0)) ** 2).sum(axis=0)
    edge = np.searchsorted(hertz, LOW_BAND_HZ)
    low, high = float(power[:edge].sum()), float(power[edge:].sum())
    if low <= most * (low + high) or high <= 0:
        return tracks
    gain = np.sqrt(most * high / ((1 - most) * low))
    # A shelf, an octave wide, rather than a step; its upper half lies above the edge, so aim a little lower.
    shape = 1 / (1 + (hertz / (1.15 * LOW_BAND_HZ)) ** 6)
    for _ in range(6):
        curve = 1 - (1 - gain) * shape
        shaped = power * curve**2
        share = shaped[:edge].sum() / shaped.sum()
        if share <= most * 1.02:
            break
        gain *= np.sqrt(most * (1 - share) / (share * (1 - most)))
    spectrum *= curve.astype(np.float32)
    return np.fft.irfft(spectrum, size, axis=-1)[..., : tracks.shape[-1]].astype(np.float32)


def _fast_length(samples: int) -> int:
    from scipy.fft import next_fast_len

    return int(next_fast_len(samples + SAMPLE_RATE // 2, real=True))  # room for the filter's tail


def _master(tracks: np.ndarray, target: float) -> tuple[np.ndarray, float]:
    """Bring the sum of `(tracks, 2, samples)` to `target` LUFS under the true peak; the tracks and the
    loudness."""
    import pyloudnorm

    meter = pyloudnorm.Meter(SAMPLE_RATE)

    def loudness_of(sound: np.ndarray) -> float:
        with np.errstate(divide="ignore"):
            return float(meter.integrated_loudness(sound.sum(axis=0).T.astype(np.float64)))

    measured = loudness_of(tracks)
    if not np.isfinite(measured):
        return tracks, measured
    for _ in range(2):  # the limiter takes a little loudness; once more brings it back
        tracks = _limiter(tracks * np.float32(10 ** ((target - measured) / 20)))
        measured = loudness_of(tracks)
        if abs(measured - target) < 0.3:
            break
    return tracks, measured


def _limiter(tracks: np.ndarray) -> np.ndarray:
    """Look-ahead limiter on the sum of the tracks: true peak (four times oversampled) at most `TRUE_PEAK`."""
    from scipy.ndimage import minimum_filter1d, uniform_filter1d
    from scipy.signal import resample_poly

    mix = tracks.sum(axis=0)
    peaks = np.abs(mix).max(axis=0)
    loud = np.flatnonzero(peaks > 0.5 * TRUE_PEAK)
    if loud.size:
        over = np.abs(resample_poly(mix, 4, 1, axis=-1)).max(axis=0).reshape(-1, 4).max(axis=1)
        peaks = np.maximum(peaks, over[: len(peaks)])
    if peaks.max() <= TRUE_PEAK:
        return tracks
    needed = np.minimum(1.0, TRUE_PEAK / np.maximum(peaks, 1e-9))
    width = 2 * (SAMPLE_RATE // 400) + 1  # 5 ms
    gain = uniform_filter1d(minimum_filter1d(needed, 2 * width + 1), width)
    return tracks * gain.astype(np.float32)
