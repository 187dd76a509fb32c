"""Words or a clip to one style embedding."""

from .configuration_realtime_jazz_style import RealTimeJazzStyleEncoderConfig
from .modeling_realtime_jazz_style import (
    RealTimeJazzStyleEncoder,
    StyleEncoderOutput,
    contrastive_loss,
    mix_styles,
)
from .tokenization_realtime_jazz import RealTimeJazzTokenizer, train_tokenizer

__all__ = [
    "RealTimeJazzStyleEncoder",
    "RealTimeJazzStyleEncoderConfig",
    "RealTimeJazzTokenizer",
    "StyleEncoderOutput",
    "contrastive_loss",
    "mix_styles",
    "train_tokenizer",
]
