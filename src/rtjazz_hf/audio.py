"""Sound in and out: reading, writing, resampling, loudness and spectrogram pictures.

Arrays are float32 of shape ``(channels, samples)`` in [-1, 1], 48 kHz stereo, everywhere in the package;
every other rate or channel count is turned into that here, at the door.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import soxr

from .runtime.files import whole_or_not_at_all, why_not
from .runtime.sound_files import open_sound

SAMPLE_RATE = 48_000  # Hz
HOP_LENGTH = 640  # samples in a frame of the codec, the lead sheet and the flow: 13.33 ms
FRAME_RATE = 75  # frames a second
AUDIO_CHANNELS = 2
LOUDEST = 100.0  # full scale is 1: what is 40 dB above it was never scaled

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
PICTURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")

AUDIO_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
# libsndfile's Vorbis encoder puts the whole of one write on the stack and crashes on minutes of sound.
WRITE_CHUNK = 1 << 14  # samples
_MOST_SAMPLES = 1 << 48  # beyond it, a length is libsndfile's word for "unknown"
_PICTURE_LOW_HZ, _PICTURE_TOP_HZ = 20.0, 16_000.0
PICTURE_RANGE_DB = 75.0


class ChordTimeline(Protocol):
    """What a picture needs of a `LeadSheet`; audio stands below the music room and does not import it."""

    def chord_segments(self, start_s: float, duration_s: float) -> list[tuple[float, float, Any]]: ...
    def beat_times(self, start_s: float, duration_s: float) -> np.ndarray: ...
    def beat_at(self, seconds: float) -> float: ...
    def bar_at(self, beat: float) -> tuple[int, float]: ...


def resample(audio: np.ndarray, from_rate: int, to_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Resample `(channels, samples)` float32 from one rate in Hz to another (soxr, high quality)."""
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"sampling rates are positive numbers of Hz, got {from_rate} and {to_rate}.")
    audio = np.asarray(audio, dtype=np.float32)
    if from_rate == to_rate:
        return audio
    return np.ascontiguousarray(soxr.resample(audio.T, from_rate, to_rate).T, dtype=np.float32)


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a sound file says: rate in Hz, channels, samples of a channel at that rate."""

    sampling_rate: int
    channels: int
    samples: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sampling_rate


def audio_info(path: str | os.PathLike) -> AudioInfo:
    """Look at a sound file without decoding it. Raises as `read_audio` does for what the header shows."""
    with _open_audio(path) as file:
        if file.frames == 0:
            raise ValueError(f"'{path}' holds no samples.")
        return AudioInfo(file.samplerate, file.channels, file.frames)


def read_audio(
    path: str | os.PathLike,
    start: float = 0.0,
    duration: float | None = None,
    sampling_rate: int = SAMPLE_RATE,
) -> np.ndarray:
    """Read a sound file as float32 `(2, samples)` at `sampling_rate` Hz; mono is doubled.

    `start` and `duration` (seconds) read a part without decoding the rest. Raises FileNotFoundError or
    IsADirectoryError, and ValueError that names the file where it is empty, corrupt, cut short, no regular file, has
    more than two channels, or holds NaN, infinity or samples that were never scaled to full scale.
    """
    blocks = list(read_audio_blocks(path, start, duration, sampling_rate))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def read_audio_blocks(
    path: str | os.PathLike,
    start: float = 0.0,
    duration: float | None = None,
    sampling_rate: int = SAMPLE_RATE,
    block_seconds: float = 10.0,
) -> Iterator[np.ndarray]:
    """Read a sound file of any length in blocks of about `block_seconds`; joined, they are `read_audio`'s array.

    Raises as `read_audio` does, each error when the reading comes to it.
    """
    if start < 0 or (duration is not None and not duration > 0):
        raise ValueError(f"start must be >= 0 s and duration > 0 s, got {start} and {duration}.")
    with _open_audio(path) as file:
        rate, total = file.samplerate, file.frames
        first = round(start * rate)
        wanted = total - first if duration is None else min(round(duration * rate), total - first)
        if total and wanted <= 0:
            raise ValueError(
                f"'{path}' lasts {total / rate:.2f} s; nothing is left to read at {start:.2f} s."
            )
        file.seek(first)
        resampler = None if rate == sampling_rate else soxr.ResampleStream(rate, sampling_rate, file.channels)
        position, given = 0, 0
        while position < wanted:
            size = min(max(1, round(block_seconds * rate)), wanted - position)
            block = file.read(size, dtype="float32", always_2d=True)  # (samples, channels)
            if not np.isfinite(block).all():
                bad = first + position + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise ValueError(f"'{path}' holds NaN or infinite samples, the first at {bad / rate:.3f} s.")
            if (peak := np.abs(block).max(initial=0.0)) > LOUDEST:
                raise ValueError(
                    f"'{path}' holds samples as large as {peak:.6g}, where full scale is 1; scale it first."
                )
            position += len(block)
            if len(block) < size:
                raise ValueError(
                    f"'{path}' is cut short: its header tells of {wanted} samples, {position} are there."
                )
            if resampler is not None:
                block = resampler.resample_chunk(block, last=position == wanted)
            given += len(block)
            if len(block):
                yield np.ascontiguousarray(np.repeat(block.T, 2, axis=0) if file.channels == 1 else block.T)
        if given == 0:
            raise ValueError(f"'{path}' holds no samples" + (f" at {sampling_rate} Hz." if total else "."))


@contextmanager
def _open_audio(path: str | os.PathLike) -> Iterator[soundfile.SoundFile]:
    """A sound file that may be read; whatever libsndfile finds wrong with it becomes a ValueError."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; give one audio file (wav, flac, ogg, mp3, m4a).")
    if not path.exists():
        raise FileNotFoundError(f"there is no audio file '{path}'.")
    if not path.is_file():
        raise ValueError(
            f"'{path}' is no regular file but a pipe or a device; write the sound to a file first."
        )
    try:
        with open_sound(path) as file:
            if file.channels > AUDIO_CHANNELS:
                raise ValueError(
                    f"'{path}' has {file.channels} channels; mix it down to mono or stereo first."
                )
            if file.frames > _MOST_SAMPLES:  # libsndfile cannot read what it cannot seek in
                raise ValueError(
                    f"'{path}' does not tell its length, as a flac written into a pipe; write it to a file "
                    f"anew, such as with: ffmpeg -i {path.name} whole.flac"
                )
            if cause := _cut_short(file.extra_info):
                raise ValueError(f"'{path}' is cut short: {cause}.")
            yield file
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(
            f"'{path}' cannot be read as audio ({error}); it is corrupt, cut short or of an unknown format. "
            "Use wav, flac, ogg or mp3."
        ) from error


