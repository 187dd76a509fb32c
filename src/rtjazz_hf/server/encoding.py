"""Sound as bytes: PCM for live sessions, audio files that begin before they are finished for clips."""

from __future__ import annotations

import io
import wave
from typing import Literal

import numpy as np
import soundfile

from ..audio import AUDIO_CHANNELS, AUDIO_FORMATS, SAMPLE_RATE, WRITE_CHUNK

PCM_TYPES = {"f32": "<f4", "s16": "<i2"}
CLIP_FORMATS = {
    "wav": ("audio/wav", *AUDIO_FORMATS[".wav"]),
    "flac": ("audio/flac", *AUDIO_FORMATS[".flac"]),
    "ogg": ("audio/ogg", *AUDIO_FORMATS[".ogg"]),
    "opus": ("audio/ogg", "OGG", "OPUS"),
}


def pcm(audio: np.ndarray, encoding: Literal["f32", "s16"]) -> bytes:
    """`(2, samples)` float32 in [-1, 1] as interleaved little-endian samples."""
    if encoding == "s16":
        audio = np.rint(audio.clip(-1.0, 1.0) * 32767.0)
    return np.ascontiguousarray(audio.T).astype(PCM_TYPES[encoding]).tobytes()


class ClipEncoder:
    """A file of `num_samples` samples, encoded as they come: `encode` gives what can be sent, `finish` the rest.

    Headers go out first and cannot be corrected, so they tell the length from the start.
    """

    def __init__(self, file_format: str, num_samples: int):
        self._format, self._samples = file_format, num_samples
        self._sink = _Sink()
        if file_format == "wav":
            self._file = wave.open(self._sink, "wb")  # noqa: SIM115 (closed by `finish`)
            self._file.setparams((AUDIO_CHANNELS, 2, SAMPLE_RATE, num_samples, "NONE", ""))
        else:
            _, container, subtype = CLIP_FORMATS[file_format]
            self._file = soundfile.SoundFile(
                self._sink, "w", SAMPLE_RATE, AUDIO_CHANNELS, subtype, format=container
            )

    def encode(self, audio: np.ndarray) -> bytes:
        """The next `(2, samples)`."""
        if isinstance(self._file, wave.Wave_write):
            self._file.writeframesraw(pcm(audio, "s16"))
        else:
            for start in range(0, audio.shape[1], WRITE_CHUNK):
                self._file.write(
                    np.ascontiguousarray(audio[:, start : start + WRITE_CHUNK].T.clip(-1.0, 1.0))
                )
        return self._take()

    def finish(self) -> bytes:
        """The end of the file; nothing, once it has been given."""
        self._file.close()
        return self._take()

    def _take(self) -> bytes:
        first, data = self._sink.sent == 0, self._sink.take()
        if first and self._format == "flac" and len(data) >= 26:
            # "unknown" in the header's count of samples: 36 bits from the middle of byte 21 on
            head = int.from_bytes(data[18:26], "big") >> 36 << 36 | self._samples
            data = data[:18] + head.to_bytes(8, "big") + data[26:]
        return data


class _Sink(io.RawIOBase):
    """A file to write to, from whose front is taken; what is corrected there later is lost."""

    def __init__(self) -> None:
        self.sent = 0  # bytes that were taken
        self._data = bytearray()
        self._place = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data) -> int:
        data = bytes(data)
        kept = data[max(0, self.sent - self._place) :]
        start = max(self._place, self.sent) - self.sent
        self._data[start : start + len(kept)] = kept
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        ends = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.sent + len(self._data)}
        self._place = ends[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer) -> int:  # libsndfile asks; nothing can be read
        return 0

    def take(self) -> bytes:
        data, self._data = bytes(self._data), bytearray()
        self.sent += len(data)
        return data
