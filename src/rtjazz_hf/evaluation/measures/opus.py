"""Opus as the yardstick: round trips through libopus, by the programs of opus-tools or by ffmpeg.

The Opus encoder adds a delay, which its Ogg file states as `pre-skip`; both decoders take it off and cut the
end at the stated length (RFC 7845, sections 4.2 and 4.4), so that what comes back lies sample by sample on
what went in. At the lowest rates, where Opus codes with SILK, its resampler adds a few samples of its own: they
are found by cross-correlation and taken off, or waveform measures would be unfair to it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtjazz_hf.audio import SAMPLE_RATE, read_audio, write_audio
from rtjazz_hf.runtime.files import whole_or_not_at_all

from .metrics import as_audio

OPUS_RATES = (6, 8, 12, 16, 24, 32, 64, 128)  # kbit/s
_RANGE = (6, 510)  # kbit/s that libopus takes for stereo
_FFMPEG = ("ffmpeg", "-nostdin", "-v", "error", "-i")
_INSTALL = "install one of them, on Debian or Ubuntu: apt-get install opus-tools (or: apt-get install ffmpeg)"


class OpusUnavailable(RuntimeError):
    """Neither opus-tools nor an ffmpeg with libopus is on the search path."""


@dataclass(frozen=True)
class OpusRoundTrip:
    """A clip after Opus.

    Attributes:
        audio: float32 `(2, samples)` at 48 kHz, as long as the clip that went in and aligned with it.
        delay: samples by which the decoder's output lagged behind, already taken off.
        bitrate: bit/s of the Opus packets over the length of the clip; headers and the Ogg container are not counted.
        container_bitrate: bit/s of the whole Ogg file. program: what encoded it, "opusenc" or "ffmpeg".
    """

    audio: np.ndarray
    delay: int
    bitrate: float
    container_bitrate: float
    program: str


@functools.lru_cache(maxsize=1)
def find_opus() -> str:
    """The program that round trips will use: "opusenc" (with opusdec beside it) or "ffmpeg".

    Raises:
        OpusUnavailable: neither is installed; the message says how to.
    """
    if shutil.which("opusenc") and shutil.which("opusdec"):
        return "opusenc"
    if shutil.which("ffmpeg"):
        listing = subprocess.run(["ffmpeg", "-hide_banner", "-encoders"], capture_output=True, text=True)
        if " libopus " in listing.stdout:
            return "ffmpeg"
        raise OpusUnavailable(
            f"this ffmpeg was built without libopus, and opus-tools is missing; {_INSTALL}."
        )
    raise OpusUnavailable(f"neither opusenc and opusdec nor ffmpeg is on the search path; {_INSTALL}.")


def opus_round_trip(
    audio: np.ndarray,
    kilobits: float,
    program: str | None = None,
    cache: str | os.PathLike | None = None,
    name: str = "clip",
) -> OpusRoundTrip:
    """Encode and decode `(2, samples)` at 48 kHz with Opus: variable bit rate, tuned for music.

    Args:
        kilobits: the rate asked for, in kbit/s, 6 to 510; the encoder holds it on the average of much music only,
            so compare by `bitrate`.
        program: "opusenc" or "ffmpeg"; what `find_opus` finds by default.
        cache: a folder that keeps the Opus file for the next run on the same clip, under `name` (for people), rate
            and a digest of the samples.

    Raises:
        OpusUnavailable: no program. ValueError: another shape or rate. RuntimeError: the program failed.
    """
    audio = as_audio(audio)
    if audio.shape[0] != 2:
        raise ValueError(f"audio has shape {audio.shape}; allowed is (2, samples).")
    if not _RANGE[0] <= kilobits <= _RANGE[1]:
        raise ValueError(f"Opus at {kilobits} kbit/s: allowed are {_RANGE[0]} to {_RANGE[1]} kbit/s.")
    program = program or find_opus()
    with tempfile.TemporaryDirectory(prefix="rtjazz-opus-") as folder:
        packed = Path(folder) / "clip.opus"
        kept = None if cache is None else cached_file(audio, kilobits, cache, name, program)
        if kept is not None and kept.is_file():
            packed = kept
        else:
            _encode(audio, kilobits, program, packed)
            if kept is not None:
                _keep(packed, kept)
        decoded = _decode(packed, program, Path(folder) / "out.wav")
        ogg = packed.read_bytes()
    delay = find_delay(audio, decoded)
    samples = audio.shape[1]
    decoded = decoded[:, delay:] if delay > 0 else np.pad(decoded, ((0, 0), (-delay, 0)))
    decoded = np.pad(decoded[:, :samples], ((0, 0), (0, max(0, samples - decoded.shape[1]))))
    per_second = 8 * SAMPLE_RATE / samples
    return OpusRoundTrip(decoded, delay, packet_bytes(ogg) * per_second, len(ogg) * per_second, program)


def cached_file(
    audio: np.ndarray, kilobits: float, cache: str | os.PathLike, name: str, program: str | None = None
) -> Path:
    """Where `opus_round_trip` keeps the Opus file of this clip."""
    return Path(cache) / f"{_safe(name)}-{_digest(audio)}-{kilobits:g}k-{program or find_opus()}.opus"


def _encode(audio: np.ndarray, kilobits: float, program: str, packed: Path) -> None:
    source = packed.with_name("in.wav")
    write_audio(source, audio, subtype="FLOAT")
    if program == "opusenc":
        _run("opusenc", "--quiet", "--music", "--vbr", "--bitrate", f"{kilobits:g}", source, packed)
    else:
        rate = ("-b:a", f"{1000 * kilobits:.0f}", "-vbr", "on", "-application", "audio")
        _run(*_FFMPEG, source, "-c:a", "libopus", *rate, packed)


def _decode(packed: Path, program: str, back: Path) -> np.ndarray:
    if program == "opusenc":
        _run("opusdec", "--quiet", "--float", "--rate", SAMPLE_RATE, packed, back)
    else:
        _run(*_FFMPEG, packed, "-c:a", "pcm_f32le", "-ar", SAMPLE_RATE, back)
    return read_audio(back)


def _digest(audio: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(audio, dtype=np.float32).tobytes()).hexdigest()[:12]


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[-80:]


def _keep(source: Path, target: Path) -> None:
    """Copy, whole or not at all: a kill leaves no half file that a later run would take for a clip."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_not_at_all(target) as partial:
        shutil.copyfile(source, partial)


