"""How a live session begins: its wishes checked, its first plan made, the machine warmed up."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from ..band.parts import tell
from ..prompts import BLOCK_SIZES
from .context import prepare_context
from .plan import first_plan
from .session import LiveSession

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
