"""Sound files of every kind that phones, chats and DAWs make, behind one face: that of `soundfile.SoundFile`.

libsndfile reads what it reads well. What it does not know (AAC, ALAC, WMA, WebM, FLAC in Ogg), or knows only half
(MP3 whose header tells no length), FFmpeg reads, by PyAV (the extra `formats`). A WAV whose recorder died is mended
on the way.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

RECORDING_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".m4a", ".mp4", ".aac", ".webm",
    ".wma", ".mka", ".mkv", ".mov", ".3gp", ".caf", ".amr", ".w64", ".au",
)  # fmt: skip

# Samples that a decoder gives before the first of the sound where the file does not say so, at its rate. Measured
# with FFmpeg's and LAME's encoders: `tests/test_sound_files.py`. Of WMA the decoder keeps back the first frame.
_EARLY = {"aac": 1024, "mp3": 1105, "mp2": 481, "ac3": 256, "amrnb": 40}
_SAYS_IT = (
    "mov",
    "mp4",
    "matroska",
    "webm",
    "ogg",
    "caf",
)  # containers that tell the decoder what to leave out
_WMA_FRAME = 2048  # above 22,050 Hz
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # of a WAV's samples, while they come in


@contextmanager
def open_sound(path: Path) -> Iterator[Any]:
    """A file to read from: `samplerate`, `channels`, `frames`, `extra_info`, `seek`, `read`.

    Raises:
        ValueError: a format that needs PyAV, which is not installed, or that nobody here reads, or damage.
        soundfile.LibsndfileError: as it comes.
    """
    with open(path, "rb") as raw:
        repaired = _RepairedWav.of(raw)
        file, reason = None, "it does not tell its length"
        if repaired is not None or not _has_no_length(raw):
            try:
                file = soundfile.SoundFile(path if repaired is None else repaired)
            except soundfile.LibsndfileError as error:
                reason = str(error).rpartition(": ")[2]
        if file is not None:
            with file:
                if (file.format, file.subtype) != ("WAV", "MPEG_LAYER_III"):
                    yield file
                    return
    with _decoded(path, reason) as decoded:
        yield decoded


# -- MP3 -----------------------------------------------------------------------------------------------------
def _has_no_length(raw: BinaryIO) -> bool:
    """Whether it is an MP3 (or MP2) whose first frame does not tell how many follow (no Xing, Info or VBRI header).

    libsndfile takes the first frame's bit rate for that of all then: the end is missing, or told of in vain.
    """
    raw.seek(0)
    head = raw.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0)))
    raw.seek(start)
    frame = raw.read(4096)
    found = (i for i in range(len(frame) - 1) if frame[i] == 0xFF and frame[i + 1] & 0xE0 == 0xE0)
    begin = next((i for i in found if frame[i + 1] & 0x06 in (0x02, 0x04)), None)  # layer III, or II
    if begin is None or (begin and head[:3] != b"ID3"):
        return False
    return not any(tag in frame[begin : begin + 200] for tag in (b"Xing", b"Info", b"VBRI"))


# -- WAV -----------------------------------------------------------------------------------------------------
class _RepairedWav:
    """A WAV whose sizes were never written, with those that the file's own length gives; to be read from."""

    def __init__(self, raw: BinaryIO, size: int, fixes: dict[int, bytes]):
        self._raw, self._size, self._fixes = raw, size, fixes

    @classmethod
    def of(cls, raw: BinaryIO) -> _RepairedWav | None:
        """None where nothing is to be mended."""
        size = os.fstat(raw.fileno()).st_size
        raw.seek(0)
        if raw.read(4) != b"RIFF" or raw.read(8)[4:] != b"WAVE":
            return None
        while len(chunk := raw.read(8)) == 8:
            name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            at = raw.tell()
            if name == b"data":
                there = size - at
                if length not in _UNKNOWN_SIZES or there == 0 or there >= 0xFFFFFFFF - at:
                    return None
                sizes = {4: struct.pack("<I", size - 8), at - 4: struct.pack("<I", there)}
                return cls(raw, size, sizes)
            raw.seek(at + length + length % 2)
        return None

    def __len__(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def read(self, size: int = -1) -> bytes:
        begin = self._raw.tell()
        data = bytearray(self._raw.read(size))
        for at, four in self._fixes.items():
            for place, byte in enumerate(four, start=at - begin):
                if 0 <= place < len(data):
                    data[place] = byte
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


# -- the rest ------------------------------------------------------------------------------------------------
@contextmanager
def _decoded(path: Path, reason: str) -> Iterator[_DecodedFile]:
    try:
        import av
    except ImportError:
        raise ValueError(
            f"'{path}' cannot be read by libsndfile ({reason}); run: pip install 'rtjazz-hf[formats]', or make a wav "
            f"of it: ffmpeg -i {path.name} {path.stem}.wav"
        ) from None
    try:
        yield _DecodedFile(path, av)
    except (av.error.FFmpegError, EOFError) as error:
        raise ValueError(
            f"'{path}' cannot be read as audio ({error}); it is corrupt or cut short."
        ) from error


class _DecodedFile:
    """What FFmpeg decodes, aligned; the sound is decoded twice: to know its length, and to be read."""

    extra_info = ""

    def __init__(self, path: Path, av: Any):
        self._path, self._av = path, av
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise ValueError(f"'{path}' holds no sound.")
            stream = container.streams.audio[0]
            self._codec, self._in = stream.codec_context.name, container.format.name
            self._starts_late = bool(stream.start_time)  # an MP3 with LAME's tag: the decoder knows
            told = stream.duration and float(stream.duration * stream.time_base)
            first = next(iter(container.decode(stream)), None)
            if first is None:
                raise ValueError(f"'{path}' holds no samples.")
            self.samplerate, self.channels = first.sample_rate, len(first.layout.channels)
        self._blocks: Iterator[np.ndarray] = iter(())
        self._rest: np.ndarray | None = None
        self.frames = sum(block.shape[1] for block in self._aligned())
        if told and self._in not in ("mp3", "aac") and self.frames / self.samplerate < 0.98 * told - 0.2:
            raise ValueError(
                f"'{path}' is cut short: its header tells of {told:.1f} s, {self.frames / self.samplerate:.1f} s are "
                "there."
            )
        self.seek(0)

    def seek(self, sample: int) -> None:
        """To be read from there; decodes what lies before it, since most of these formats cannot jump exactly."""
        self._blocks, self._rest, left = self._aligned(), None, sample
        while left > 0 and (block := next(self._blocks, None)) is not None:
            if block.shape[1] > left:
                self._rest = block[:, left:]
            left -= block.shape[1]

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """`(samples, channels)`, fewer than `frames` at the end."""
        taken, left = [], frames
        while left > 0:
            block = self._rest if self._rest is not None else next(self._blocks, None)
            if block is None:
                break
            taken.append(block[:, :left])
            self._rest = block[:, left:] if block.shape[1] > left else None
            left -= taken[-1].shape[1]
        return np.concatenate(taken, axis=1).T.astype(dtype) if taken else np.zeros((0, self.channels), dtype)

    def _frames(self) -> Iterator[Any]:
        with self._av.open(
            str(self._path)
        ) as container:  # anew: after a seek to 0, WebM's first frame is left out
            yield from container.decode(container.streams.audio[0])

    def _aligned(self) -> Iterator[np.ndarray]:
        """`(channels, samples)` from the first sample of the sound on."""
        if self._codec.startswith("wmav"):
            yield np.zeros(
                (self.channels, _WMA_FRAME if self.samplerate > 22_050 else _WMA_FRAME // 2), np.float32
            )
        says_it = any(name in self._in for name in _SAYS_IT) or self._starts_late
        skip = 0 if says_it else _EARLY.get(self._codec.removeprefix("libopencore_").removesuffix("float"), 0)
        layout = "mono" if self.channels == 1 else "stereo"
        resampler = self._av.AudioResampler(format="fltp", layout=layout, rate=self.samplerate)
        for frame in self._frames():
            for piece in resampler.resample(frame):
                block = piece.to_ndarray()
                if skip < block.shape[1]:
                    yield block[:, skip:]
                skip = max(0, skip - block.shape[1])
        for piece in resampler.resample(None):
            if piece.samples:
                yield piece.to_ndarray()


__all__ = ["RECORDING_SUFFIXES", "open_sound"]
