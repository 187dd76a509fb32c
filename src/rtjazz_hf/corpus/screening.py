"""Is a file of use to train on? It is read, measured and given a fingerprint; what is wrong with it has a name.

Two kinds of copies are told: the same samples (a hash of them, whatever the file's tags), and the same recording coded
anew, louder or cut (a fingerprint). The fingerprint is Chromaprint's where pyacoustid and its library are installed,
else a simple hash of the spectrum after Haitsma and Kalker (ISMIR 2002): the sign of each band's change in time and
frequency. Both are rows of 32 bits, compared by the bits that differ.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE, audio_info, measure_loudness, read_audio, resample
from ..runtime.files import is_disk_full
from .augment import limit_peak
from .personal import why_unusable

FINGERPRINTS = ("chromaprint", "spectral")
LOUDNESS = -18.0  # LUFS that recordings are brought to
_MOST_GAIN = 20.0  # dB: what is quieter is mostly noise
_LONGEST = 1800.0  # seconds of a recording that are read: a day of radio is no recording
_PRINT_SECONDS = 60.0  # of the beginning that a fingerprint hears
_SPECTRAL_RATE, _SPECTRAL_WINDOW, _SPECTRAL_HOP = 5_512, 2048, 64  # 0.37 s every 11.6 ms, as in the paper


class Unusable(ValueError):
    """A recording that is left out: `kind` is what is counted, the message what is told."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Screened:
    """A recording of use: `audio` (2, samples) at 48 kHz, at `LOUDNESS` as far as its peaks allow.

    loudness: LUFS as it was. content: hash of its samples. prints: its fingerprint, (n,) uint32. mono: it was. cut: it
    is a part of its file.
    """

    audio: np.ndarray
    loudness: float
    content: str
    prints: np.ndarray
    mono: bool
    cut: bool

    @property
    def seconds(self) -> float:
        return self.audio.shape[-1] / SAMPLE_RATE


def screen(row: Mapping[str, Any], fingerprint: str) -> Screened:
    """Read and measure a row of `external.features()`.

    Raises:
        Unusable: with a kind of "missing", "empty", "unreadable", "cut short", "too many channels", "not finite", "too
            short", "silent" or "clipped".
        OSError: the disk is full.
    """
    with _sound_file(row) as path:
        audio, mono, cut = _read(row, path)
    if reason := why_unusable(audio):
        raise Unusable(reason.split(" (")[0], reason)
    loudness = measure_loudness(audio)
    if not np.isfinite(loudness):
        raise Unusable("silent", "silent (no part of it is loud enough to be measured)")
    content = hashlib.sha256(np.round(audio * 32767).astype("<i2").tobytes()).hexdigest()
    prints = fingerprint_of(audio, fingerprint)
    audio = limit_peak(audio * np.float32(10 ** (min(LOUDNESS - loudness, _MOST_GAIN) / 20)))
    return Screened(audio, round(loudness, 2), content, prints, mono, cut)


@contextmanager
def _sound_file(row: Mapping[str, Any]) -> Iterator[Path]:
    """Where a row's sound lies; what came as bytes gets a file for as long as it is read."""
    sound = row["audio"]
    if sound["bytes"] is None:
        if not sound["path"]:
            raise Unusable("missing", "there is no sound in its row")
        yield Path(sound["path"])
        return
    if not sound["bytes"]:
        raise Unusable("empty", "its sound has 0 bytes")
    suffix = Path(sound["path"] or "sound").suffix
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(sound["bytes"])
        file.flush()
        yield Path(file.name)


def _read(row: Mapping[str, Any], path: Path) -> tuple[np.ndarray, bool, bool]:
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise Unusable("empty", "the file has 0 bytes")
        info = audio_info(path)
        start, end = row["start"], row["end"]
        if start is None or end is None or info.duration < end - 0.5:
            start, end = 0.0, info.duration  # the clip alone, or the whole
        audio = read_audio(path, start, min(end - start, _LONGEST))
    except (OSError, ValueError) as error:
        if isinstance(error, Unusable) or is_disk_full(error):
            raise
        # Where a file lies, or lay for a moment, is another thing on another machine.
        raise Unusable(
            _kind(error), str(error).replace(f"'{path}' ", "").replace(f"'{path}'", path.name)
        ) from error
    return audio, info.channels == 1, end - start < info.duration - 0.5


