"""A judge that has to be taught: a small network that learns to tell two kinds of clips of the same charts apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...audio import SAMPLE_RATE

CROP_SECONDS = 5.0
_BANDS, _FFT, _HOP = 96, 4096, 2048
_FLOOR_DB = 80.0  # below a crop's loudest band
_STEPS, _BATCH, _RATE, _DECAY = 200, 32, 2e-3, 1e-2


def log_mel_crops(audio: np.ndarray, seconds: float = CROP_SECONDS) -> np.ndarray:
    """Whole pieces of a clip `(2, samples)` at 48 kHz as log-mel pictures `(crops, bands, frames)` of mean 0: how loud
    they are is not told.

    Raises:
        ValueError: a clip shorter than one piece.
    """
    import librosa

    length = round(seconds * SAMPLE_RATE)
    if audio.shape[-1] < length:
        raise ValueError(
            f"a clip of {audio.shape[-1] / SAMPLE_RATE:.1f} s: a classifier hears {seconds:g} s at a time"
        )
    mono = np.asarray(audio, np.float32).mean(0)
    crops = mono[: len(mono) // length * length].reshape(-1, length)
    power = librosa.feature.melspectrogram(
        y=crops, sr=SAMPLE_RATE, n_fft=_FFT, hop_length=_HOP, n_mels=_BANDS, fmin=30.0, fmax=16_000.0
    )
    level = librosa.power_to_db(power, ref=1.0, top_db=None)
    level = np.maximum(level, level.max((1, 2), keepdims=True) - _FLOOR_DB) / 20.0
    return level - level.mean((1, 2), keepdims=True)


class _Judge(nn.Sequential):
    """Log-mel pictures `(batch, bands, frames)` to one number each: above 0 for the second kind."""

    def __init__(self):
        sizes = (1, 16, 32, 48)
        layers: list[nn.Module] = [nn.Unflatten(1, (1, -1))]
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Conv2d(before, after, 5, stride=2, padding=2), nn.GroupNorm(4, after), nn.ReLU()]
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d((12, 1)), nn.Flatten(), nn.Dropout(0.3), nn.Linear(12 * 48, 1)
        )


def told_apart(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], seed: int = 0, steps: int = _STEPS
) -> float:
    """How often a classifier that heard half of the charts is right about the other half: 0.5 is "cannot be told".

    Each half is judged by who heard the other one.

    Args:
        first, second: pieces `(crops, bands, frames)` of the same charts in the same order, of two kinds.
        steps: of the classifier's training.

    Raises:
        ValueError: fewer than two charts, or not the same number of both kinds.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"{len(first)} and {len(second)} clips: give as many of both kinds, and two charts or more"
        )
    right = total = 0
    for half in range(2):
        heard, new = (
            [(x, label) for label, kind in enumerate((first, second)) for x in kind[start::2]]
            for start in (half, 1 - half)
        )
        judge = _taught(heard, seed + half, steps)
        with torch.no_grad():
            for pictures, label in new:
                says = judge(torch.from_numpy(np.asarray(pictures, np.float32))).flatten() > 0
                right += int((says == bool(label)).sum())
                total += len(pictures)
    return right / total


def _taught(heard: Sequence[tuple[np.ndarray, int]], seed: int, steps: int) -> nn.Module:
    pictures = torch.from_numpy(np.concatenate([x for x, _ in heard]).astype(np.float32))
    labels = torch.cat([torch.full((len(x),), float(label)) for x, label in heard])
    chance = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = _Judge().train()
        optimizer = torch.optim.AdamW(judge.parameters(), lr=_RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
        for _ in range(steps):
            batch = torch.randint(len(pictures), (_BATCH,), generator=chance)
            shift = int(torch.randint(pictures.shape[-1], (1,), generator=chance))
            loss = F.binary_cross_entropy_with_logits(
                judge(pictures[batch].roll(shift, -1)).flatten(), labels[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


__all__ = ["CROP_SECONDS", "log_mel_crops", "told_apart"]
