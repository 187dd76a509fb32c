"""What may be asked for: prompts and their mixes, durations, settings of generation, and the checks of
each."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch

from .audio import HOP_LENGTH, SAMPLE_RATE

BLOCK_SIZES = (6, 12, 24, 36, 48)  # frames
MAX_WINDOW_FRAMES = 750  # 10 s: the longest context of training
MAX_DURATION = 600.0  # seconds in one call; `live` has no end
MAX_INFERENCE_STEPS = 1000

# Words, a clip at 48 kHz `(2, samples)`, or a weighted mix: {"bebop": 0.7, "bossa": 0.3}, or, where a clip
# takes part, a tuple of pairs: (("bebop", 0.7), (clip, 0.3)).
Prompt: TypeAlias = "str | np.ndarray | torch.Tensor | dict[str, float] | tuple[tuple[Any, float], ...]"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_duration(duration: Any) -> None:
    """More than 0 and at most 600 seconds, or ValueError."""
    if not (_is_number(duration) and 0 < duration <= MAX_DURATION):
        raise ValueError(
            f"duration {duration!r}: choose more than 0 and at most {MAX_DURATION:g} seconds "
            f"(for music without an end use `live`)"
        )


def check_settings(
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    block_frames: int | None = None,
    window_frames: int | None = None,
) -> None:
    steps, scale, block, window = num_inference_steps, guidance_scale, block_frames, window_frames
    if steps is not None and not (_is_whole(steps) and 1 <= steps <= MAX_INFERENCE_STEPS):
        raise ValueError(
            f"num_inference_steps {steps!r}: choose a whole number from 1 to {MAX_INFERENCE_STEPS}"
        )
    if scale is not None and not (_is_number(scale) and scale >= 0):
        raise ValueError(f"guidance_scale {scale!r}: choose a number of 0 or more; 1 is no guidance")
    if block is not None and block not in BLOCK_SIZES:
        raise ValueError(f"block_frames {block!r}: choose from {', '.join(map(str, BLOCK_SIZES))}")
    if window is not None and not (_is_whole(window) and 1 <= window <= MAX_WINDOW_FRAMES):
        raise ValueError(
            f"window_frames {window!r}: choose a whole number from 1 to {MAX_WINDOW_FRAMES} (75 are a second)"
        )


def mix_of(prompt: Prompt) -> list[tuple[str | torch.Tensor, float]]:
    """A prompt as weighted parts: words, and clips as float32 tensors `(2, samples)`."""
    if isinstance(prompt, (str, np.ndarray, torch.Tensor)):
        parts: list[tuple[Any, Any]] = [(prompt, 1.0)]
    elif isinstance(prompt, dict):
        parts = list(prompt.items())
    elif isinstance(prompt, tuple) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in prompt
    ):
        parts = [tuple(pair) for pair in prompt]
    else:
        raise ValueError(
            f"prompt of type {type(prompt).__name__}: give words, a clip, a mix such as "
            f"{{'bebop': 0.7, 'bossa': 0.3}}, a tuple of (prompt, weight) pairs, or a list of prompts"
        )
    if not parts:
        raise ValueError("the prompt is an empty mix; give at least one prompt and its weight")
    for part, weight in parts:
        if not (_is_number(weight) and weight >= 0):
            raise ValueError(f"the weight {weight!r} in a prompt mix: choose a number of 0 or more")
        if isinstance(part, str) and not part.strip():
            raise ValueError("the prompt is empty; describe the music, such as 'medium swing piano trio'")
    if not sum(weight for _, weight in parts) > 0:
        raise ValueError("all weights of the prompt mix are 0; give at least one that is more")
    return [(part if isinstance(part, str) else _as_clip(part), float(weight)) for part, weight in parts]


def _as_clip(part: Any) -> torch.Tensor:
    if not isinstance(part, (np.ndarray, torch.Tensor)):
        raise ValueError(
            f"a prompt part of type {type(part).__name__}: give words, or a clip as an array (2, samples)"
        )
    clip = torch.as_tensor(part).float()
    if clip.ndim == 1:
        clip = clip[None]
    if clip.ndim == 2 and clip.shape[0] == 1:
        clip = clip.expand(2, -1)
    if clip.ndim != 2 or clip.shape[0] != 2 or clip.shape[1] < HOP_LENGTH:
        raise ValueError(
            f"a prompt clip of shape {tuple(part.shape)}: give (2, samples) at {SAMPLE_RATE} Hz, "
            f"{HOP_LENGTH} samples or more"
        )
    if not torch.isfinite(clip).all():
        raise ValueError("a prompt clip holds NaN or infinite samples")
    return clip


def words_of(prompt: Prompt) -> str:
    """What the band leader reads of a prompt: the heaviest words of a mix; nothing of a clip."""
    words = [(weight, part) for part, weight in mix_of(prompt) if isinstance(part, str)]
    return max(words, key=lambda pair: pair[0])[1] if words else ""