def _kind(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing"
    said = str(error)
    # read_audio's own words, and libsndfile's behind them
    kinds = {"cut short:": "cut short", "holds no samples": "empty", " channels; ": "too many channels",
             "NaN or infinite": "not finite", "full scale is 1": "not finite"}  # fmt: skip
    return next((kind for words, kind in kinds.items() if words in said), "unreadable")


# --- copies ---------------------------------------------------------------------------------------


def best_fingerprint() -> str:
    """The better of `FINGERPRINTS` that is installed here."""
    try:
        _chromaprint()
    except ImportError:
        return "spectral"
    return "chromaprint"


def _chromaprint() -> Any:
    """pyacoustid's module; ImportError without it, or without the library that it loads."""
    return importlib.import_module("chromaprint")


def fingerprint_of(audio: np.ndarray, kind: str) -> np.ndarray:
    """The fingerprint `(n,)` uint32 of the beginning of `audio` `(2, samples)` at 48 kHz."""
    mono = audio[:, : int(_PRINT_SECONDS * SAMPLE_RATE)].mean(0, keepdims=True)
    if kind == "spectral":
        return _spectral_hash(resample(mono, SAMPLE_RATE, _SPECTRAL_RATE)[0])
    if kind != "chromaprint":
        raise ValueError(f"unknown fingerprint {kind!r}: choose {', '.join(FINGERPRINTS)}")
    try:
        chromaprint = _chromaprint()
    except ImportError as error:
        raise ImportError(
            "Chromaprint is not installed; run: pip install 'rtjazz-hf[scale]' and apt-get install libchromaprint1"
        ) from error
    printer = chromaprint.Fingerprinter()
    printer.start(SAMPLE_RATE, 1)
    printer.feed(np.round(mono[0] * 32767).astype("<i2").tobytes())
    return np.array(chromaprint.decode_fingerprint(printer.finish())[0], dtype=np.int64).astype(np.uint32)


def _spectral_hash(mono: np.ndarray) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(mono, _SPECTRAL_WINDOW)[::_SPECTRAL_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_SPECTRAL_WINDOW).astype(np.float32), axis=1)) ** 2
    edges = np.geomspace(300, 2000, 34) / (_SPECTRAL_RATE / _SPECTRAL_WINDOW)
    bands = np.add.reduceat(power, np.unique(edges.astype(int)), axis=1)[:, :33]  # (frames, bands)
    change = np.diff(np.diff(bands, axis=1), axis=0) > 0
    return (
        (change[:, :32] * (1 << np.arange(change[:, :32].shape[1], dtype=np.uint64))).sum(1).astype(np.uint32)
    )


def pack_prints(prints: np.ndarray) -> str:
    return base64.b64encode(prints.astype("<u4").tobytes()).decode()


def unpack_prints(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<u4")


@dataclass
class KnownRecordings:
    """All recordings so far: `copy_of` names the one that another is a copy of.

    In memory: the fingerprints, about 1 kB for 30 s of Chromaprint's, and where every eighth value of them occurs.
    """

    # Of the bits of two rows laid over each other; 0.5 by chance. Chromaprint's, of 950 short takes much alike: MP3
    # copies differ in 0.012 at most, others in 0.21 at least.
    most_difference: float = 0.15
    contents: dict[str, str] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list, repr=False)
    _prints: list[np.ndarray] = field(default_factory=list, repr=False)
    _places: dict[int, list[tuple[int, int]]] = field(default_factory=dict, repr=False)

    def add(self, name: str, content: str, prints: np.ndarray) -> None:
        self.contents.setdefault(content, name)
        for place in self._sampled(prints):
            self._places.setdefault(int(prints[place]), []).append((len(self._names), int(place)))
        self._names.append(name)
        self._prints.append(prints)

    def copy_of(self, content: str, prints: np.ndarray) -> tuple[str, str] | None:
        """("duplicate" or "same recording", the name of the other), or None."""
        if content in self.contents:
            return "duplicate", self.contents[content]
        votes: Counter[tuple[int, int]] = Counter()
        for place in self._sampled(prints):
            for other, where in self._places.get(int(prints[place]), ()):
                votes[other, where - int(place)] += 1
        for (other, shift), _ in sorted(votes.items(), key=lambda item: (-item[1], item[0]))[:8]:
            if self._difference(prints, self._prints[other], shift) < self.most_difference:
                return "same recording", self._names[other]
        return None

    @staticmethod
    def _sampled(prints: np.ndarray) -> np.ndarray:
        """Places of the values that are looked up: the same ones in every copy, one of those that follow each other."""
        if len(prints) == 0:
            return np.zeros(0, dtype=int)
        mixed = (prints.astype(np.uint64) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
        first = np.concatenate([[True], prints[1:] != prints[:-1]])
        few = len(prints) < 100  # a short fingerprint has no value to spare
        return np.flatnonzero(first & (few | (mixed >> np.uint64(29) == 0)))

    @staticmethod
    def _difference(one: np.ndarray, two: np.ndarray, shift: int) -> float:
        """Share of differing bits of `one` and `two` laid over each other, `one` beginning at `shift` of `two`."""
        start, stop = max(0, -shift), min(len(one), len(two) - shift)
        if stop - start < max(8, min(len(one), len(two)) // 2):
            return 1.0
        part = one[start:stop]
        if len(np.unique(part)) < 8:  # a held tone is like any other
            return 1.0
        differing = np.bitwise_xor(part, two[start + shift : stop + shift])
        return float(np.unpackbits(differing.astype("<u4").view(np.uint8)).mean())


__all__ = [
    "FINGERPRINTS", "LOUDNESS", "KnownRecordings", "Screened", "Unusable", "best_fingerprint", "fingerprint_of",
    "pack_prints", "screen", "unpack_prints",
]  # fmt: skip
