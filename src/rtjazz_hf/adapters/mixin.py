"""The pipeline's adapter methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..flow.sharing import without_compiler
from ..hub.adapter_folder import find_adapter
from .bank import AdapterBank, Mix, check_mixable, is_quantized
from .base import check_base
from .blending import COMBINATIONS, weighted_adapter
from .files import PREFIX, Adapter, adapter_of_state_dict, read_adapter
from .training import is_attached, save_adapter

if TYPE_CHECKING:
    from ..flow import RealTimeJazzFlowTransformer


class AdapterMixin:
    """The adapter methods of `RealTimeJazzPipeline`; named and called as diffusers' are.

    Live sessions hold the mix that they were started or last updated with: what follows changes what calls and
    new sessions play. Strengths are from -2 to 2: 0 is not heard, 1 as trained, below 0 away from it.
    """

    transformer: RealTimeJazzFlowTransformer
    _adapters: AdapterBank

    @property
    def _base_name(self) -> str:
        return str(self.config.get("_name_or_path") or "this pipeline")

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Any:
        """Another pipeline with the same models, as diffusers makes it; adapters that are loaded go with it.

        Raises:
            ValueError: they are fused, or another transformer is given and they were not made for it.
        """
        bank = getattr(pipeline, "_adapters", None)
        if bank is not None and bank.fused:
            raise ValueError("adapters are fused: unfuse_lora before another pipeline is made of this one")
        made = super().from_pipe(pipeline, **kwargs)
        if bank is not None and isinstance(made, AdapterMixin):
            for name, adapter in bank.adapters.items():
                made._add_adapter(name, adapter, made.transformer is not pipeline.transformer)
            made._adapters.active, made._adapters.enabled = bank.active, bank.enabled
        return made

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, torch.Tensor],
        adapter_name: str | None = None,
        *,
        subfolder: str | None = None,
        weight_name: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        check_base: bool = True,
        hotswap: bool = False,
    ) -> str:
        """Load an adapter from a folder or the Hub and make it the active one, at strength 1; its name.

        Args:
            pretrained_model_name_or_path_or_dict: a folder (that `rtjazz adapt`, `save_lora_weights`, PEFT or
                diffusers wrote), a Hub id, or a state dict under PEFT's or diffusers' names.
            subfolder, weight_name: where in it the adapter lies, if it is not to be found without: the one folder
                inside that holds an adapter is.
            adapter_name: "default_0", "default_1", ... unless given.
            check_base: False takes an adapter of another base (such as a fine-tune of it) whose shapes fit.
            hotswap: put it in the place of the one that has this name.

        Raises:
            OSError: not found or not reachable. ValueError: a pickle, a damaged or unusable adapter, one of another
                base, rank or shape, or a name that is taken.
        """
        if adapter_name is None:
            adapter_name = next(
                name for n in range(10**6) if (name := f"default_{n}") not in self._adapters.adapters
            )
        self._check_new_name(adapter_name, hotswap)
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, Mapping):
            adapter = adapter_of_state_dict(source)
        else:
            path = Path(source).expanduser()
            if path.is_file() and path.suffix == ".safetensors" and weight_name is None:
                source, weight_name = path.parent, path.name
            folder = find_adapter(source, revision, token, cache_dir, local_files_only, subfolder, weight_name)
            adapter = read_adapter(folder, weight_name)
        self._add_adapter(adapter_name, adapter, check_base, hotswap)
        return adapter_name

    def _check_new_name(self, name: str, hotswap: bool = False) -> None:
        if not isinstance(name, str) or not name.strip() or "." in name:
            raise ValueError(f"adapter_name {name!r}: give a name without dots")
        if hotswap:
            self._adapters.check_names([name])
            if name in self.fused_loras:
                raise ValueError(f"adapter {name!r} is fused: unfuse_lora before another takes its place")
        elif name in self._adapters.adapters:
            raise ValueError(
                f"an adapter {name!r} is loaded already: give another adapter_name or hotswap=True, or "
                f"delete_adapters({name!r}) first"
            )

    def _add_adapter(self, name: str, adapter: Adapter, strict: bool, hotswap: bool = False) -> None:
        bank = self._adapters
        base = bank.fused[1] if bank.fused else self.transformer
        check_mixable(without_compiler(base))
        check_base(adapter, base, self._base_name, strict)
        before = dict(bank.adapters)
        bank.adapters[name] = adapter
        try:
            bank.model(self.transformer, ((name, 1.0),))  # so that a session swaps to it at once
        except BaseException:
            bank.adapters = before
            raise
        if not hotswap:  # else it is as active as the one before it
            bank.active = ((name, 1.0),)

    def lora_state_dict(self, adapter_name: str | None = None) -> dict[str, torch.Tensor]:
        """The tensors of a loaded adapter, under PEFT's names, and each layer's alpha: `load_lora_weights` takes it."""
        adapter = self._adapters.adapters[self._one_adapter(adapter_name)]
        alphas = {
            f"{PREFIX}{name}.alpha": torch.tensor(layer.scale * layer.down.shape[0])
            for name, layer in adapter.layers.items()
        }
        return adapter.state_dict() | alphas

    def save_lora_weights(
        self,
        save_directory: str | Path,
        adapter_name: str | None = None,
        *,
        transformer_lora_layers: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Write an adapter as a folder that `load_lora_weights` and PEFT read: a loaded one, or one in training.

        Args:
            transformer_lora_layers: tensors to write instead, as `peft.get_peft_model_state_dict` gives them; they do
                not tell their alpha, which is then their rank. A name from training writes the alpha too.

        Raises:
            ValueError: no such adapter, or no name where there are several.
        """
        name = self._base_name if self.config.get("_name_or_path") else None
        if transformer_lora_layers is not None:
            adapter_of_state_dict(transformer_lora_layers).save(save_directory, name)
            return
        attached = list(getattr(self.transformer, "peft_config", {})) if is_attached(self.transformer) else []
        if attached and (adapter_name in attached or (adapter_name is None and len(attached) == 1)):
            save_adapter(self.transformer, save_directory, adapter_name or attached[0], base_name=name)
            return
        adapter = self._adapters.adapters[self._one_adapter(adapter_name)]
        known = adapter.config.get("base_model_name_or_path")
        adapter.save(save_directory, None if known else name)

    def _one_adapter(self, name: str | None) -> str:
        names = list(self._adapters.adapters)
        if name is None:
            if len(names) != 1:
                raise ValueError(
                    f"adapter_name: choose from {', '.join(names) or 'none, as no adapter is loaded'}"
                )
            return names[0]
        self._adapters.check_names([name])
        return name

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Make these adapters the active ones, at these strengths (1 by default; one for all, or one each).

        Raises:
            ValueError: an adapter that is not loaded, or a strength that is not from -2 to 2.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = 1.0 if adapter_weights is None else adapter_weights
        weights = list(weights) if isinstance(weights, (list, tuple)) else [weights] * len(names)
        if len(weights) != len(names) or len(set(names)) != len(names):
            raise ValueError(
                f"{len(weights)} strengths for the adapters {', '.join(names)}: give each adapter once, and one "
                "strength, or one for each"
            )
        mix = self._adapters.mix(dict(zip(names, weights)))
        self._adapters.model(self.transformer, mix)
        self._adapters.active, self._adapters.enabled = mix, True

    def get_active_adapters(self) -> list[str]:
        """Names of the adapters that calls and new sessions play."""
        return [name for name, _ in self.active_mix]

    @property
    def active_mix(self) -> Mix:
        """The active adapters and their strengths; one that is fused is heard without being active."""
        return self._adapters.active_mix

    def list_adapters(self) -> list[str]:
        """Names of all that are loaded."""
        return list(self._adapters.adapters)

    def get_list_adapters(self) -> dict[str, list[str]]:
        """As diffusers gives it: by component."""
        return {"transformer": self.list_adapters()}

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "cat",
        svd_rank: int | None = None,
    ) -> None:
        """Make one adapter, which can be saved, of several: the sum of their changes by weight.

        Args:
            weights: any numbers. combination_type: "cat", exact, whose rank is the sum of theirs; or "svd", the
                nearest of rank `svd_rank` (by default the largest of theirs).

        Raises:
            ValueError: naming the argument, its value and what is allowed. DoRA adapters have no such sum.
        """
        self._check_new_name(adapter_name)
        self._adapters.check_names(adapters)
        good = all(isinstance(w, (int, float)) and math.isfinite(w) for w in weights)
        if not adapters or len(adapters) != len(weights) or not good:
            raise ValueError(f"weights {weights!r} for adapters {adapters!r}: give one number for each")
        if combination_type not in COMBINATIONS:
            raise ValueError(f"combination_type {combination_type!r}: choose from {', '.join(COMBINATIONS)}")
        parts = [self._adapters.adapters[name] for name in adapters]
        if any(part.uses_dora for part in parts):
            raise ValueError("a DoRA adapter cannot be summed into another: blend it with set_adapters")
        before = self._adapters.active
        self._add_adapter(
            adapter_name, weighted_adapter(parts, weights, combination_type, svd_rank), strict=False
        )
        self._adapters.active = before

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Unload adapters; a session that plays one goes on with it until it is updated.

        Raises:
            ValueError: one that is not loaded, or is fused.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        bank = self._adapters
        bank.check_names(names)
        if fused := [name for name, _ in (bank.fused[0] if bank.fused else ()) if name in names]:
            raise ValueError(f"adapter {', '.join(map(repr, fused))} is fused: unfuse_lora first")
        for name in names:
            bank.adapters.pop(name, None)
        bank.active = tuple(pair for pair in bank.active if pair[0] not in names)
        bank.forget(names)

    def unload_lora_weights(self) -> None:
        """Unload all adapters. What was fused stays in the weights for good, as in diffusers: unfuse first if it
        is not to."""
        bank = self._adapters
        names, bank.adapters, bank.active, bank.fused = list(bank.adapters), {}, (), None
        bank.forget(names)

    def enable_lora(self) -> None:
        """Play the active adapters again."""
        self._adapters.enabled = True

    def disable_lora(self) -> None:
        """Play without adapters; which ones are active is kept."""
        self._adapters.enabled = False

    def fuse_lora(
        self,
        components: Sequence[str] = ("transformer",),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
    ) -> None:
        """Put the active adapters (or those of `adapter_names`, at strength 1) into the transformer's own weights.

        The pipeline gets another transformer, which can be saved; `unfuse_lora` gives it back the one it had, to
        the bit. Sessions go on with what they play.

        Args:
            components: of diffusers: the transformer. safe_fusing: of diffusers: refuse what is not finite, which is
                done in any case.

        Raises:
            ValueError: nothing to fuse, fused already, or quantised weights, which cannot take it.
        """
        _check_components(components)
        bank = self._adapters
        if bank.fused:
            raise ValueError("adapters are fused already: unfuse_lora first")
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        mix = bank.mix(dict(self.active_mix) if names is None else dict.fromkeys(names, 1.0), lora_scale)
        if not mix:
            raise ValueError("no adapter is active: load_lora_weights or set_adapters first")
        if any(isinstance(m, nn.Linear) and is_quantized(m) for m in self.transformer.modules()):
            raise ValueError(
                "quantised weights cannot take an adapter: fuse it into the whole ones, then quantise"
            )
        before, after = self.transformer, bank.model(self.transformer, mix)
        if not all(bool(parameter.isfinite().all()) for parameter in after.parameters()):
            raise ValueError(
                f"the weights with {', '.join(name for name, _ in mix)} in them are not finite in {before.dtype}: use "
                "less strength, or another dtype"
            )
        self.transformer = after
        bank.fused = (mix, before)
        bank.forget(self.list_adapters())

    @property
    def fused_loras(self) -> set[str]:
        """Names of the adapters that are in the transformer's own weights."""
        return {name for name, _ in self._adapters.fused[0]} if self._adapters.fused else set()

    @property
    def num_fused_loras(self) -> int:
        return len(self.fused_loras)

    def set_lora_device(self, adapter_names: Sequence[str], device: torch.device | str | int) -> None:
        """Of diffusers, to save a GPU's memory. Here adapters lie in the CPU's memory, and what plays lies with the
        transformer: names and device are checked, and nothing has to be moved."""
        self._adapters.check_names([adapter_names] if isinstance(adapter_names, str) else list(adapter_names))
        torch.device(device)

    def enable_lora_hotswap(self, **kwargs: Any) -> None:
        """Of diffusers, before the first adapter. Here every swap is hot, whatever the ranks: nothing has to be
        prepared."""

    def unfuse_lora(self, components: Sequence[str] = ("transformer",)) -> None:
        """Undo `fuse_lora`: the weights are those from before, to the bit.

        Raises:
            ValueError: nothing is fused.
        """
        _check_components(components)
        bank = self._adapters
        if not bank.fused:
            raise ValueError("no adapter is fused")
        (_, before), bank.fused = bank.fused, None
        self.transformer = before.to(self.transformer.device, self.transformer.dtype)
        bank.forget(self.list_adapters())

    # -- for calls and sessions ------------------------------------------------------------------------------
    def adapter_mix(self, adapter: str | Mapping[str, float] | None, scale: float = 1.0) -> Mix:
        """What a listener asks for, checked; see `AdapterBank.mix`."""
        return self._adapters.mix(adapter, scale)

    def transformer_for(self, mix: Mix) -> RealTimeJazzFlowTransformer:
        """The transformer that plays a mix of adapters; the pipeline's own for an empty one."""
        return self._adapters.model(self.transformer, mix)

    def _check_saveable(self) -> None:
        fused = dict(self._adapters.fused[0]) if self._adapters.fused else {}
        left = [name for name in self._adapters.adapters if name not in fused]
        if left:
            raise ValueError(
                f"adapter {', '.join(map(repr, left))} is loaded and would not be in the folder: fuse_lora or "
                "unload_lora_weights before the pipeline is saved, and save the adapter on its own with "
                "save_lora_weights"
            )


def _check_components(components: Sequence[str]) -> None:
    names = [components] if isinstance(components, str) else list(components)
    if names not in ([], ["transformer"]):
        raise ValueError(
            f"components {names}: the transformer alone has adapters; if these are names of adapters, give "
            "adapter_names"
        )


__all__ = ["AdapterMixin"]
