"""A pipeline's parts in one hand, for whoever works with the models and has no need of the pipeline around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtjazz_hf.codec import RealTimeJazzCodec
    from rtjazz_hf.flow import FlowMatchScheduler, RealTimeJazzFlowTransformer
    from rtjazz_hf.style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer


@dataclass(eq=False)
class Models:
    """The five parts of a pipeline, the settings that it is played with, and where it came from.

    A pipeline has all of these by the same names, and can stand in wherever they are asked for.
    """

    codec: RealTimeJazzCodec
    transformer: RealTimeJazzFlowTransformer
    style_encoder: RealTimeJazzStyleEncoder
    tokenizer: RealTimeJazzTokenizer
    scheduler: FlowMatchScheduler
    generation_defaults: dict[str, Any]
    name_or_path: str | None = None
