"""Sound as bytes: PCM or Opus packets for live sessions, audio files that begin before they are finished for clips."""

from __future__ import annotations

import importlib.util
import io
import wave
from fractions import Fraction
from typing import Literal

import numpy as np
import soundfile

from ..audio import AUDIO_CHANNELS, AUDIO_FORMATS, SAMPLE_RATE, WRITE_CHUNK

PCM_TYPES = {"f32": "<f4", "s16": "<i2"}
LIVE_ENCODINGS = (*PCM_TYPES, "opus")
OPUS_PACKET = 960  # samples: 20 ms; blocks are of whole packets
OPUS_BIT_RATE = 128_000  # bits a second, about which its packets vary
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


def has_opus() -> bool:
    """Whether `OpusEncoder` can be had here."""
    return importlib.util.find_spec("av") is not None


class OpusEncoder:
    """One stream of Opus packets, 48 kHz stereo, 20 ms each, made of blocks as they come (RFC 6716, by libopus).

    Nothing is lost or repeated where blocks join: the encoder's memory goes on. A decoder gives as many samples as went
    in, the sound of them `pre_skip` samples later.

    Attributes:
        pre_skip: samples at the beginning that are the codec's own, not music.

    Raises:
        ValueError: PyAV is not installed.
    """

    def __init__(self) -> None:
        try:
            import av
        except ImportError:
            raise ValueError(
                "encoding opus: this server has no Opus encoder; its operator can install it with: pip install "
                f"'rtjazz-hf[opus]'; choose {' or '.join(PCM_TYPES)}"
            ) from None
        self._av = av
        self._codec = av.CodecContext.create("libopus", "w")
        self._codec.sample_rate, self._codec.layout, self._codec.format = SAMPLE_RATE, "stereo", "flt"
        self._codec.bit_rate, self._codec.time_base = OPUS_BIT_RATE, Fraction(1, SAMPLE_RATE)
        self._codec.options = {"application": "audio", "frame_duration": "20"}
        self._codec.open()
        self.pre_skip = int.from_bytes(
            self._codec.extradata[10:12], "little"
        )  # of its OpusHead (RFC 7845, 5.1)
        self._samples = 0

    def encode(self, audio: np.ndarray) -> list[bytes]:
        """The packets of the next `(2, samples)` float32; samples are a multiple of 960."""
        packets = []
        for start in range(0, audio.shape[1], OPUS_PACKET):
            samples = np.ascontiguousarray(audio[:, start : start + OPUS_PACKET].T.clip(-1.0, 1.0)).reshape(
                1, -1
            )
            frame = self._av.AudioFrame.from_ndarray(samples, format="flt", layout="stereo")
            frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, self._codec.time_base, self._samples
            self._samples += OPUS_PACKET
            packets += [bytes(packet) for packet in self._codec.encode(frame)]
        return packets


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
