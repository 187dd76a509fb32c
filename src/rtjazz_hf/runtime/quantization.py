"""Weights in 8 or 4 bits, by bitsandbytes (the `quant` extra): for memory, not for speed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

PRECISIONS = ("int8", "nf4")
_QUANTIZED = re.compile(r"layers\.\d+\.(self_attn|cross_attn|mlp)\.")
_BLOCK = 64  # bitsandbytes' 4-bit blocks and CPU kernels want widths that are multiples of it


def quantization_config(model: PreTrainedModel, precision: str) -> BitsAndBytesConfig:
    """
    How the attention and MLP weights of `model` are held in `precision`: nine tenths of the flow transformer.

    Whatever handles conditions and outputs stays as it is: it is small, it decides much, and bitsandbytes' 8-bit
    product on a CPU takes neither rows of zeros ("no style") nor four axes.

    Args:
        precision: `"int8"` (LLM.int8(), arXiv:2208.07339, without outlier columns), or `"nf4"` with double
            quantisation (QLoRA, arXiv:2305.14314).

    Raises:
        ValueError: Another precision.
        ImportError: bitsandbytes is not installed.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError("8- and 4-bit weights need bitsandbytes: pip install 'rtjazz-hf[quant]'") from error
    from transformers import BitsAndBytesConfig

    kept = kept_whole(model)
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=model.dtype,
        llm_int8_skip_modules=kept,
    )


def kept_whole(model: nn.Module) -> list[str]:
    """The linear layers that are not held in fewer bits, by name."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (not _QUANTIZED.search(name) or module.in_features % _BLOCK or module.out_features % _BLOCK)
    ]


def with_kept_layers(config: Any, build: Callable[[], nn.Module]) -> Any:
    """A quantisation config of a user's, such as `BitsAndBytesConfig(load_in_8bit=True)`, that keeps the layers whole
    which have to stay so; one that names such layers itself, or is of another library, as it is.

    Args:
        build: makes the model, whose weights are of no account.
    """
    if getattr(config, "llm_int8_skip_modules", ()) is not None:
        return config
    config = copy.deepcopy(config)
    with torch.device("meta"):
        config.llm_int8_skip_modules = kept_whole(build())
    return config


@torch.no_grad()
def quantize(model: PreTrainedModel, precision: str) -> PreTrainedModel:
    """
    A copy of `model` whose layers hold 8- or 4-bit weights; it saves and loads as any other.

    It is what `from_pretrained(..., quantization_config=quantization_config(model, precision))` gives.

    Raises:
        ValueError: Another precision, an adapter on the model, or a model that is quantised already.
        ImportError: bitsandbytes is not installed.
    """
    if getattr(model, "is_quantized", False):
        raise ValueError(
            f"this {type(model).__name__} is quantised already; quantise the one that was loaded whole"
        )
    if getattr(model, "_hf_peft_config_loaded", False) or hasattr(model, "peft_config"):
        raise ValueError(
            f"an adapter is attached to this {type(model).__name__}: fuse it or unload it before it is quantised"
        )
    return type(model).from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict=model.state_dict(),
        quantization_config=quantization_config(model, precision),
        dtype=model.dtype,
        device_map={"": model.device},
    )


def quantized_size(model: PreTrainedModel) -> tuple[int, int]:
    """Bytes of the weights of `model` that are quantised, scales and tables included, and how many weights they are."""
    num_bytes = count = 0
    state = model.state_dict()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if type(weight).__name__ not in ("Params4bit", "Int8Params"):
            continue
        count += module.in_features * module.out_features
        own = (
            tensor for key, tensor in state.items() if key.startswith(f"{name}.") and key != f"{name}.bias"
        )
        num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in own)
    return num_bytes, count


__all__ = ["PRECISIONS", "kept_whole", "quantization_config", "quantize", "quantized_size", "with_kept_layers"]
