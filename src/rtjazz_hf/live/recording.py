"""A recording that is readable at any time: whatever ends the program, what was recorded is there."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ..audio import (
    AUDIO_CHANNELS,
    AUDIO_FORMATS,
    AUDIO_SUFFIXES,
    SAMPLE_RATE,
    WRITE_CHUNK,
    as_channels,
    check_output_path,
    check_written,
)
from ..runtime.files import NotWritten, what_to_do, why_not

_WAV_LIMIT = 2**32 - 2**16  # bytes of samples that a wav's header can tell of
_STREAMINFO_TOTAL = 8 + 13  # of a FLAC file: the byte whose low half begins the 36 bits of its length


class Recorder:
    """Writes 48 kHz stereo as it comes, as wav, flac or ogg by the suffix.

    After each `write` the file is a whole one: the sound has left this process, and the header tells how much
    there is. So an exception, Ctrl-C or even SIGKILL costs at most the last 0.1 s (an encoder's block; 0.5 s
    of an ogg). The file appears, and takes the place of one that is to be overwritten, with the first sound.

    Args:
        path: out.wav, out.flac or out.ogg.

    Raises:
        as `audio.check_output_path`; OSError where nothing can be written.
    """

    def __init__(self, path: str | os.PathLike, overwrite: bool = False):
        self.path: Path = check_output_path(path, AUDIO_SUFFIXES, overwrite)
        self.samples = 0  # written, of a channel
        self._overwrite = overwrite
        self._file: Any = None
        self._broken: OSError | None = None  # why it has ended
        self._partial: Path | None = None  # its place until it has a first sound
        self._header: int | None = None  # a file descriptor of our own, for the header

    @property
    def duration(self) -> float:
        """Seconds recorded."""
        return self.samples / SAMPLE_RATE

    def write(self, audio: np.ndarray) -> None:
        """Add `(2, samples)`; what lies beyond [-1, 1] is clipped.

        Raises:
            OSError: the disk is full, or a wav has reached the 4 GiB that its header can tell of (6 hours).
        """
        audio = as_channels(audio).clip(-1.0, 1.0)
        if self._broken is not None:  # to begin anew would put a new recording in the place of this one
            raise self._broken
        if self._file is None:
            self._open()
        bytes_a_sample = 2 * AUDIO_CHANNELS
        if self.path.suffix.lower() == ".wav" and (
            (self.samples + audio.shape[1]) * bytes_a_sample > _WAV_LIMIT
        ):
            raise OSError(f"'{self.path}' is as long as a wav can be; record a flac to go on longer.")
        audio = np.broadcast_to(audio, (AUDIO_CHANNELS, audio.shape[1]))
        try:
            for start in range(0, audio.shape[1], WRITE_CHUNK):
                self._file.write(np.ascontiguousarray(audio[:, start : start + WRITE_CHUNK].T))
            self.samples += audio.shape[1]
            self._tell_length()
            if self._partial is not None:
                os.replace(self._partial, self.path)
                self._partial = None
        except (soundfile.LibsndfileError, OSError) as error:
            number = why_not(self._where) or errno.EIO
            self._end(self.samples + audio.shape[1])
            self._broken = self._full(number)
            raise self._broken from error

    def close(self) -> None:
        """Finish the file. Closing twice is closing once.

        Raises:
            OSError: what the encoder still had in hand, at most 0.5 s, was not written.
        """
        error = self._end(self.samples)
        if error is not None:
            raise self._full(error.errno) from error

    def _end(self, given: int) -> OSError | None:
        """Close the file, to whose encoder `given` samples were given, and let it end where what is in it ends; what
        is missing."""
        file, self._file = self._file, None
        if file is None:
            return None
        suffix = self.path.suffix.lower()
        try:
            with contextlib.suppress(soundfile.LibsndfileError):
                file.close()
            check_written(self._where, given)  # libsndfile tells nobody
        except OSError as error:
            if suffix == ".ogg":
                os.ftruncate(self._header, _end_of_pages(self._where.read_bytes()))
            elif suffix == ".flac":
                self._tell_length(given)  # so that it is read up to what is there
                self._tell_length(self._there())
            self.samples = self._there()
            return error
        finally:
            os.close(self._header)
            if self._partial is not None:  # of what was to be replaced nothing is lost
                if self.samples:
                    os.replace(self._partial, self.path)
                self._partial.unlink(missing_ok=True)
                self._partial = None
        return None

    @property
    def _where(self) -> Path:
        return self._partial or self.path

    def _there(self) -> int:
        """Samples of a channel that the file holds."""
        there = 0
        with (
            contextlib.suppress(soundfile.LibsndfileError, RuntimeError),
            soundfile.SoundFile(self._where) as file,
        ):
            while length := len(file.read(4096, dtype="int16")):
                there += length
        return there

    def _full(self, number: int) -> OSError:
        text = os.strerror(number)
        left = (
            f"the first {self.duration:.1f} s of it are there" if self.samples else "nothing of it is there"
        )
        return NotWritten(
            number,
            f"the recording '{self.path}' cannot be written: {text[0].lower()}{text[1:]}; {left}{what_to_do(number)}.",
        )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self) -> None:
        check_output_path(self.path, AUDIO_SUFFIXES, self._overwrite)  # as it is by now
        file_format, subtype = AUDIO_FORMATS[self.path.suffix.lower()]
        partial = self.path.with_name(f".{self.path.stem[:80]}.{os.getpid()}.partial{self.path.suffix}")
        try:
            self._file = soundfile.SoundFile(
                partial, "w", SAMPLE_RATE, AUDIO_CHANNELS, subtype, format=file_format
            )
            self._header = os.open(partial, os.O_RDWR)
        except (soundfile.LibsndfileError, OSError) as error:
            number = why_not(partial) or errno.EIO
            partial.unlink(missing_ok=True)
            self._broken = self._full(number)
            raise self._broken from error
        self._partial = partial

    def _tell_length(self, samples: int | None = None) -> None:
        """Put into the header what libsndfile puts there when the file is closed; `samples`, or what was written."""
        suffix = self.path.suffix.lower()
        if (
            suffix == ".wav"
        ):  # RIFF and data sizes; libsndfile's header for 16 bits is the plain one of 44 bytes
            size = 2 * AUDIO_CHANNELS * self.samples
            os.pwrite(self._header, struct.pack("<I", size + 36), 4)
            os.pwrite(self._header, struct.pack("<I", size), 40)
        elif suffix == ".flac":
            if os.fstat(self._header).st_size <= _STREAMINFO_TOTAL:  # a disk that was full from the beginning
                if samples is None:
                    raise OSError(errno.EIO, "the header was not written", str(self._where))
                return
            # FLAC format (RFC 9639, 8.2): 36 bits of STREAMINFO. Samples that wait in the encoder are not told of.
            at_disk = self.samples - self.samples % _flac_block(self._header) if samples is None else samples
            first = os.pread(self._header, 1, _STREAMINFO_TOTAL)[0] & 0xF0
            total = struct.pack(">Q", at_disk)[3:]  # 5 bytes; the upper half of the first is others'
            os.pwrite(self._header, bytes([first | total[0]]) + total[1:], _STREAMINFO_TOTAL)


def _end_of_pages(data: bytes) -> int:
    """Where the last whole page of an Ogg file ends (RFC 3533, 6)."""
    at = 0
    while data[at : at + 4] == b"OggS" and len(data) >= at + 27:
        table = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + data[at + 26] + sum(table)
        if end > len(data):
            break
        at = end
    return at


def _flac_block(descriptor: int) -> int:
    """Samples in a block of the encoder: the largest block size of STREAMINFO."""
    return struct.unpack(">H", os.pread(descriptor, 2, 10))[0]
