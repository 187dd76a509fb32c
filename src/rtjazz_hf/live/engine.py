"""The engine: blocks of latents, one after another, with what was played in a key-value cache.

The one home of block generation: whole clips (`RealTimeJazzPipeline.__call__`) and live sessions both run
on it, so a clip is a stream that was stopped.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import torch

from ..codec.streaming import StreamingState
from ..flow import FlowCache, apply_guidance
from ..music.score_features import without_chords_and_notes
from .bends import ToldBends

if TYPE_CHECKING:
    from ..codec import RealTimeJazzCodec
    from ..flow import FlowConditions, FlowMatchScheduler, RealTimeJazzFlowTransformer

# What a step callback is given (step in the block, timestep, latents) and may give back (other latents).
StepCallback = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | None]

_KNEE, _CEILING = 0.95, 0.99
log = logging.getLogger(__name__)


def draw_noise(
    generators: Sequence[torch.Generator],
    num_frames: int,
    channels: int,
    device: torch.device | str,
    sigma: float = 1.0,
) -> torch.Tensor:
    """Gaussian noise `(batch, channels, frames)` in float32, one generator a row, of deviation `sigma`.

    A row is drawn from its own generator, frame after frame, so it is the same alone and in a batch, in a
    clip and in a live session. Drawn where the generator lives: a CPU generator gives the same music on
    every device.
    """
    rows = [
        torch.randn((num_frames, channels), generator=generator, device=generator.device, dtype=torch.float32)
        for generator in generators
    ]
    return sigma * torch.stack([row.to(device) for row in rows]).transpose(1, 2)


def soft_limit(audio: torch.Tensor) -> torch.Tensor:
    """Bend what lies above 0.95 smoothly below 0.99; everything else passes untouched.

    It has no memory, so a stream is limited exactly as the whole clip is.
    """
    over = (audio.abs() - _KNEE).clamp_min(0.0)
    width = _CEILING - _KNEE
    return torch.where(over > 0, audio.sign() * (_KNEE + width * torch.tanh(over / width)), audio)


class BlockStream:
    """A running performance, or a batch of them in step: all state of generation, and none of it in the
    models.

    Each block is `denoise` (noise to latents, heard against the cache), then `append` (the finished block
    joins the cache, the oldest leaves); `decode` turns latents into sound with the decoder's own carried
    state. Nothing but the next block needs the append, so `append_later` puts it off until then: one pass
    of the transformer does it together with the next block's first step. Or a worker thread does it beside
    the decoder, so that the next block comes sooner where a second processor is idle, for more work in all.

    Args:
        generators: one a row; they may be one object, whose rows are then drawn in turn.
        block_frames: frames a block, one of 6, 12, 24, 36, 48.
        window_frames: how far back the cache reaches, in frames.
    """

    def __init__(
        self,
        transformer: RealTimeJazzFlowTransformer,
        codec: RealTimeJazzCodec,
        scheduler: FlowMatchScheduler,
        *,
        generators: Sequence[torch.Generator],
        block_frames: int,
        window_frames: int,
        device: torch.device | str,
    ):
        self.transformer = transformer
        self.codec = codec
        # the scheduler counts its steps: each stream has its own
        self.scheduler = type(scheduler).from_config(scheduler.config)
        self.generators = list(generators)
        self.block_frames = block_frames
        self.device = torch.device(device)
        self.cache = transformer.init_cache(len(self.generators), window_frames)
        self.decoder_state: Any = None
        self.frame = 0  # of the next block's start, behind what waits to join
        self.broken: torch.Tensor | None = None  # rows of the last block that were not finite
        self._pending: torch.Tensor | Future | None = None  # a finished block that has not joined yet
        self._settling = threading.Lock()  # the rows of a batch may be asked for by several threads
        self._conditions: FlowConditions | None = None  # of the block in the making, or the last one
        self._bends = ToldBends.of(codec.config, transformer.config.latent_dim, transformer.config.score_dim)
        if self._bends is not None:
            self._bends.to(self.device)
        transformer.pack_weights()

    def set_timesteps(self, num_inference_steps: int) -> torch.Tensor:
        """The times of one block's steps, from noise (0) towards data (1)."""
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        return self.scheduler.timesteps

    def prepare_latents(self) -> torch.Tensor:
        """Noise for the next block, `(batch, channels, block_frames)`."""
        channels, sigma = self.transformer.config.num_channels, self.scheduler.init_noise_sigma
        return draw_noise(self.generators, self.block_frames, channels, self.device, sigma)

    @torch.no_grad()
    def denoise(
        self,
        latents: torch.Tensor,
        style: torch.Tensor,
        lead_sheet: torch.Tensor,
        *,
        num_inference_steps: int,
        guidance_scale: float | Sequence[float],
        on_step_end: StepCallback | None = None,
    ) -> torch.Tensor:
        """Noise `(batch, channels, frames)` to a block of the flow's state, against what was played.

        Args:
            latents: the state: the codec's latents, and cue channels after them if the flow has any.
            style: `(batch, style_dim)`. lead_sheet: `(batch, frames, feature_dim)`.
                Where they bend a note, the latents are what the bend makes of them (`live.bends`).
            guidance_scale: 1 follows the chart as trained; more follows its chords harder, at twice the rows
                (classifier-free guidance, Ho and Salimans 2022: both rows run in one batch). One for all, or
                one a row.
        """
        dtype, told = self.transformer.dtype, lead_sheet
        style, lead_sheet = style.to(dtype), lead_sheet.to(dtype)
        if isinstance(guidance_scale, Sequence):
            guided = any(scale != 1.0 for scale in guidance_scale)
            guidance_scale = torch.tensor(guidance_scale, device=latents.device)[:, None, None]
        else:
            guided = guidance_scale != 1.0
        if guided:
            # The second half of the rows hears the same past and has the same words, beat and band, and is told no
            # chords and no notes. So guidance pushes towards these alone; against rows that are asked for nothing at
            # all it pushes loudness and brightness too, and the cymbals grow.
            style = torch.cat([style, style])
            lead_sheet = torch.cat([lead_sheet, without_chords_and_notes(lead_sheet)])
        timesteps = self.set_timesteps(num_inference_steps)
        if self.broken is not None or isinstance(self._pending, Future):
            self.settle()
        clean, heard = self._pending, self._conditions
        conditions = self.transformer.prepare_conditions(
            timesteps, lead_sheet, style, self.cache, previous=heard, ahead=0 if clean is None else clean.shape[-1]
        )
        for index, t in enumerate(timesteps):
            sample = (torch.cat([latents, latents]) if guided else latents).to(dtype)
            if index == 0 and clean is not None:
                with self._settling:
                    output = self.transformer.append_and_forward(clean.to(dtype), sample, self.cache, conditions, heard)
                    self._pending = None
            else:
                output = self.transformer(sample, conditions=conditions, step=index, cache=self.cache)
            velocity = output.sample.float()
            if guided:
                velocity = apply_guidance(*velocity.chunk(2), guidance_scale)
            latents = self.scheduler.step(velocity, t, latents).prev_sample
            if on_step_end is not None and (changed := on_step_end(index, t, latents)) is not None:
                latents = changed
        self._conditions = conditions
        if self._bends is not None:
            latents = self._bends.write(latents, told, conditions.positions[: len(told)])
        return self._without_broken(latents)

    def _without_broken(self, latents: torch.Tensor) -> torch.Tensor:
        """`latents` with zeros for rows that are not finite, which `decode` makes silence: they must not reach a
        loudspeaker, nor stay in the cache and spoil what follows."""
        whole = latents.isfinite().all(-1).all(-1)  # (batch,)
        self.broken = None if bool(whole.all()) else ~whole
        if self.broken is None:
            return latents
        log.error("a block was not finite (NaN or infinite values) and is silence: the weights may be damaged")
        return torch.where(whole[:, None, None], latents, torch.zeros_like(latents))

    def append(self, latents: torch.Tensor) -> None:
        """Let a finished block `(batch, channels, frames)` join what was played."""
        self.append_later(latents)
        self.settle()

    @torch.no_grad()
    def _join(self, latents: torch.Tensor) -> None:
        self.transformer.append_to_cache(latents.to(self.transformer.dtype), self.cache, self._conditions)
        if self.broken is not None:
            self._forget_broken(self.broken.tolist())

    def _forget_broken(self, broken: list[bool]) -> None:
        """Rows that were not finite remember nothing, so that they can go on: their keys and values are not either."""
        window, places = self.cache.window_frames, self.cache.positions
        self.cache = FlowCache.stack([
            self.transformer.init_cache(1, window, places[row]) if is_broken else self.cache.select([row])
            for row, is_broken in enumerate(broken)
        ])  # fmt: skip

    def append_later(self, latents: torch.Tensor, worker: Executor | None = None) -> None:
        """`append`, together with the next block's first step, or when the stream is asked for what it has heard; by a
        `worker` thread, at once and beside what the caller does meanwhile. The outcome is the same to rounding."""
        self.settle()
        self.frame += latents.shape[-1]
        self._pending = latents if worker is None else worker.submit(self._join, latents)

    def settle(self) -> None:
        """Finish an append that was put off."""
        with self._settling:
            if isinstance(self._pending, Future):
                self._pending.result()
            elif self._pending is not None:
                self._join(self._pending)
            self._pending = None

    def play_on(self, transformer: RealTimeJazzFlowTransformer) -> None:
        """Make the next blocks with another transformer of the same shape; what was played stays in the cache."""
        if transformer is not self.transformer:
            self.settle()  # the finished block joins with the model that made it
            self.transformer = transformer

    def without_cues(self, latents: torch.Tensor) -> torch.Tensor:
        """The codec's latents `(batch, latent_dim, frames)` of the flow's state."""
        return latents[:, : self.transformer.config.latent_dim]

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The next latents `(batch, latent_dim, frames)` in playing order to float32 sound, |x| < 0.99.

        Without a break to what was decoded before: `(batch, 2, frames * 640)`.
        """
        output = self.codec.decode(latents=latents, state=self.decoder_state)
        self.decoder_state = output.state
        audio = output.audio
        if not float(audio.abs().amax()) <= _KNEE:  # seldom: something is loud, or not a number
            audio = soft_limit(audio)
            if not bool((whole := audio.isfinite()).all()):
                log.error("a block's sound was not finite (NaN or infinite values) and is silence there")
                audio = torch.where(whole, audio, torch.zeros_like(audio))
                self.decoder_state = self.decoder_state if len(audio) > 1 else None  # nor is it finite
        if self.broken is not None and len(self.broken) == len(audio):
            audio = torch.where(self.broken[:, None, None].to(audio.device), torch.zeros_like(audio), audio)
        return audio

    # -- rows ----------------------------------------------------------------------------------------------
    @property
    def batch_size(self) -> int:
        return self.cache.batch_size

    def select(self, row: int) -> BlockStream:
        """A copy of one row, which goes on as it would have here."""
        self.settle()
        return self._with_rows(
            [self.generators[row]],
            self.cache.select([row]),
            None if self.decoder_state is None else self.decoder_state.select(row),
        )

    @classmethod
    def stack(cls, streams: Sequence[BlockStream]) -> BlockStream:
        """One stream whose rows are copies of those of `streams`, wherever each stands.

        Streams of one pipeline and window, whose decoders have all begun, or none of them.
        """
        for stream in streams:
            stream.settle()
        states = [stream.decoder_state for stream in streams if stream.decoder_state is not None]
        if len(states) not in (0, len(streams)):
            raise ValueError("streams that have begun and streams that have not cannot share a batch")
        return streams[0]._with_rows(
            [generator for stream in streams for generator in stream.generators],
            FlowCache.stack([stream.cache for stream in streams]),
            StreamingState.cat(states) if states else None,
        )

    def _with_rows(
        self, generators: list[torch.Generator], cache: FlowCache, decoder_state: Any
    ) -> BlockStream:
        stream = copy.copy(self)
        stream._settling = threading.Lock()
        stream.scheduler = type(self.scheduler).from_config(self.scheduler.config)
        stream.generators, stream.cache, stream.decoder_state = generators, cache, decoder_state
        return stream
