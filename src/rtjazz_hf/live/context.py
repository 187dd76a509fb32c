"""Going on from a clip: what somebody played becomes what the session remembers of its past."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..audio import HOP_LENGTH, SAMPLE_RATE, as_channels, resample
from ..prompts import BLOCK_SIZES
from .engine import BlockStream, soft_limit

if TYPE_CHECKING:
    from ..codec import RealTimeJazzCodec

CROSSFADE_SECONDS = 0.1
SILENCE = 1e-4  # peak; -80 dBFS
# Encoded before what is kept, so that the encoder does not hear the silence before a stream there.
_LEAD_FRAMES = 48
_RATES = (1_000, 768_000)  # Hz


def prepare_context(clip: Any, sampling_rate: float) -> np.ndarray:
    """A clip of any rate, mono or stereo, numpy or torch, as float32 `(2, samples)` at 48 kHz.

    Raises:
        ValueError: another shape, no samples, samples that are not finite, a rate that is none.
    """
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, (int, float, np.number)) or not (
        _RATES[0] <= sampling_rate <= _RATES[1]
    ):  # fmt: skip
        raise ValueError(
            f"context_sampling_rate {sampling_rate!r}: choose from {_RATES[0]:,} to {_RATES[1]:,} Hz"
        )
    if not isinstance(clip, (np.ndarray, torch.Tensor)):
        raise ValueError(
            f"context of type {type(clip).__name__}: give an array (2, samples), (1, samples) or (samples,)"
        )
    kind = str(clip.dtype).removeprefix("torch.")
    if not kind.startswith(("float", "bfloat")):
        raise ValueError(f"context of {kind}: give floating point samples in [-1, 1]; scale PCM first")
    try:
        clip = as_channels(clip)
    except ValueError as error:
        raise ValueError(f"context: {error}") from None
    clip = np.broadcast_to(clip, (2, clip.shape[1]))
    return resample(clip, sampling_rate, SAMPLE_RATE)


@torch.no_grad()
def play_context(stream: BlockStream, clip: np.ndarray) -> np.ndarray:
    """Let `stream`, which has not begun, hear `clip` `(2, samples)` at 48 kHz as its past; what leads up to it.

    The latents of the clip's end, as many whole blocks as the window holds, join the cache, and the decoder
    runs over them, so that the next block goes on where the clip stops.

    Returns:
        The clip `(2, samples)` up to the sample where the next block sets in, as it was given; its last 0.1 s
        cross over, at equal power, into what the codec makes of it, so that the sound goes on without a click.
        The codec's overlap (5.3 ms) at the clip's very end is not in it: it cannot be encoded without what
        follows.

    Raises:
        ValueError: the clip is silent, shorter than the smallest block, or louder than anything scaled.
    """
    codec, transformer = stream.codec, stream.transformer
    if transformer.config.cue_channels:
        raise ValueError(
            "this model has cue channels, which no part of the pipeline makes from a clip: it takes no context"
        )
    latents, heard = _encode_end(codec, clip, stream.cache.window_frames)
    frames = latents.shape[-1]
    sizes = [size for size in BLOCK_SIZES if size <= min(frames, stream.block_frames)]
    if not sizes:
        least = (BLOCK_SIZES[0] * HOP_LENGTH + codec.config.latency_samples - HOP_LENGTH) / SAMPLE_RATE
        raise ValueError(
            f"the context lasts {clip.shape[-1] / SAMPLE_RATE:.3f} s: give {math.ceil(1000 * least) / 1000} s or more"
        )
    block = sizes[-1]
    blocks = max(1, min(frames, stream.cache.window_frames) // block)
    latents = latents[..., frames - blocks * block :]
    kept = heard[:, heard.shape[-1] - latents.shape[-1] * HOP_LENGTH :]
    if float(np.abs(kept).max()) < SILENCE:
        raise ValueError(
            f"the last {kept.shape[-1] / SAMPLE_RATE:.1f} s of the context are silent: record again, or leave "
            "the context out"
        )
    for piece in latents.split(block, dim=-1):
        known = piece[:, : transformer.config.latent_dim]  # its flow may know of no deviations
        transformer.append_to_cache(known.to(transformer.dtype), stream.cache)
    decoded = codec.decode(latents=latents, state=stream.decoder_state)
    stream.decoder_state = decoded.state
    return crossfade_end(heard, soft_limit(decoded.audio.float())[0].cpu().numpy())


def _encode_end(
    codec: RealTimeJazzCodec, clip: np.ndarray, window_frames: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Latents `(1, latent_dim, frames)` of the end of a clip, and the clip up to where the last one ends.

    As a stream, without flushing: a frame at the end that is cut off would sound of the cut.
    """
    ahead = codec.config.latency_samples - HOP_LENGTH  # what the encoder sees after a frame
    heard = clip[:, : max(0, clip.shape[-1] - ahead)]
    frames = min(heard.shape[-1] // HOP_LENGTH, window_frames + max(BLOCK_SIZES) + _LEAD_FRAMES)
    if frames == 0:
        return torch.zeros(1, codec.config.latent_dim, 0), heard
    start = heard.shape[-1] - frames * HOP_LENGTH
    samples = torch.from_numpy(np.ascontiguousarray(clip[None, :, start:])).to(codec.device)
    state = codec.init_encoder_state(1, low_delay=True)  # the band goes on where the clip ends
    try:
        latents = codec.encode(samples, state=state, flush=False, return_codes=False).latents
    except ValueError as error:
        raise ValueError(f"context: {error}") from None
    kept = min(frames, latents.shape[-1], max(window_frames, BLOCK_SIZES[0]) + max(BLOCK_SIZES))
    return latents[..., latents.shape[-1] - kept :], heard


def crossfade_end(first: np.ndarray, second: np.ndarray, seconds: float = CROSSFADE_SECONDS) -> np.ndarray:
    """`first` `(channels, samples)`, its last `seconds` crossing over into the end of `second` at equal power."""
    samples = min(round(seconds * SAMPLE_RATE), first.shape[-1], second.shape[-1])
    angle = np.linspace(0.0, np.pi / 2, samples, dtype=np.float32)
    joined = first.copy()
    joined[:, first.shape[-1] - samples :] = (
        np.cos(angle) * first[:, first.shape[-1] - samples :]
        + np.sin(angle) * second[:, second.shape[-1] - samples :]
    )
    return joined
