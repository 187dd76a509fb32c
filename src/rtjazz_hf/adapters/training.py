"""Adapters in training: on the transformer's own layers, by PEFT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .base import base_fingerprint
from .files import MAX_RANK, PREFIX, exact_patterns, write_adapter

if TYPE_CHECKING:
    from ..band import PhraseMemory
    from ..flow import RealTimeJazzFlowTransformer

ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def attach_adapter(
    transformer: RealTimeJazzFlowTransformer,
    *,
    rank: int = 8,
    alpha: float = 16,
    targets: Sequence[str] | str = ATTENTION_TARGETS,
    use_dora: bool = False,
    dropout: float = 0.0,
    adapter_name: str = "default",
    **options: Any,
) -> RealTimeJazzFlowTransformer:
    """Put a fresh trainable adapter on `transformer` and freeze everything else; it plays as before until trained.

    Args:
        targets: ends of names of linear layers. options: further ones of `peft.LoraConfig`.

    Raises:
        ValueError: a rank, alpha or dropout that cannot be, or targets that the transformer does not have.
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("training an adapter needs peft: pip install 'rtjazz-hf[train]'") from error

    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise ValueError(f"rank {rank!r}: choose a whole number from 1 to {MAX_RANK}")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha {alpha!r}: choose a number above 0")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout!r}: choose 0 or more and less than 1")
    targets = [targets] if isinstance(targets, str) else list(targets)
    linears = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in linears)]
    if missing or not targets:
        ends = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
        raise ValueError(f"targets {', '.join(missing) or 'none'}: choose from {ends}")
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=targets, use_dora=use_dora, lora_dropout=dropout,
        auto_mapping=_auto_mapping(transformer), **options,
    )  # fmt: skip
    transformer.add_adapter(config, adapter_name)
    return transformer


add_lora = attach_adapter


def _auto_mapping(transformer: RealTimeJazzFlowTransformer) -> dict[str, str]:
    kind = type(transformer)
    return {
        "base_model_class": kind.__name__,
        "parent_library": kind.__module__,
        "base_fingerprint": base_fingerprint(transformer),
    }


def is_attached(transformer: nn.Module) -> bool:
    """Whether PEFT's layers are in the model, as `attach_adapter` puts them there."""
    return bool(getattr(transformer, "_hf_peft_config_loaded", False) or hasattr(transformer, "peft_config"))


def detach_adapters(transformer: RealTimeJazzFlowTransformer) -> RealTimeJazzFlowTransformer:
    """Undo `attach_adapter`: the model and its weights as they were, all trainable. What was not saved is lost."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, leaf = name.rpartition(".")
            setattr(transformer.get_submodule(parent), leaf, module.get_base_layer())
    transformer.__dict__.pop("peft_config", None)
    transformer._hf_peft_config_loaded = False
    for parameter in transformer.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return transformer


def adapter_parameters(
    transformer: nn.Module, show: Callable[[str], Any] | None = print
) -> list[nn.Parameter]:
    """The trainable parameters, for an optimizer; `show` is told how many they are, and what share of all."""
    trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    total = sum(math.prod(_whole_shape(parameter)) for parameter in transformer.parameters())
    count = sum(parameter.numel() for parameter in trainable)
    if show is not None:
        show(f"trainable: {count:,} of {total:,} parameters ({100 * count / total:.2f}%)")
    return trainable


def _whole_shape(parameter: nn.Parameter) -> Iterable[int]:
    state = getattr(parameter, "quant_state", None)  # of bitsandbytes' 4 bits, two in a byte
    return parameter.shape if state is None else state.shape


def save_adapter(
    transformer: RealTimeJazzFlowTransformer,
    folder: str | Path,
    adapter_name: str = "default",
    *,
    base_name: str | None = None,
    style_embedding: torch.Tensor | None = None,
    style_name: str | None = None,
    band: Sequence[str] = (),
    phrases: PhraseMemory | None = None,
) -> None:
    """Write an attached adapter as a folder that `load_lora_weights` reads, and PEFT too.

    Args:
        base_name: bundled name, Hub id or folder of the pipeline that it was trained on.
        style_embedding: `(style_dim,)`, learnt beside it; `style_name`: what "in the style of <name>" calls it by;
        `band`: who plays in that style where nobody says otherwise, names as in `INSTRUMENTS`.
        phrases: the player's habits, to which the band's solos lean in that style.

    Raises:
        ValueError: no such adapter is attached.
    """
    configs = getattr(transformer, "peft_config", {})
    if adapter_name not in configs:
        raise ValueError(
            f"adapter {adapter_name!r} is not attached; attached: {', '.join(configs) or 'none'}"
        )
    from peft import get_peft_model_state_dict

    # no embedding layers: PEFT would look for the base's vocabulary on the Hub
    tensors = get_peft_model_state_dict(transformer, adapter_name=adapter_name, save_embedding_layers=False)
    trained = {
        name.replace(".base_layer", ""): (module.r[adapter_name], module.lora_alpha[adapter_name])
        for name, module in transformer.named_modules()
        if adapter_name in getattr(module, "lora_A", ())
    }
    config = {**exact_patterns(configs[adapter_name].to_dict(), trained), "inference_mode": True}
    config["base_model_name_or_path"] = base_name or config.get("base_model_name_or_path")
    config["auto_mapping"] = _auto_mapping(transformer)
    write_adapter(folder, {PREFIX + name.removeprefix(PREFIX): t for name, t in tensors.items()}, config,
           style_embedding, style_name, band, phrases)  # fmt: skip


__all__ = [
    "ATTENTION_TARGETS", "adapter_parameters", "add_lora", "attach_adapter", "detach_adapters", "is_attached",
    "save_adapter",
]  # fmt: skip
