"""Block sizes for a wished latency: a smaller block answers a control sooner and costs more work."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..audio import FRAME_RATE
from ..prompts import BLOCK_SIZES
from ..runtime.threads import torch_threads

if TYPE_CHECKING:
    from .models import LiveModels


def choose_block_frames(target_latency: float, block_seconds: Callable[[int], float]) -> int:
    """The largest block that answers a control within `target_latency` seconds, among those that keep up.

    A control that comes right after a block has begun is heard when that block has been played and the next
    one made: after a block's length and the time to make one. Where no block answers as soon, the one that
    answers soonest is taken, with a warning; where none keeps up, the largest, which comes closest.

    Args:
        block_seconds: seconds that it takes to make a block of so many frames.

    Raises:
        ValueError: `target_latency` is no positive number.
    """
    if (
        isinstance(target_latency, bool)
        or not isinstance(target_latency, (int, float))
        or not 0 < target_latency < math.inf
    ):
        raise ValueError(f"target_latency {target_latency!r}: choose a positive number of seconds")
    seconds: dict[int, float] = {}
    for frames in sorted(BLOCK_SIZES, reverse=True):
        length = frames / FRAME_RATE
        if length >= target_latency and frames != BLOCK_SIZES[0]:
            continue
        seconds[frames] = block_seconds(frames)
        if length + seconds[frames] <= target_latency and seconds[frames] < length:
            return frames
    for frames in sorted(BLOCK_SIZES):
        taken = seconds.get(frames) or block_seconds(frames)
        if taken < frames / FRAME_RATE:
            warnings.warn(
                f"a control is heard within {frames / FRAME_RATE + taken:.2f} s here, with blocks of {frames} "
                f"frames; target_latency={target_latency:g} asks for more than this machine does",
                stacklevel=3,
            )
            return frames
    warnings.warn(
        f"no block size keeps up with real time here; blocks of {BLOCK_SIZES[-1]} frames come closest",
        stacklevel=3,
    )
    return BLOCK_SIZES[-1]


@torch.no_grad()
def measure_block_seconds(
    models: LiveModels,
    block_frames: int,
    *,
    num_inference_steps: int,
    guidance_scale: float,
    window_frames: int,
    blocks: int = 3,
) -> float:
    """Seconds to make a block with a full window behind it, sound included; the slowest of `blocks` after a
    first one.

    On an idle machine; what runs beside it counts.
    """
    stream = models.prepare_stream([torch.Generator().manual_seed(0)], block_frames, window_frames)
    config = models.transformer.config
    style = torch.zeros(1, config.style_dim, device=stream.device)
    sheet = torch.zeros(1, block_frames, config.feature_dim, device=stream.device)
    with torch_threads(models.thread_count):
        for _ in range(window_frames // block_frames):
            stream.append(stream.prepare_latents())
        times = []
        for _ in range(1 + blocks):
            started = time.perf_counter()
            state = stream.denoise(
                stream.prepare_latents(),
                style,
                sheet,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
            )
            stream.decode(stream.without_cues(state)).cpu()
            stream.append_later(state)
            times.append(time.perf_counter() - started)
    return max(times[1:])