def _cut_short(log: str) -> str | None:
    """What libsndfile noticed and forgave when it opened the file: a wav or ogg that ends before its end."""
    if data := re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE):
        told, there = map(int, data.groups())
        # Programs that write into a pipe do not know the length, and tell of the most that fits.
        if there < told < 0x7FFF0000:
            return f"its header tells of {told} bytes of samples, {there} are there"
    # Without the first sign alone: a stream that was recorded until somebody stopped it.
    if "lacks an end-of-stream bit" in log and "Junk after the last page" in log:
        return "it ends in the middle of an Ogg page"
    return None


def check_output_path(
    path: str | os.PathLike, suffixes: Sequence[str] = AUDIO_SUFFIXES, overwrite: bool = False
) -> Path:
    """Say before the work starts whether `path` can be written: the path, or an error that tells what to do.

    Raises ValueError (unknown suffix), IsADirectoryError, FileNotFoundError (no such folder), FileExistsError
    and PermissionError.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(
            f"the output '{path}' is a folder; give a file name such as '{path / 'out'}{suffixes[0]}'."
        )
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"the output '{path}' has {f'the suffix {path.suffix!r}' if path.suffix else 'no suffix'}; "
            f"allowed: {', '.join(suffixes)}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the folder '{path.parent}' of the output '{path.name}' does not exist; make it first."
        )
    if path.exists() and not overwrite:
        raise FileExistsError(f"the output '{path}' exists; use --overwrite (overwrite=True) to replace it.")
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise PermissionError(f"the output '{path}' cannot be written: no permission.")
    return path


def write_audio(
    path: str | os.PathLike,
    audio: np.ndarray,
    overwrite: bool = False,
    sampling_rate: int = SAMPLE_RATE,
    subtype: str | None = None,
) -> Path:
    """Write `(channels, samples)` (or `(samples,)`) as wav, flac or ogg (Vorbis) by the suffix; the path
    written.

    16-bit by default; `subtype="FLOAT"` or `"PCM_24"` keeps more in a wav (`"PCM_24"` in a flac too). Samples
    beyond [-1, 1] are clipped unless the file is a float wav. The file appears whole or not at all: it is
    written beside its place under another name, looked at, and renamed. Raises as `check_output_path`, OSError
    that says why where it cannot be written, and ValueError for a wrong shape, no samples, or NaN or infinite samples.
    """
    return write_audio_blocks(path, [audio], overwrite, sampling_rate, subtype)


def write_audio_blocks(
    path: str | os.PathLike,
    blocks: Iterable[np.ndarray],
    overwrite: bool = False,
    sampling_rate: int = SAMPLE_RATE,
    subtype: str | None = None,
) -> Path:
    """Write what comes in blocks `(channels, samples)`, one after the other, as `write_audio` does; the path
    written. An error in the making of a block leaves no file either."""
    path = check_output_path(path, AUDIO_SUFFIXES, overwrite)
    file_format, default_subtype = AUDIO_FORMATS[path.suffix.lower()]
    subtype = subtype or default_subtype
    if not soundfile.check_format(file_format, subtype):
        allowed = [
            name
            for name in ("PCM_16", "PCM_24", "FLOAT", "VORBIS")
            if soundfile.check_format(file_format, name)
        ]
        raise ValueError(
            f"a {path.suffix} file cannot hold subtype {subtype!r}; allowed: {', '.join(allowed)}."
        )
    blocks = (as_channels(block) for block in blocks)
    first = next(blocks, None)
    if first is None:
        raise ValueError("audio holds no samples.")
    with whole_or_not_at_all(path) as partial:
        samples = 0
        with soundfile.SoundFile(
            partial, "w", sampling_rate, first.shape[0], subtype, format=file_format
        ) as file:
            for block in itertools.chain([first], blocks):
                if subtype not in ("FLOAT", "DOUBLE"):
                    block = block.clip(-1.0, 1.0)
                for start in range(0, block.shape[1], WRITE_CHUNK):
                    file.write(np.ascontiguousarray(block[:, start : start + WRITE_CHUNK].T))
                samples += block.shape[1]
        check_written(partial, samples)
    return path


def check_written(path: Path, samples: int) -> None:
    """Look whether a sound file that was closed holds all `samples` of a channel.

    What libsndfile's encoders still had in hand they write when the file is closed, and say nothing if they cannot.

    Raises:
        OSError: it does not.
    """
    try:
        with _open_audio(path) as file:
            tail = min(samples, WRITE_CHUNK)
            whole = file.frames == samples
            if whole:
                file.seek(samples - tail)
                whole = len(file.read(tail)) == tail
    except ValueError:
        whole = False
    if not whole:
        raise OSError(why_not(path) or errno.EIO, "the end of it was not written", str(path))


def measure_loudness(audio: np.ndarray, sampling_rate: int = SAMPLE_RATE) -> float:
    """Integrated loudness of `(channels, samples)` in LUFS (ITU-R BS.1770-4); -inf for silence.

    Raises ValueError for less than 0.4 s, the length of one gating block.
    """
    pyloudnorm = _import_extra("pyloudnorm")
    audio = as_channels(audio)
    if audio.shape[1] < 0.4 * sampling_rate:
        raise ValueError(
            f"loudness needs at least 0.4 s of sound, got {audio.shape[1] / sampling_rate:.3f} s."
        )
    with np.errstate(divide="ignore"):
        return float(pyloudnorm.Meter(sampling_rate).integrated_loudness(audio.T.astype(np.float64)))


def plot_spectrogram(
    audio: np.ndarray,
    path: str | os.PathLike,
    lead_sheet: ChordTimeline | None = None,
    title: str | None = None,
    overwrite: bool = True,
) -> Path:
    """Draw the spectrogram (20 Hz - 16 kHz, log frequency) of 48 kHz audio under its chart, if it has one."""
    return plot_spectrogram_grid([(title or "", audio, lead_sheet)], path, columns=1, overwrite=overwrite)


def plot_spectrogram_grid(
    items: Iterable[tuple[str, np.ndarray, ChordTimeline | None]],
    path: str | os.PathLike,
    columns: int = 2,
    overwrite: bool = True,
) -> Path:
    """Draw spectrograms side by side: `items` are (title, audio `(channels, samples)`, lead sheet or None).

    Above each picture stands its chord chart (names, bar lines, beats as ticks), starting at t = 0 of the
    audio.
    """
    path = check_output_path(path, PICTURE_SUFFIXES, overwrite)
    items = list(items)
    if not items:
        raise ValueError("there is no audio to draw: items is empty.")
    matplotlib = _import_extra("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    figure = Figure(figsize=(max(12, 9 * columns), 4.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # no global state and no display: safe in a server and in a training loop
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1, 6] * rows)
    for index, (title, audio, lead_sheet) in enumerate(items):
        row, column = divmod(index, columns)
        _draw_chart(grid[2 * row, column], lead_sheet, as_channels(audio).shape[1] / SAMPLE_RATE, title)
        _draw_spectrogram(grid[2 * row + 1, column], as_channels(audio))
    for index in range(len(items), rows * columns):
        row, column = divmod(index, columns)
        grid[2 * row, column].set_axis_off()
        grid[2 * row + 1, column].set_axis_off()
    with whole_or_not_at_all(path) as partial, matplotlib.rc_context({"svg.hashsalt": "rtjazz"}):
        figure.savefig(partial, dpi=110)
    return path


def picture_levels(audio: np.ndarray) -> np.ndarray:
    """Levels in dB of a picture of `(channels, samples)`, mixed to mono: `(bands, columns)`, 20 Hz to 16 kHz, the
    bands evenly spaced on a logarithmic scale."""
    n_fft, bands = 4096, 160
    hop = max(480, audio.shape[1] // 2400)  # a picture shows no more columns than this
    mono = np.pad(audio.mean(axis=0), (n_fft // 2, n_fft // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(mono, n_fft)[: audio.shape[1] + hop : hop]
    window = np.hanning(n_fft).astype(np.float32)
    edges = np.linspace(_pitch_scale(_PICTURE_LOW_HZ), _pitch_scale(_PICTURE_TOP_HZ), bands + 2)
    edges = 100.0 * (2.0**edges - 1.0)  # Hz
    bins = np.fft.rfftfreq(n_fft, 1 / SAMPLE_RATE)
    # The lowest bands are narrower than a bin: each reaches one bin to either side, or it would be empty.
    centre, width = edges[1:-1, None], SAMPLE_RATE / n_fft
    low, high = np.minimum(edges[:-2, None], centre - width), np.maximum(edges[2:, None], centre + width)
    rise, fall = (bins - low) / (centre - low), (high - bins) / (high - centre)
    bank = np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32)  # (bands, bins)
    bank /= np.maximum(bank.sum(axis=1, keepdims=True), 1e-6)
    power = np.concatenate(  # in pieces: a minute of windows at once would take a gigabyte
        [
            bank @ np.abs(np.fft.rfft(piece * window, axis=1)).T ** 2
            for piece in np.array_split(frames, 16)
            if len(piece)
        ],
        axis=1,
    )
    return 10 * np.log10(power + 1e-10)


def draw_levels(axis: Any, levels: np.ndarray, seconds: float, **colours: Any) -> Any:
    """Draw `picture_levels`, or a difference of two, over `seconds` and Hz; what `imshow` gave."""
    low, top = _pitch_scale(_PICTURE_LOW_HZ), _pitch_scale(_PICTURE_TOP_HZ)
    image = axis.imshow(
        levels, origin="lower", aspect="auto", interpolation="nearest", extent=(0.0, seconds, low, top), **colours
    )  # fmt: skip
    ticks = (50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000)
    axis.set_yticks(
        [_pitch_scale(hz) for hz in ticks], [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks]
    )
    axis.set_ylabel("Hz")
    axis.set_xlabel("seconds")
    axis.set_xlim(0.0, seconds)
    return image


def _draw_spectrogram(axis: Any, audio: np.ndarray) -> None:
    levels = picture_levels(audio)
    top = max(float(levels.max()), -40.0)
    draw_levels(
        axis, levels, audio.shape[1] / SAMPLE_RATE, cmap="magma", vmin=top - PICTURE_RANGE_DB, vmax=top
    )


def _draw_chart(axis: Any, lead_sheet: ChordTimeline | None, seconds: float, title: str) -> None:
    axis.set_xlim(0.0, seconds)
    axis.set_ylim(0.0, 1.0)
    axis.set_yticks([])
    axis.set_xticks([])
    axis.set_title(title, fontsize=10, loc="left")
    if lead_sheet is None:
        axis.set_axis_off()
        return
    for index, (start, end, chord) in enumerate(lead_sheet.chord_segments(0.0, seconds)):
        axis.axvspan(start, end, ymin=0.3, color="0.93" if index % 2 else "0.82", linewidth=0)
        size = 9 if (end - start) / seconds > 0.03 else 5
        axis.text(
            (start + end) / 2, 0.65, chord.symbol, ha="center", va="center", fontsize=size, clip_on=True
        )
    for time in np.asarray(lead_sheet.beat_times(0.0, seconds), dtype=float):
        downbeat = lead_sheet.bar_at(lead_sheet.beat_at(float(time)) + 1e-6)[1] < 1e-3
        axis.axvline(time, ymax=1.0 if downbeat else 0.2, color="black", linewidth=0.8 if downbeat else 0.5)


def _pitch_scale(hz: float | np.ndarray) -> Any:
    """Hz to picture height: logarithmic, as hearing and staves are, and linear below 100 Hz to save room."""
    return np.log2(1.0 + np.asarray(hz) / 100.0)


def as_channels(audio: Any) -> np.ndarray:
    """Any array or tensor of one clip as float32 `(1 or 2, samples)`; ValueError for another shape, no samples, or
    samples that are not finite."""
    if hasattr(audio, "detach"):  # a torch tensor, without importing torch
        audio = audio.detach().float().cpu().numpy()
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim == 1:
        audio = audio[None]
    if audio.ndim != 2 or audio.shape[0] not in (1, AUDIO_CHANNELS):
        raise ValueError(f"audio must have the shape (2, samples) or (samples,), got {audio.shape}.")
    if audio.shape[1] == 0:
        raise ValueError("audio holds no samples.")
    if not np.isfinite(audio).all():
        raise ValueError("audio holds NaN or infinite samples.")
    return audio


def _import_extra(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is not installed; run: pip install 'rtjazz-hf[eval]'") from error
