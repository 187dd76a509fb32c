"""Adapters: personal styles of a few megabytes, in PEFT's format, for the flow transformer.

An adapter is a folder: `adapter_config.json` and `adapter_model.safetensors` as PEFT writes them (LoRA,
arXiv:2106.09685; DoRA, arXiv:2402.09353), and, if a style was learnt too, `style_embedding.safetensors`. The
config's `auto_mapping` tells the fingerprint of the base it was trained on. Nothing pickled is ever read.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..hub.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PICKLES, STYLE_EMBEDDING, refused_pickle
from ..music.vocabulary import canonical_instruments
from ..runtime.files import whole_or_not_at_all

if TYPE_CHECKING:
    from ..flow import RealTimeJazzFlowTransformer

MAX_RANK = 256
PREFIX = "base_model.model."  # PEFT's, of every tensor name
_SAMPLED = 64  # values of a weight that the fingerprint looks at
# Features of PEFT's LoRA that change more than a layer's weight, and what they must be here.
_PLAIN = {"bias": ("none",), "modules_to_save": (None, []), "layer_replication": (None,), "lora_bias": (False, None),
          "fan_in_fan_out": (False, None), "trainable_token_indices": (None,), "target_parameters": (None, []),
          "use_qalora": (False, None), "alora_invocation_tokens": (None,)}  # fmt: skip
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # that leave the base's weights as they are


class LowRank(NamedTuple):
    """What an adapter does to one layer: `down` (rank, in), `up` (out, rank), and DoRA's `magnitude` (out,)."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None = None

    def change(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight's change (out, in), float32, on the weight's device, at full strength."""
        down, up = (each.to(weight.device, torch.float32) for each in (self.down, self.up))
        change = self.scale * (up @ down)
        if self.magnitude is None:
            return change
        whole = weight.float() + change
        magnitude = self.magnitude.to(weight.device, torch.float32)
        return magnitude[:, None] / whole.norm(dim=1, keepdim=True) * whole - weight.float()


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter as it was read.

    Attributes:
        layers: what it does, by the name of the transformer's layer.
        config: `adapter_config.json`.
        style: its learnt style embedding `(style_dim,)` of unit length, or None; style_name: what
            "in the style of <name>" calls it by.
        band: who plays in that style where nobody says otherwise, names as in `INSTRUMENTS`.
    """

    layers: Mapping[str, LowRank]
    config: Mapping[str, Any]
    style: torch.Tensor | None = None
    style_name: str | None = None
    band: tuple[str, ...] = ()

    @property
    def uses_dora(self) -> bool:
        return any(layer.magnitude is not None for layer in self.layers.values())

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell this adapter from others of its name."""
        digest = hashlib.sha256()
        for name, layer in sorted(self.layers.items()):
            digest.update(f"{name} {layer.scale}".encode())
            for tensor in layer:
                if isinstance(tensor, torch.Tensor):
                    digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors under PEFT's names."""
        tensors = {}
        for name, layer in self.layers.items():
            tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.down
            tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.up
            if layer.magnitude is not None:
                tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = layer.magnitude
        return tensors

    def save(self, folder: str | Path, base_name: str | None = None) -> None:
        """Write the folder; each file appears whole or not at all."""
        config = dict(self.config)
        if base_name is not None:
            config["base_model_name_or_path"] = base_name
        write_adapter(folder, self.state_dict(), config, self.style, self.style_name, self.band)


# -- the base ------------------------------------------------------------------------------------------------
def base_fingerprint(transformer: RealTimeJazzFlowTransformer) -> str:
    """32 hexadecimal digits that tell the base of an adapter from other trained models of the same shape.

    Of the weights outside the layers, which no quantisation and no adapter on attention or MLP touches, at 16
    bits: a base in another type, in 4 bits, or with an adapter attached has the same.
    """
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
    if recorded is None and adapter.config.get("base_model_name_or_path"):
        names = [Path(name).name for name in (asked, base_name)]
        if names[0] != names[1]:
            raise ValueError(f"the adapter names the base {asked}, this is {base_name}; {advice}")


# -- reading -------------------------------------------------------------------------------------------------
def read_adapter(folder: str | Path) -> Adapter:
    """Read an adapter's folder, and refuse what is not one.

    Raises:
        OSError: a file is missing. ValueError: a pickle, a damaged file, a kind of adapter that cannot be played
            here, or tensors whose ranks are not what the config says.
    """
    folder = Path(folder)
    pickles = [path.name for path in folder.glob("adapter_model*") if path.suffix in PICKLES]
    if pickles:
        raise ValueError(refused_pickle(str(folder / pickles[0])))
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise OSError(f"{folder} is no adapter folder: it has no {name}")
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise ValueError(f"{folder / ADAPTER_CONFIG} is not an adapter's config ({error})") from None
    _check_config(config, folder)
    layers = _layers_of(_read_tensors(folder / ADAPTER_WEIGHTS)[0], config, folder / ADAPTER_WEIGHTS)
    style, style_name, band = None, None, ()
    if (folder / STYLE_EMBEDDING).is_file():
        tensors, header = _read_tensors(folder / STYLE_EMBEDDING)
        style, style_name = tensors.get("style_embedding"), header.get("style_name")
        if style is None or style.ndim != 1 or not style.norm() > 0:
            raise ValueError(f"{folder / STYLE_EMBEDDING} has no vector 'style_embedding'")
        style = F.normalize(style.float(), dim=0)
        try:
            band = canonical_instruments(filter(None, header.get("band", "").split(",")))
        except ValueError as error:
            raise ValueError(f"{folder / STYLE_EMBEDDING}: {error}") from None
    return Adapter(layers, config, style, style_name, band)


def _check_config(config: dict[str, Any], folder: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{folder / ADAPTER_CONFIG} is of peft_type {config.get('peft_type')!r}; choose LORA"
        )
    for name, allowed in _PLAIN.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(
                f"the adapter in {folder} was made with {name}={config[name]!r}; it can be played with "
                f"{name}={allowed[0]!r} only"
            )
    if config.get("init_lora_weights", True) not in _STARTS:
        raise ValueError(
            f"the adapter in {folder} was made with init_lora_weights={config['init_lora_weights']!r}, which changed "
            "its base; save it with PEFT's path_initial_model_for_weight_conversion"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise ValueError(f"the adapter in {folder} has rank r={rank!r}; choose 1 to {MAX_RANK}")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f"the adapter in {folder} has lora_alpha={alpha!r}; it must be a number")
    if not isinstance(config.get("auto_mapping") or {}, dict):
        raise ValueError(
            f"the adapter in {folder} has auto_mapping={config['auto_mapping']!r}; it must be an object"
        )
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        good = isinstance(pattern, dict) and all(
            re.fullmatch(r"\^?[\w.]+", key) and type(value) in (int, float) for key, value in pattern.items()
        )
        if not good:
            raise ValueError(
                f"the adapter in {folder} has {name}={pattern!r}; it must give layers' names numbers"
            )


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            # copies: the file is mapped, and may be written over while the adapter is loaded
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a safetensors file, or is cut short ({error}); fetch it again"
        ) from error
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{path} holds NaN or infinite values in {broken[0]}; train the adapter again")
    return tensors, header