def packet_bytes(ogg: bytes) -> int:
    """Bytes of the audio packets of an Ogg Opus file, without page headers and the two header packets.

    Pages as in RFC 3533, section 6; the header packets have pages of their own (RFC 7845, section 3).
    """
    place, pages, total = 0, 0, 0
    headers_left = 2
    while place + 27 <= len(ogg):
        if ogg[place : place + 4] != b"OggS":
            raise ValueError(f"no Ogg page starts at byte {place}: the Opus file is corrupt or cut short.")
        segments = ogg[place + 26]
        lacing = ogg[place + 27 : place + 27 + segments]
        payload = sum(lacing)
        if headers_left:
            headers_left -= sum(
                length < 255 for length in lacing
            )  # a packet ends with a lacing value below 255
        else:
            total += payload
        place += 27 + segments + payload
        pages += 1
    if headers_left > 0 or pages < 3:
        raise ValueError("the Opus file holds no audio packets.")
    return total


def find_delay(reference: np.ndarray, estimate: np.ndarray, max_delay: int = 48) -> int:
    """Samples by which `estimate` lags behind `reference`: the peak of their cross-correlation over all channels.

    Both are whitened a little by a first difference, or bass would blur the peak. Music repeats itself, so look
    no further than `max_delay` samples (a millisecond) unless more is to be expected.
    """
    reference, estimate = (np.diff(as_audio(audio).astype(np.float64)) for audio in (reference, estimate))
    samples = min(reference.shape[1], estimate.shape[1])
    size = 1 << (samples + max_delay).bit_length()
    spectra = [np.fft.rfft(audio[:, :samples], size) for audio in (estimate, reference)]
    correlation = np.fft.irfft((spectra[0] * spectra[1].conj()).sum(0), size)
    lags = np.concatenate([correlation[-max_delay:], correlation[: max_delay + 1]])
    return int(lags.argmax()) - max_delay


def _run(*command: Any) -> None:
    command = tuple(map(str, command))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise RuntimeError(f"{command[0]} failed with exit code {done.returncode}: {said}")
