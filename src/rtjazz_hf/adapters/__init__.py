"""Adapters, personal styles of a few megabytes: training them, their files, and playing with them.

To train one: `attach_adapter`, then `save_adapter`. To play with one: `RealTimeJazzPipeline.load_lora_weights`.
"""

from ..hub.adapter_folder import adapter_name_of, adapter_root, find_adapter
from .bank import MAX_STRENGTH, AdapterBank, Mix, adapted_transformer
from .base import base_fingerprint, check_base
from .files import Adapter, adapter_of_state_dict, read_adapter
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
    "ATTENTION_TARGETS",
    "MAX_STRENGTH",
    "Adapter",
    "AdapterBank",
    "AdapterMixin",
    "Mix",
    "adapted_transformer",
    "adapter_name_of",
    "adapter_of_state_dict",
    "adapter_parameters",
    "adapter_root",
    "add_lora",
    "attach_adapter",
    "base_fingerprint",
    "call_style",
    "check_base",
    "detach_adapters",
    "find_adapter",
    "is_attached",
    "read_adapter",
    "save_adapter",
    "split_style",
]  # fmt: skip
