"""How a live session begins: its wishes checked, its first plan made, the machine warmed up."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

from ..band.parts import tell
from ..prompts import BLOCK_SIZES
from .context import prepare_context
from .group import SessionGroup
from .plan import first_plan
from .session import LiveSession
from .snapshot import load_session

if TYPE_CHECKING:
    from .models import LiveModels


def open_session(
    models: LiveModels,
    asked: dict[str, Any],
    *,
    window_frames: int | None,
    first_block_frames: int | None,
    target_latency: float | None,
    context: Any,
    context_sampling_rate: float,
    start_beat: float,
    overlap: bool | None,
    started: float,
) -> LiveSession:
    """The session that `RealTimeJazzPipeline.live` is asked for, where the arguments are explained.

    Args:
        asked: the wishes, by the names of `LiveSession.update`; None is the model's own setting, or no wish.
        started: when it was asked for, by `time.perf_counter`.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    block_frames, defaults = asked["block_frames"], models.generation_defaults
    if target_latency is not None and block_frames is not None:
        raise ValueError(f"block_frames {block_frames} and target_latency {target_latency}: give one of them")
    if first_block_frames is not None and first_block_frames not in BLOCK_SIZES:
        raise ValueError(
            f"first_block_frames {first_block_frames!r}: choose from {', '.join(map(str, BLOCK_SIZES))}"
        )
    settings = ("block_frames", "guidance_scale", "num_inference_steps")
    asked = {**asked, **{name: defaults[name] for name in settings if asked[name] is None}}
    window_frames = defaults["window_frames"] if window_frames is None else window_frames
    models.check_inputs(
        asked["prompt"], window_frames=window_frames, **{name: asked[name] for name in settings}
    )
    if context is not None:
        context = prepare_context(context, context_sampling_rate)
    plan = first_plan(models, asked, start_beat)
    for text in plan.said:
        tell(text, None)

    begun = time.perf_counter()  # what is done once for all sessions
    if target_latency is not None:
        block_frames = models.block_frames_for(
            target_latency, plan.num_inference_steps, plan.guidance_scale, window_frames
        )
        plan = dataclasses.replace(plan, asked={**plan.asked, "block_frames": block_frames})
    models.warm_up(min(first_block_frames or plan.block_frames, plan.block_frames))
    started += time.perf_counter() - begun

    return LiveSession(
        models, plan, window_frames=window_frames, first_block_frames=first_block_frames, overlap=overlap,
        context=context, started=started,
    )  # fmt: skip


class SessionsMixin:
    """The pipeline's methods about sessions beside `live`."""

    def live_group(self) -> SessionGroup:
        """Sessions that join and leave at any time, their blocks made in one batch."""
        return SessionGroup(self.models, self.live)

    def resume_live(self, source: str | os.PathLike | bytes, *, overlap: bool | None = None) -> LiveSession:
        """The session that `session.save(path)` wrote or `session.to_bytes()` gave; it plays on as that one does.

        To the bit on the same kind of device, in the same type. Statistics start anew.

        Raises:
            FileNotFoundError: no such file. ValueError: no session, cut short, damaged, of a newer version of
            the format, of other models than this pipeline's, or such as none of its sessions saves.
        """
        return load_session(self.models, source, overlap=overlap)

    def warm_up(self, block_frames: int | None = None) -> None:
        """Make a block and throw it away, if none of this size was made yet, so that no listener waits for
        what a first block costs: tables, kernels that are chosen or compiled. `live` calls it."""
        self.models.warm_up(block_frames)

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
        return self.models.block_frames_for(
            target_latency, num_inference_steps, guidance_scale, window_frames
        )

