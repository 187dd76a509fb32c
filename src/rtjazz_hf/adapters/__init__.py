"""Adapters, personal styles of a few megabytes: training them, their files, and playing with them.

To train one: `attach_adapter`, then `save_adapter`. To play with one: `RealTimeJazzPipeline.load_lora_weights`.
"""

from ..hub.adapter_folder import find_adapter
from .bank import AdapterBank, Mix, adapted_transformer
from .files import Adapter, base_fingerprint, check_base, read_adapter
from .mixin import AdapterMixin
from .phrase import call_style, split_style
from .training import (
    ATTENTION_TARGETS,
    adapter_parameters,
    add_lora,
    attach_adapter,
    detach_adapters,
    is_attached,
    save_adapter,
)

__all__ = [
    "ATTENTION_TARGETS", "Adapter", "AdapterBank", "AdapterMixin", "Mix", "adapted_transformer", "adapter_parameters",
    "add_lora", "attach_adapter", "base_fingerprint", "call_style", "check_base", "detach_adapters", "find_adapter",
    "is_attached", "read_adapter", "save_adapter", "split_style",
]  # fmt: skip
