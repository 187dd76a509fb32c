"""Random crops of sound for the codec's training: mixes, stems mixed anew, and recorded music."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from ..audio import HOP_LENGTH, SAMPLE_RATE, read_audio
from .augment import AugmentSettings, augment, limit_peak
from .dataset import TakeRecord

SHARES = {"mix": 0.5, "stems": 0.25, "real": 0.25}
STEM_LEVEL_DB = (-12.0, 6.0)
SINGLE_STEM_RATE = 0.25
SILENCE = 1e-3  # a peak below it, -60 dBFS: nothing to learn from
_SILENT_TRIES = 4  # then silence is what this place of the corpus has
_BROKEN_TRIES = 50
_TAIL_S = 0.02


@dataclass(frozen=True)
class _Sound:
    """What a crop can be taken from: one file, or the stems of a take; `samples` at 48 kHz in each."""

    paths: tuple[Path, ...]
    samples: int


class AudioCrops:
    """Random crops of several kinds of sound, 48 kHz stereo.

    What is drawn depends on the generator and the files alone, not on what was drawn before, so a run that is
    resumed sees the same crops. A file that cannot be read is left out, named once in a warning, and kept in
    `skipped`; another place is drawn in its stead. Missing ends are found at once, damage within a file when
    a crop meets it.

    Args:
        takes: their mixes are cropped.
        frames: length of a crop in codec frames of 640 samples.
        stems: takes whose stems are mixed anew: some of them, each at a level of its own, now and then one
            alone. None: those of `takes` that have stems. `()`: none.
        real: recorded music: paths, or anything with a `path` (see `real_music.load_real_music`).
        augment: what is done to every crop of `draw`; None for nothing.
        shares: how often "mix", "stems" and "real" are drawn; a kind that there is nothing of leaves its
            share to the others. Within a kind every second of sound is as likely as any other.

    Raises:
        ValueError: where no file is left that can be read and is long enough, and for wrong settings.

    Attributes:
        samples: length of a crop. skipped: `{path: reason}` of the files left out so far.
    """

    def __init__(
        self,
        takes: Sequence[TakeRecord],
        frames: int,
        *,
        stems: Sequence[TakeRecord] | None = None,
        real: Iterable[Any] | None = None,
        augment: AugmentSettings | None = AugmentSettings(),  # noqa: B008 (frozen)
        shares: Mapping[str, float] | None = None,
    ):
        shares = _check_shares(SHARES if shares is None else shares)
        if frames < 1:
            raise ValueError(f"frames {frames!r}: choose 1 or more")
        self.samples = frames * HOP_LENGTH
        self.augment = augment
        self.skipped: dict[Path, str] = {}
        files = {
            "mix": [(take.path,) for take in takes],
            "stems": [
                files for take in (takes if stems is None else stems) if (files := tuple(take.stems.values()))
            ],
            "real": [(Path(getattr(item, "path", item)),) for item in real or ()],
        }
        found = {
            kind: [sound for paths in groups if (sound := self._open(paths)) is not None]
            for kind, groups in files.items()
            if shares[kind] > 0
        }
        long_enough = {
            kind: [sound for sound in sounds if sound.samples >= self.samples]
            for kind, sounds in found.items()
        }
        self.sounds = {kind: sounds for kind, sounds in long_enough.items() if sounds}
        if not self.sounds:
            raise ValueError(
                f"no file is left to crop: of {sum(len(group) for groups in files.values() for group in groups)} "
                f"given, {len(self.skipped)} cannot be read and none is as long as {frames} frames "
                f"({self.samples / SAMPLE_RATE:.2f} s)."
            )
        weights = np.array([shares[kind] for kind in self.sounds])
        self.shares = dict(zip(self.sounds, (weights / weights.sum()).tolist()))
        self._kinds = np.cumsum(weights / weights.sum())
        # How many places a crop can begin at, added up: a place is drawn evenly from all of them.
        self._places = {
            kind: np.cumsum([sound.samples - self.samples + 1 for sound in sounds])
            for kind, sounds in self.sounds.items()
        }

    def draw(self, rng: np.random.Generator, count: int) -> torch.Tensor:
        """`(count, 2, samples)` float32, each crop of its own kind and augmented on its own."""
        return torch.from_numpy(np.stack([self._row(rng) for _ in range(count)]))

    def clips(self, count: int, seconds: float = 10.0) -> list[torch.Tensor]:
        """The middle of about `count` sounds spread over every kind, always the same, not augmented.

        Returns a list of float32 `(1, 2, samples)`; a sound shorter than `seconds` is given whole. The stems
        of a take are mixed as in training.
        """
        samples = int(seconds * SAMPLE_RATE) // HOP_LENGTH * HOP_LENGTH
        clips = []
        for kind, share in _apportion(self.shares, count).items():
            sounds = self.sounds[kind]
            for index in np.unique(np.linspace(0, len(sounds) - 1, share).astype(int)):
                sound = sounds[index]
                start = max(0, (sound.samples - samples) // 2) // HOP_LENGTH * HOP_LENGTH
                rng = np.random.default_rng([0, int(index)])
                audio = self._read(sound, start, min(samples, sound.samples), rng)
                if audio is not None:
                    clips.append(torch.from_numpy(audio)[None])
        if not clips:
            raise ValueError(f"none of the clips asked for can be read: {self._skipped_text()}.")
        return clips

    def _row(self, rng: np.random.Generator) -> np.ndarray:
        silent_draws = 0
        for _ in range(_BROKEN_TRIES):
            kind = list(self.sounds)[
                min(int(np.searchsorted(self._kinds, rng.random())), len(self.sounds) - 1)
            ]
            places = self._places[kind]
            place = int(rng.integers(places[-1]))
            index = int(np.searchsorted(places, place, side="right"))
            start = place - (int(places[index - 1]) if index else 0)
            audio = self._read(self.sounds[kind][index], start, self.samples, rng)
            if audio is None:
                continue
            if np.abs(audio).max() < SILENCE and silent_draws < _SILENT_TRIES:
                silent_draws += 1
                continue
            return audio if self.augment is None else augment(audio, rng, self.augment)
        raise ValueError(f"{_BROKEN_TRIES} crops in a row cannot be read: {self._skipped_text()}.")

    def _read(self, sound: _Sound, start: int, samples: int, rng: np.random.Generator) -> np.ndarray | None:
        """`(2, samples)` from a place of a sound, stems mixed by chance; None where a file is broken."""
        paths, levels = sound.paths, [1.0]
        if len(paths) > 1:
            few = 1 if rng.random() < SINGLE_STEM_RATE else int(rng.integers(2, len(paths) + 1))
            paths = [paths[i] for i in sorted(rng.choice(len(paths), few, replace=False))]
            levels = 10 ** (rng.uniform(*STEM_LEVEL_DB, len(paths)) / 20)
        total = np.zeros((2, samples), dtype=np.float32)
        for path, level in zip(paths, levels):
            try:
                audio = read_audio(path, start / SAMPLE_RATE, samples / SAMPLE_RATE)[:, :samples]
            except (OSError, ValueError) as error:
                self._skip(path, error)
                return None
            total[:, : audio.shape[1]] += audio * np.float32(level)  # other rates may end a sample early
        return limit_peak(total)

    def _open(self, paths: tuple[Path, ...]) -> _Sound | None:
        """A sound whose files have a readable head and end, or None; the shortest of stems counts."""
        lengths = []
        for path in paths:
            try:
                info = soundfile.info(path)
                # A file that was cut short keeps the length in its head: look at the end.
                read_audio(path, max(0.0, info.duration - _TAIL_S))
            except (OSError, ValueError, soundfile.LibsndfileError) as error:
                self._skip(path, error)
                return None
            lengths.append(int(info.frames * SAMPLE_RATE / info.samplerate))
        return _Sound(paths, min(lengths))

    def _skip(self, path: str | os.PathLike, error: Exception) -> None:
        if path not in self.skipped:
            self.skipped[Path(path)] = str(error)
            warnings.warn(f"left out ({len(self.skipped)} so far): {error}", stacklevel=3)

    def _skipped_text(self) -> str:
        return f"{len(self.skipped)} files are broken, such as '{next(iter(self.skipped), '')}'"


def _check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    unknown = sorted(set(shares) - set(SHARES))
    if unknown:
        raise ValueError(f"unknown kind of sound {unknown[0]!r} in shares: choose {', '.join(SHARES)}")
    shares = {kind: float(shares.get(kind, 0.0)) for kind in SHARES}
    if not all(0 <= share < np.inf for share in shares.values()) or not sum(shares.values()):
        raise ValueError(f"shares {shares}: choose numbers of 0 or more, one at least above 0")
    return shares


def _apportion(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Whole numbers that add up to `count`, near the shares (largest remainders)."""
    exact = {kind: share * count for kind, share in shares.items()}
    whole = {kind: int(number) for kind, number in exact.items()}
    for kind in sorted(exact, key=lambda kind: whole[kind] - exact[kind])[: count - sum(whole.values())]:
        whole[kind] += 1
    return whole
