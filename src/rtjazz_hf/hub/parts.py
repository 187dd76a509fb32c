"""Whether parts make a pipeline: their kinds, and whether they were made for each other."""

from __future__ import annotations

import copy
from typing import Any

from ..flow.scheduling_flow_match import check_scheduler
from ..music import LEAD_SHEET_DIM
from ..music.score_features import SCORE_DIM
from .registration import COMPONENTS, MODEL_TYPES


def check_parts(**parts: Any) -> None:
    """Refuse parts that do not make a pipeline; those that are not given are not asked for.

    What wraps a model (`torch.compile`, a `PeftModel`) passes: it plays as the model that it wraps.

    Raises:
        ValueError: naming the part, what was given and what is allowed.
    """
    if lacking := [name for name, part in parts.items() if part is None]:
        raise ValueError(f"{', '.join(lacking)} is None: a pipeline plays with all of {', '.join(COMPONENTS)}")
    for name, part in parts.items():
        wanted = MODEL_TYPES.get(COMPONENTS[name])
        if wanted is not None and getattr(getattr(part, "config", None), "model_type", None) != wanted:
            raise ValueError(
                f"{name} is a {type(part).__name__}: give a {COMPONENTS[name]} (of one that Accelerate or DDP wraps, "
                "what is inside: accelerator.unwrap_model)"
            )
    if "tokenizer" in parts and not callable(parts["tokenizer"]):
        raise ValueError(f"tokenizer is a {type(parts['tokenizer']).__name__}: give a {COMPONENTS['tokenizer']}")
    if "scheduler" in parts:
        check_scheduler(parts["scheduler"])
    if "transformer" in parts:
        _check_made_for(parts["transformer"].config, parts.get("codec"), parts.get("style_encoder"))


def _check_made_for(config: Any, codec: Any, style_encoder: Any) -> None:
    """Whether a transformer of this config plays what the codec, the style encoder and this package speak."""
    if codec is not None:
        # Without the channels of deviations every tone stands on its note.
        sizes = dict.fromkeys((codec.config.latent_dim, codec.config.energy_dim))
        if config.latent_dim not in sizes:
            raise ValueError(
                f"the codec's latents have {' or '.join(map(str, sizes))} channels, the transformer's "
                f"{config.latent_dim}: they were not made for each other"
            )
    if style_encoder is not None and style_encoder.config.projection_dim != config.style_dim:
        raise ValueError(
            f"the style encoder's embeddings have {style_encoder.config.projection_dim} values, the transformer takes "
            f"{config.style_dim}: they were not made for each other"
        )
    if config.lead_sheet_dim != LEAD_SHEET_DIM:
        raise ValueError(
            f"the transformer reads {config.lead_sheet_dim} lead sheet features a frame, "
            f"this version of the package writes {LEAD_SHEET_DIM}"
        )
    if config.score_dim not in (0, SCORE_DIM):
        raise ValueError(
            f"the transformer reads {config.score_dim} score features a frame, this version of the "
            f"package writes {SCORE_DIM}, or none"
        )


def for_the_transformer(quantization_config: Any) -> Any:
    """A `PipelineQuantizationConfig` that names no components as one of the transformer, which alone is quantised."""
    if quantization_config is None or getattr(quantization_config, "components_to_quantize", ()) is not None:
        return quantization_config
    quantization_config = copy.copy(quantization_config)
    if not getattr(quantization_config, "quant_mapping", None):
        quantization_config.components_to_quantize = ["transformer"]
    return quantization_config


__all__ = ["check_parts", "for_the_transformer"]
