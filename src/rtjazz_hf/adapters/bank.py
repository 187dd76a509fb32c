"""Adapters at play: loaded beside the pipeline, blended at any strength, and heard in whole blocks.

A mix of adapters becomes a transformer of its own: it shares every weight with the base but those of the layers
that the adapters change, which hold base + sum of strength * change. So a block with adapters costs what a block
costs, packed weights included; the base is never written to, and unloading has nothing to undo; every live session
plays its own mix; and a swap is another model for the next block, made before that block begins. Layers in 8 or 4
bits, where a sum would be rounded, keep the change beside them instead, at some cost in time.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..band import PhraseMemory
from ..flow.sharing import shared_copy, without_compiler
from ..runtime.offload import replaced_forward
from ..runtime.packed_linear import weights_stamp
from .files import Adapter, LowRank
from .phrase import call_style, split_style
from .training import is_attached

if TYPE_CHECKING:
    from ..flow import RealTimeJazzFlowTransformer

Mix: TypeAlias = "tuple[tuple[str, float], ...]"  # names and strengths, those of strength 0 left out
MAX_STRENGTH = 2.0  # of an adapter, either way
MAX_MODELS = 4  # mixes that are kept at hand; each holds a second copy of the adapted layers


# -- one mix, one model ------------------------------------------------------------------------------------------
class AdaptedLinear(nn.Module):
    """A quantised layer and the low-rank changes of a mix beside it."""

    def __init__(self, layer: nn.Module, changes: Sequence[tuple[LowRank, float]], dtype: torch.dtype):
        super().__init__()
        device = layer.weight.device
        self.layer = layer
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.down = torch.cat([change.down for change, _ in changes]).to(device, dtype)  # (ranks, in)
        ups = [strength * change.scale * change.up.float() for change, strength in changes]
        self.up = torch.cat(ups, dim=1).to(device, dtype)  # (out, ranks)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        low = F.linear(hidden.to(self.down.dtype), self.down)
        return self.layer(hidden) + F.linear(low, self.up).to(hidden.dtype)


def is_quantized(layer: nn.Module) -> bool:
    return not layer.weight.is_floating_point()


def adapted_transformer(
    transformer: RealTimeJazzFlowTransformer, mix: Sequence[tuple[Adapter, float]]
) -> RealTimeJazzFlowTransformer:
    """A transformer that plays as `transformer` with these adapters at these strengths; it is left as it is.

    Raises:
        ValueError: DoRA on quantised layers.
    """
    changes: dict[str, list[tuple[LowRank, float]]] = {}
    for adapter, strength in mix:
        for name, change in adapter.layers.items():
            changes.setdefault(name, []).append((change, strength))
    with torch.inference_mode(False), torch.no_grad():  # weights made in inference mode cannot be packed
        model, layers = shared_copy(transformer, changes)
        for name, layer in layers.items():
            if is_quantized(layer):
                if any(change.magnitude is not None for change, _ in changes[name]):
                    raise ValueError(
                        "a DoRA adapter rescales whole weights and cannot be played on quantised layers: load the "
                        "base whole, or use a LoRA adapter"
                    )
                parent, _, leaf = name.rpartition(".")
                model.get_submodule(parent)._modules[leaf] = AdaptedLinear(
                    layer, changes[name], transformer.dtype
                )
                continue
            weight = layer.weight.detach()
            merged = weight.float()
            merged = merged + sum(strength * change.change(weight) for change, strength in changes[name])
            layer._parameters["weight"] = nn.Parameter(
                merged.to(weight.dtype), requires_grad=layer.weight.requires_grad
            )
        model.pack_weights()
    return model


def check_mixable(base: nn.Module) -> None:
    """Refuse a transformer whose weights adapters cannot be mixed into: they would be heard in part, or not at all.

    Raises:
        ValueError: saying what stands in the way, and what to do.
    """
    if is_attached(base):
        raise ValueError(
            "an adapter in training is attached to the transformer: save it and detach_adapters(transformer) before "
            "others are loaded or played"
        )
    if hooked := replaced_forward(base):
        raise ValueError(
            f"the transformer is offloaded, or its {hooked} patched: adapters are mixed into whole weights. Load them "
            "and fuse_lora() before it is, or take off what stands on it (pipe.remove_all_hooks()) first"
        )


class _Model(NamedTuple):
    base: RealTimeJazzFlowTransformer
    stamp: tuple  # of the base's weights when it was made
    model: RealTimeJazzFlowTransformer


class AdapterBank:
    """The adapters that a pipeline has loaded, and the models that were made with them.

    Attributes:
        adapters: by name. active: the mix that calls and new sessions play unless told otherwise.
        fused: the mix in the pipeline's own transformer, and the transformer as it was before.
    """

    def __init__(self) -> None:
        self.adapters: dict[str, Adapter] = {}
        self.active: Mix = ()
        self.enabled = True
        self.fused: tuple[Mix, RealTimeJazzFlowTransformer] | None = None
        self._models: OrderedDict[Mix, _Model] = OrderedDict()
        self._lock = threading.Lock()  # a session may be updated while another starts

    def __deepcopy__(self, memo: dict) -> AdapterBank:
        copied = AdapterBank()  # which makes models of its own, of the copied pipeline's transformer
        copied.adapters, copied.active, copied.enabled = dict(self.adapters), self.active, self.enabled
        copied.fused = copy.deepcopy(self.fused, memo)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_models")}

    def __setstate__(self, state: dict[str, Any]) -> None:  # in another process, which makes its own
        vars(self).update(state, _models=OrderedDict(), _lock=threading.Lock())

    def check_names(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self.adapters]
        if unknown:
            raise ValueError(
                f"adapter {', '.join(map(repr, unknown))} is not loaded; loaded: "
                f"{', '.join(map(repr, self.adapters)) or 'none'}; load it with load_lora_weights first"
            )

    def mix(self, adapter: str | Mapping[str, float] | None, scale: float = 1.0) -> Mix:
        """What the listener asks for as a mix: a name, names and strengths, or None for none.

        Raises:
            ValueError: an adapter that is not loaded or is fused, or a strength that is not from -2 to 2.
        """
        if isinstance(adapter, str):
            adapter = {adapter: 1.0}
        elif adapter is None:
            adapter = {}
        if not isinstance(adapter, Mapping) or not all(isinstance(name, str) for name in adapter):
            raise ValueError(
                f"adapter {adapter!r}: give a name, names and strengths such as {{'a': 0.7, 'b': 0.3}}, or None"
            )
        self.check_names(list(adapter))
        scale = _strength(scale, "adapter_scale")
        weights = {
            name: _strength(
                scale * _strength(weight, f"the strength of {name!r}"), f"the strength of {name!r} times adapter_scale"
            )
            for name, weight in adapter.items()
        }
        mix = tuple(sorted((name, weight) for name, weight in weights.items() if weight))
        fused = dict(self.fused[0]) if self.fused else {}
        if twice := [name for name, _ in mix if name in fused]:
            raise ValueError(f"adapter {', '.join(map(repr, twice))} is fused already: unfuse_lora first")
        return mix

    def model(self, base: RealTimeJazzFlowTransformer, mix: Mix) -> RealTimeJazzFlowTransformer:
        """`base` with a mix: made once, and anew when the base's weights are not what they were."""
        if not mix:
            return base
        base = without_compiler(base)
        check_mixable(base)
        with self._lock:
            stamp = self._stamp(base, mix)
            known = self._models.get(mix)
            if known is None or known.base is not base or known.stamp != stamp:
                if base.engine != "torch":
                    warnings.warn(
                        f"torch plays this mix of adapters: {base.engine} has a graph of the base alone",
                        stacklevel=3,
                    )
                model = adapted_transformer(base, [(self.adapters[name], weight) for name, weight in mix])
                self._models[mix] = known = _Model(base, stamp, model)
            self._models.move_to_end(mix)
            while len(self._models) > MAX_MODELS:
                self._models.popitem(last=False)  # those who play it still hold it
            return known.model

    def _stamp(self, base: RealTimeJazzFlowTransformer, mix: Mix) -> tuple:
        """Changes with every weight of the base: when it is moved, trained, or compiled anew."""
        own = tuple(id(self.adapters[name]) for name, _ in mix)
        return own, id(base._denoise_step), tuple(weights_stamp(base))

    def forget(self, names: Sequence[str]) -> None:
        """Let go of the models that were made with these adapters."""
        with self._lock:
            for mix in [mix for mix in self._models if any(name in names for name, _ in mix)]:
                del self._models[mix]

    @property
    def active_mix(self) -> Mix:
        """The active adapters and their strengths; one that is fused is heard without being active."""
        fused = dict(self.fused[0]) if self.fused else {}
        return tuple(pair for pair in self.active if pair[0] not in fused) if self.enabled else ()

    def styled(self) -> dict[str, Adapter]:
        """Adapters with a learnt style, by the names that it is called by."""
        styled = {}
        for name, adapter in self.adapters.items():
            if adapter.style is not None:
                styled[name] = adapter
                styled.setdefault(adapter.style_name or name, adapter)
        return styled

    def called_band(self, words: str) -> tuple[str, tuple[str, ...]]:
        """`words` without the learnt styles that they call, and who plays in the first of these."""
        styled = self.styled()
        rest, called = split_style(words, styled)
        return rest, styled[called[0]].band if called else ()

    def called_phrases(self, words: str) -> PhraseMemory | None:
        """The habits of the players whose learnt styles `words` call, in equal parts; None where none is known."""
        styled = self.styled()
        called = dict.fromkeys(split_style(words, styled)[1])
        heard = [styled[name].phrases for name in called if styled[name].phrases is not None]
        return PhraseMemory.mixed(heard, [1.0] * len(heard))

    def encode_words(
        self, words: str, encode: Callable[[str], torch.Tensor], device: torch.device
    ) -> torch.Tensor:
        """Words to a style embedding `(1, style_dim)`, with the learnt styles that they call."""
        styled = self.styled()
        rest, called = split_style(words, styled)
        if not called:
            return encode(words)
        embedding = encode(rest)[0] if rest else None
        return call_style(embedding, [styled[name].style.to(device) for name in called])[None]


def _strength(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not abs(value) <= MAX_STRENGTH:
        raise ValueError(
            f"{what} is {value!r}: choose a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}; 0 is not heard, 1 as "
            "trained, less than 0 away from it"
        )
    return float(value)


__all__ = [
    "MAX_STRENGTH", "AdaptedLinear", "AdapterBank", "Mix", "adapted_transformer", "check_mixable", "is_quantized",
]  # fmt: skip
