"""Clips that a codec is judged by: of held-out takes, and of recorded music."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtjazz_hf.audio import SAMPLE_RATE, audio_info, read_audio
from rtjazz_hf.corpus.personal import other_files
from rtjazz_hf.corpus.real_music import TABLE, load_real_music
from rtjazz_hf.runtime.sound_files import RECORDING_SUFFIXES

from .measures.metrics import SILENCE_DBFS, rms_dbfs
from .measures.rate_distortion import HOPS
from .takes import HeldOutTake, choose_takes, from_record

USAGE_SECONDS = 60.0  # of the same recording: what usage and perplexity of the codes are counted over
LEAST_SAMPLES = HOPS[0]  # of a clip: one transform of the reverse water-filling bound


@dataclass(frozen=True)
class Clip:
    """Some music that no codec was trained on.

    Attributes:
        name: for tables and file names. group: what it was taken from (a genre, a package).
        read: seconds -> float32 `(2, samples)` at 48 kHz, at most so long.
        lead_sheet: of the clip from its start, for pictures; None where there is none.
    """

    name: str
    group: str
    read: Callable[[float], np.ndarray]
    lead_sheet: Any = None


def clips_of_takes(records: Iterable[Any], num: int, seconds: float) -> tuple[list[Clip], list[str]]:
    """The starts of up to `num` takes of `corpus.dataset.load_takes`, genres in turn.

    Returns:
        The clips, and a line for every file that was passed over (unreadable, too short, silent).

    Raises:
        ValueError: no usable take among them.
    """
    takes: list[HeldOutTake] = []
    clips: list[Clip] = []
    skipped: list[str] = []
    for record in records:
        with _noting(skipped):
            takes.append(from_record(record))
    for take in choose_takes(takes, len(takes), seconds):
        if len(clips) == num:
            break
        with _noting(skipped):
            clip = Clip(take.name, take.lead_sheet.genre, take.audio, take.lead_sheet)
            _check_sound(clip, seconds, take.path)
            clips.append(clip)
    if not clips:
        raise ValueError(f"there is no held-out take to judge by{_first_of(skipped)}")
    return clips, skipped


def clips_of_recordings(folder: str | os.PathLike, num: int, seconds: float) -> tuple[list[Clip], list[str]]:
    """Middle excerpts of up to `num` recordings in a folder tree, spread over its packages.

    Where the folder was made by `prepare_corpus.py --real`, the recordings held out are taken and grouped by package;
    else every audio file below the folder, grouped by its first
    sub-folder.

    Returns:
        The clips, and a line for every file that was passed over (unreadable, too short, silent).

    Raises:
        FileNotFoundError: no such folder. ValueError: no usable recording in it, or a table of recordings that
            cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder '{folder}' of recordings.")
    if (folder / TABLE).is_file():
        files = [(recording.package, recording.path) for recording in load_real_music(folder, "test")]
    else:
        files = _found_recordings(folder)
    groups: dict[str, list[Path]] = {}
    for group, path in files:
        groups.setdefault(group, []).append(path)
    clips: list[Clip] = []
    others = [] if (folder / TABLE).is_file() else other_files(folder)
    skipped = [f"'{path}' is no recording, by its name." for path in others]
    waiting = [(group, iter(paths)) for group, paths in groups.items()]
    while waiting and len(clips) < num:  # packages take turns; a file that is passed over costs no turn
        group, paths = waiting.pop(0)
        for path in paths:
            with _noting(skipped):
                _check_length(path, seconds)
                clip = Clip(f"{group}-{path.stem}", group, functools.partial(_middle, path))
                _check_sound(clip, seconds, path)
                clips.append(clip)
                waiting.append((group, paths))
                break
    if not clips:
        told = _first_of(skipped) if skipped else f" (of the kinds {', '.join(RECORDING_SUFFIXES)})."
        raise ValueError(f"'{folder}' holds no held-out recording of {seconds:g} s or more{told}")
    return clips, skipped


@contextmanager
def _noting(skipped: list[str]) -> Iterator[None]:
    """Goes on after what is wrong with a file, and takes it down."""
    try:
        yield
    except (OSError, ValueError) as error:
        skipped.append(str(error))


def _first_of(skipped: list[str]) -> str:
    return f": {skipped[0]}" if skipped else "."


def _check_length(path: Path, seconds: float) -> None:
    length = audio_info(path).duration
    if length < seconds:
        raise ValueError(f"'{path}' lasts {length:.1f} s, less than the {seconds:g} s of a clip.")


def _check_sound(clip: Clip, seconds: float, path: Path | None) -> None:
    """Reads all that an evaluation does, so that damage is found now and not after hours."""
    clip.read(max(seconds, USAGE_SECONDS))
    audio = clip.read(seconds)
    if audio.shape[1] < LEAST_SAMPLES:
        raise ValueError(f"'{path}' has {audio.shape[1]} samples; {LEAST_SAMPLES} are needed to judge by.")
    if rms_dbfs(audio) < SILENCE_DBFS:
        raise ValueError(
            f"'{path}' is silent in the {audio.shape[1] / SAMPLE_RATE:g} s that would be judged."
        )


def _found_recordings(folder: Path) -> list[tuple[str, Path]]:
    parts = []
    for path in sorted(folder.rglob("*")):
        names = path.relative_to(folder).parts
        hidden = any(name.startswith(".") for name in names)
        if path.suffix.lower() in RECORDING_SUFFIXES and path.is_file() and not hidden:
            parts.append((names, path))
    return [(names[0] if len(names) > 1 else folder.name, path) for names, path in parts]


def _middle(path: Path, seconds: float) -> np.ndarray:
    """The middle of a file; all of one that is shorter."""
    length = audio_info(path).duration
    wanted = min(seconds, length)
    return read_audio(path, start=(length - wanted) / 2, duration=wanted)
