"""What live sessions hold of a pipeline: its models, its adapters, its settings, and where they compute."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..adapters.bank import AdapterBank
from ..audio import FRAME_RATE
from ..hub.models import Models
from ..prompts import BLOCK_SIZES, check_settings
from ..runtime.threads import BlockThreads
from .latency import choose_block_frames, measure_block_seconds
from .steps import PlayingSteps

if TYPE_CHECKING:
    from ..flow import RealTimeJazzFlowTransformer


@dataclass(eq=False)
class LiveModels(PlayingSteps, Models):
    """The models that sessions share, and the steps they take with them.

    One for each pipeline, which keeps it up to date: `to(device)`, fused adapters and another transformer are heard by
    the sessions that play already.

    Attributes:
        adapter_bank: the adapters that are loaded. find_device: says where the models compute.
        threads, clip_threads: how many of torch's make the blocks of sessions, and those of whole clips.
    """

    adapter_bank: AdapterBank = field(default_factory=AdapterBank)
    find_device: Callable[[], torch.device] | None = None
    threads: BlockThreads = field(default_factory=BlockThreads, repr=False)
    clip_threads: BlockThreads = field(default_factory=lambda: BlockThreads(enough=0.0), repr=False)
    _warm: set[tuple] = field(default_factory=set, repr=False)  # see `warm_up`
    _block_seconds: dict[tuple, float] = field(default_factory=dict, repr=False)  # see `block_frames_for`

    @property
    def execution_device(self) -> torch.device:
        return self.transformer.device if self.find_device is None else self.find_device()

    @property
    def thread_count(self) -> int | None:
        """Threads of torch that make a session's next block; None where it is not made on the processor."""
        return self.threads.count if self.execution_device.type == "cpu" else None

    def making(self, frames: int, clip: bool = False) -> AbstractContextManager:
        """While a block of so many frames is made, of a session or of a `clip`: by as many threads as pay."""
        if self.execution_device.type != "cpu":
            return nullcontext()
        return (self.clip_threads if clip else self.threads).block(frames / FRAME_RATE)

    def transformer_of(self, adapter: object, scale: float = 1.0) -> RealTimeJazzFlowTransformer:
        """The transformer with the adapters asked for; see `AdapterBank.mix`."""
        return self.adapter_bank.model(self.transformer, self.adapter_bank.mix(adapter, scale))

    @property
    def _place(self) -> tuple:
        return str(self.execution_device), self.transformer.dtype, self.codec.dtype

    def warm_up(self, block_frames: int | None = None) -> None:
        """Make a block and throw it away, if none of this size was made yet, so that no listener waits for
        what a first block costs: tables, kernels that are chosen or compiled."""
        block_frames = block_frames or self.generation_defaults["block_frames"]
        check_settings(block_frames=block_frames)
        key = (block_frames, *self._place)
        if key not in self._warm:
            measure_block_seconds(self, block_frames, num_inference_steps=1, guidance_scale=2.0,
                                  window_frames=block_frames, blocks=1)  # fmt: skip
            self._warm.add(key)

    def warm_up_to(self, block_frames: int) -> None:
        """`warm_up` of this size and all below: those of the blocks before a bar line."""
        for size in BLOCK_SIZES:
            if size <= block_frames:
                self.warm_up(size)

    def block_frames_for(
        self,
        target_latency: float,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        window_frames: int | None = None,
    ) -> int:
        """The largest block size that answers a control within `target_latency` seconds on this machine.

        Blocks are timed, each size once for the settings given. See `live.latency.choose_block_frames`.
        """
        given = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "window_frames": window_frames,
        }
        settings = {n: self.generation_defaults[n] if v is None else v for n, v in given.items()}
        check_settings(**settings)

        def block_seconds(frames: int) -> float:
            key = (frames, *settings.values(), *self._place)
            if key not in self._block_seconds:
                self._block_seconds[key] = measure_block_seconds(self, frames, **settings)
            return self._block_seconds[key]

        return choose_block_frames(target_latency, block_seconds)
