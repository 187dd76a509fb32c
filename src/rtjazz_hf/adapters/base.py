"""The base of an adapter: how it is known, and whether an adapter was made for it."""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..flow.sharing import without_compiler
from .files import Adapter

if TYPE_CHECKING:
    from ..flow import RealTimeJazzFlowTransformer

_SAMPLED = 64  # values of a weight that the fingerprint looks at


def base_fingerprint(transformer: RealTimeJazzFlowTransformer) -> str:
    """32 hexadecimal digits that tell the base of an adapter from other trained models of the same shape.

    Of the weights outside the layers, which no quantisation and no adapter on attention or MLP touches, at 16
    bits: a base in another type, in 4 bits, or with an adapter attached has the same.
    """
    transformer = without_compiler(transformer)
    digest = hashlib.sha256(f"{_shape_of(transformer)}".encode())
    for name, tensor in sorted(
        (n.replace(".base_layer.", "."), t) for n, t in transformer.state_dict().items()
    ):
        if name.startswith("layers.") or "lora_" in name or not tensor.is_floating_point():
            continue
        flat = tensor.detach().flatten()
        values = flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(values.to(torch.bfloat16).cpu().view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()[:32]


def _shape_of(transformer: RealTimeJazzFlowTransformer) -> tuple:
    config = transformer.config
    return config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads


def check_base(
    adapter: Adapter, transformer: RealTimeJazzFlowTransformer, base_name: str, strict: bool
) -> None:
    """Refuse an adapter that was not made for this transformer.

    Raises:
        ValueError: a layer that is not there or of another shape; or, if `strict`, another base by fingerprint, or,
            where the adapter has none, by name.
    """
    transformer = without_compiler(transformer)
    asked = adapter.config.get("base_model_name_or_path") or "an unnamed base"
    modules = dict(transformer.named_modules())
    for name, layer in adapter.layers.items():
        module = modules.get(name)
        if not isinstance(module, nn.Linear):
            raise ValueError(
                f"the adapter changes the layer {name!r}, which {base_name} does not have: it was made for {asked}; "
                "load it on that"
            )
        given, wanted = (layer.up.shape[0], layer.down.shape[1]), (module.out_features, module.in_features)
        if given != wanted:
            raise ValueError(
                f"the adapter's layer {name!r} is {given[0]} x {given[1]}, that of {base_name} is "
                f"{wanted[0]} x {wanted[1]}: it was made for {asked}; load it on that"
            )
    _warn_of_missing(adapter, transformer)
    width = transformer.config.style_dim
    if adapter.style is not None and adapter.style.shape != (width,):
        raise ValueError(
            f"the adapter's style embedding has shape {tuple(adapter.style.shape)}, {base_name} takes ({width},): "
            f"it was made for {asked}; load it on that"
        )
    if not strict:
        return
    recorded = (adapter.config.get("auto_mapping") or {}).get("base_fingerprint")
    advice = f"load it on {asked}, or give check_base=False to try it here (the shapes fit)"
    if recorded is not None and recorded != base_fingerprint(transformer):
        same = " under the same name" if asked == base_name else ""
        raise ValueError(
            f"the adapter was trained on {asked}, whose weights are not those of {base_name}: another model"
            f"{same}; {advice}"
        )
    kind = (adapter.config.get("auto_mapping") or {}).get("base_model_class")
    if kind not in (None, type(transformer).__name__):
        raise ValueError(f"the adapter was trained on a {kind}, this is a {type(transformer).__name__}; {advice}")
    if recorded is None and not _same_base(asked, transformer, base_name):
        warnings.warn(
            f"the adapter does not tell which weights it was trained on (it names {asked}); its layers fit those of "
            f"{base_name}: it is played as trained on that. Save it with save_lora_weights and it tells",
            stacklevel=4,
        )


def _same_base(asked: str, transformer: RealTimeJazzFlowTransformer, base_name: str) -> bool:
    """Whether an adapter names this base: by its name, or by the place of the pipeline or the transformer."""
    return asked in (base_name, Path(base_name).name, getattr(transformer, "name_or_path", None))


def _warn_of_missing(adapter: Adapter, transformer: RealTimeJazzFlowTransformer) -> None:
    """Name the layers that an adapter's config says it changes, and whose tensors its file lacks."""
    config = adapter.config
    targets, excluded = config.get("target_modules"), config.get("exclude_modules") or ()
    if not targets or targets == "all-linear" or config.get("layers_to_transform") is not None:
        return

    def fits(name: str, rule: Any) -> bool:
        if isinstance(rule, str):
            return re.fullmatch(rule, name) is not None
        return any(name == end or name.endswith(f".{end}") for end in rule)

    try:
        missing = [
            name for name, module in transformer.named_modules()
            if isinstance(module, nn.Linear) and fits(name, targets) and not (excluded and fits(name, excluded))
            and name not in adapter.layers
        ]  # fmt: skip
    except (re.error, TypeError):
        return
    if missing:
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        warnings.warn(
            f"the adapter's file lacks {len(missing)} of the {len(missing) + len(adapter.layers)} layers that its "
            f"config names ({shown}): these play as the base does. Fetch or save it again if that is not meant",
            stacklevel=4,
        )


__all__ = ["base_fingerprint", "check_base"]
