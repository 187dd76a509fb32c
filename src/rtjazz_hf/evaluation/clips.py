"""Clips that a codec is judged by: of held-out takes, and of recorded music."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rtjazz_hf.audio import read_audio
from rtjazz_hf.corpus.real_music import TABLE, load_real_music

from .metrics import SILENCE_DBFS, rms_dbfs
from .takes import HeldOutTake, choose_takes

RECORDING_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")


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


def clips_of_takes(takes: Sequence[HeldOutTake], num: int, seconds: float) -> list[Clip]:
    """The starts of up to `num` takes, genres in turn."""
    return [
        Clip(take.name, take.lead_sheet.genre, take.audio, take.lead_sheet)
        for take in choose_takes(takes, num, seconds)
    ]


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
    skipped: list[str] = []
    waiting = [(group, iter(paths)) for group, paths in groups.items()]
    while waiting and len(clips) < num:  # packages take turns; a file that is passed over costs no turn
        group, paths = waiting.pop(0)
        for path in paths:
            try:
                if rms_dbfs(_middle(path, seconds)) < SILENCE_DBFS:
                    raise ValueError(f"'{path}' is silent in its middle {seconds:g} s.")
            except (OSError, ValueError) as error:
                skipped.append(str(error))
                continue
            clips.append(Clip(f"{group}-{path.stem}", group, functools.partial(_middle, path, short=True)))
            waiting.append((group, paths))
            break
    if not clips:
        told = f": {skipped[0]}" if skipped else f" (of the kinds {', '.join(RECORDING_SUFFIXES)})."
        raise ValueError(f"'{folder}' holds no held-out recording of {seconds:g} s or more{told}")
    return clips, skipped


def _found_recordings(folder: Path) -> list[tuple[str, Path]]:
    parts = []
    for path in sorted(folder.rglob("*")):
        names = path.relative_to(folder).parts
        hidden = any(name.startswith(".") for name in names)
        if path.suffix.lower() in RECORDING_SUFFIXES and path.is_file() and not hidden:
            parts.append((names, path))
    return [(names[0] if len(names) > 1 else folder.name, path) for names, path in parts]


def _middle(path: Path, seconds: float, short: bool = False) -> np.ndarray:
    """The middle of a file; with `short`, all of a file that is shorter."""
    try:
        length = soundfile.info(str(path)).duration
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"'{path}' cannot be read as audio ({error}).") from error
    if length < seconds and not short:
        raise ValueError(f"'{path}' lasts {length:.1f} s, less than the {seconds:g} s of a clip.")
    wanted = min(seconds, length)
    return read_audio(path, start=(length - wanted) / 2, duration=wanted)