def _layers_of(tensors: dict[str, torch.Tensor], config: dict[str, Any], path: Path) -> dict[str, LowRank]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(
            r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(\.weight)?", key.removeprefix(PREFIX)
        )
        if match is None:
            raise ValueError(f"{path} holds {key!r}, which is no part of a LoRA adapter of linear layers")
        parts.setdefault(match[1], {})[match[2]] = tensor
    if not parts:
        raise ValueError(f"{path} holds no layers")
    layers = {}
    for name, part in parts.items():
        down, up = part.get("lora_A"), part.get("lora_B")
        rank = _pattern(config.get("rank_pattern"), name, config["r"])
        alpha = _pattern(config.get("alpha_pattern"), name, config["lora_alpha"])
        shapes = [None if each is None else tuple(each.shape) for each in (down, up)]
        if any(shape is None or len(shape) != 2 for shape in shapes) or down.shape[0] != up.shape[1]:
            raise ValueError(f"{path}: lora_A and lora_B of {name!r} are {shapes[0]} and {shapes[1]}")
        if down.shape[0] != rank:
            raise ValueError(
                f"{path}: the layer {name!r} has rank {down.shape[0]}, {ADAPTER_CONFIG} says {rank}: the two files "
                "do not belong together; save or fetch the adapter again"
            )
        magnitude = part.get("lora_magnitude_vector")
        if bool(config.get("use_dora")) != (magnitude is not None):
            raise ValueError(
                f"{path}: {name!r} and use_dora={config.get('use_dora')!r} do not belong together"
            )
        if magnitude is not None and magnitude.shape != up.shape[:1]:
            raise ValueError(f"{path}: the magnitude of {name!r} has shape {tuple(magnitude.shape)}")
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        layers[name] = LowRank(down, up, scale, magnitude)
    return layers


def _pattern(pattern: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """What a config says of the layer `name`, if it names it or the end of its name."""
    for key, value in (pattern or {}).items():
        if name == key.removeprefix("^") or name.endswith(f".{key}"):
            return value
    return default


# -- writing -------------------------------------------------------------------------------------------------
def write_adapter(
    folder: str | Path,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    style: torch.Tensor | None,
    style_name: str | None,
    band: Sequence[str] = (),
) -> None:
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder for the adapter")
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with whole_or_not_at_all(folder / ADAPTER_WEIGHTS) as partial:
        save_file(plain, partial, metadata={"format": "pt"})
    if style is not None:
        vector = F.normalize(style.detach().float().flatten(), dim=0).cpu()
        told = {"style_name": style_name, "band": ",".join(band)}
        header = {"format": "pt", **{name: value for name, value in told.items() if value}}
        with whole_or_not_at_all(folder / STYLE_EMBEDDING) as partial:
            save_file({"style_embedding": vector}, partial, metadata=header)
    else:
        (folder / STYLE_EMBEDDING).unlink(missing_ok=True)  # an older adapter's
    with whole_or_not_at_all(folder / ADAPTER_CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2, sort_keys=True, default=_as_json), encoding="utf-8")


def _as_json(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.value if isinstance(value, enum.Enum) else str(value)


__all__ = [
    "Adapter",
    "LowRank",
    "base_fingerprint",
    "check_base",
    "read_adapter",
    "write_adapter",
]
