"""Adapters: personal styles of a few megabytes, in PEFT's format, for the flow transformer.

An adapter is a folder: `adapter_config.json` and `adapter_model.safetensors` as PEFT writes them (LoRA,
arXiv:2106.09685; DoRA, arXiv:2402.09353), and, if a style was learnt too, `style_embedding.safetensors`. The
config's `auto_mapping` tells the fingerprint of the base it was trained on. `phrases.json`, if the player's notes were
heard, holds their habits as counts (`band.PhraseMemory`). Nothing pickled is ever read.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..band import PhraseMemory
from ..hub.adapter_folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    DIFFUSERS_WEIGHTS,
    PHRASES,
    PICKLES,
    STYLE_EMBEDDING,
    adapter_root,
    refused_pickle,
)
from ..music.vocabulary import canonical_instruments
from ..runtime.files import whole_or_not_at_all

MAX_RANK = 256
_MOST_PHRASES = 64 * 1024  # bytes; a memory takes less than one of these
PREFIX = "base_model.model."  # PEFT's, of every tensor name
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
        phrases: the player's habits, to which the band's solos lean in that style; None where nobody heard them.
    """

    layers: Mapping[str, LowRank]
    config: Mapping[str, Any]
    style: torch.Tensor | None = None
    style_name: str | None = None
    band: tuple[str, ...] = ()
    phrases: PhraseMemory | None = None

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
        root = math.sqrt if self.config.get("use_rslora") else float
        told = {n: (each.down.shape[0], each.scale * root(each.down.shape[0])) for n, each in self.layers.items()}
        config = exact_patterns(self.config, told)
        if base_name is not None:
            config["base_model_name_or_path"] = base_name
        write_adapter(folder, self.state_dict(), config, self.style, self.style_name, self.band, self.phrases)


# -- reading -------------------------------------------------------------------------------------------------
def read_adapter(folder: str | Path, weight_name: str | None = None) -> Adapter:
    """Read an adapter's folder, and refuse what is not one.

    Args:
        folder: what holds the adapter; see `hub.adapter_folder.adapter_root`.
        weight_name: of its file, if not PEFT's or diffusers'. A file without a config beside it is read as diffusers
            writes and reads it: see `adapter_of_state_dict`.

    Raises:
        OSError: a file is missing. ValueError: a pickle, a damaged file, a kind of adapter that cannot be played
            here, or tensors whose ranks are not what the config says.
    """
    folder = adapter_root(folder)
    alone = folder / (weight_name or DIFFUSERS_WEIGHTS)
    if alone.is_file() and not (folder / ADAPTER_CONFIG).is_file():
        tensors, header = _read_tensors(alone)
        return adapter_of_state_dict(tensors, _config_of_header(header), alone)
    pickles = [path.name for path in folder.glob("adapter_model*") if path.suffix in PICKLES]
    if pickles:
        raise ValueError(refused_pickle(str(folder / pickles[0])))
    weights = weight_name or ADAPTER_WEIGHTS
    for name in (ADAPTER_CONFIG, weights):
        if not (folder / name).is_file():
            raise OSError(f"{folder} is no adapter folder: it has no {name}")
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise ValueError(f"{folder / ADAPTER_CONFIG} is not an adapter's config ({error})") from None
    _check_config(config, folder)
    layers = _layers_of(_read_tensors(folder / weights)[0], config, folder / weights)
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
    return Adapter(layers, config, style, style_name, band, _read_phrases(folder / PHRASES))


def _read_phrases(path: Path) -> PhraseMemory | None:
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MOST_PHRASES:
            raise ValueError(f"it has {path.stat().st_size} bytes: at most {_MOST_PHRASES} are read")
        return PhraseMemory.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (RecursionError, ValueError) as error:
        raise ValueError(
            f"{path} is not a player's phrase memory ({error}); fetch it again, or remove it: the adapter plays without"
        ) from None


def adapter_of_state_dict(
    tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None, source: str | Path = "the state dict"
) -> Adapter:
    """An adapter of tensors alone, under PEFT's names or diffusers' (`transformer.<layer>.lora_A.weight`).

    A layer's rank is its tensors'; its alpha that of `config` or of its own `<layer>.alpha`, and where neither says
    it the rank, as in diffusers: full strength as the tensors are.

    Raises:
        ValueError: tensors that are no LoRA of linear layers, or are not finite.
    """
    parts, alphas = {}, {}
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{source}: give tensors by name, such as {{'<layer>.lora_A.weight': ...}}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{source} holds NaN or infinite values in {key}; train the adapter again")
        name = key.removeprefix("transformer.").removeprefix(PREFIX)
        if name.endswith(".alpha"):
            alphas[name.removesuffix(".alpha")] = float(tensor)
        else:
            parts[name] = tensor
    ranks = {n.rpartition(".lora_A")[0]: t.shape[0] for n, t in parts.items() if ".lora_A" in n and t.ndim == 2}
    if not ranks:
        raise ValueError(f"{source} holds no layers of a LoRA adapter, '<layer>.lora_A.weight' and '.lora_B.weight'")
    dora = any(n.endswith((".lora_magnitude_vector", ".lora_magnitude_vector.weight")) for n in parts)
    most = max(ranks.values())
    given = {"peft_type": "LORA", "r": most, "lora_alpha": most, "use_dora": dora, **(config or {})}
    told = {}
    for name, rank in ranks.items():
        default = _pattern(given.get("alpha_pattern"), name, given["lora_alpha"] if config else rank)
        told[name] = rank, alphas.get(name, default)
    given = {**exact_patterns(given, told), "target_modules": sorted(ranks)}
    _check_config(given, Path(source))
    return Adapter(_layers_of(parts, given, Path(source)), given)


def _config_of_header(header: Mapping[str, str]) -> dict[str, Any] | None:
    """The LoRA config that diffusers writes into a file of weights, if it is there."""
    try:
        told = json.loads(header.get("lora_adapter_metadata", "null"))
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    return {key.removeprefix("transformer."): value for key, value in told.items()} or None


def exact_patterns(config: Mapping[str, Any], told: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """`config` with a rank and an alpha of its own for every layer that has others than the config's.

    PEFT takes the first key of a pattern that fits, and sorts the keys when it saves: of two that fit a layer, another
    is the first when it loads. A layer's whole name fits that layer alone.

    Args:
        told: rank and alpha that each layer was trained with.
    """
    ranks = {name: rank for name, (rank, _) in told.items() if rank != config.get("r")}
    alphas = {
        name: alpha for name, (_, alpha) in told.items()
        if not math.isclose(alpha, config.get("lora_alpha") or 0, rel_tol=1e-6)
    }  # fmt: skip
    return {**config, "rank_pattern": ranks, "alpha_pattern": alphas}


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
    whole = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if whole:
        raise ValueError(f"{path} holds whole numbers in {whole[0]}; an adapter is of float16, bfloat16 or float32")
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
    layers, unsure = {}, []
    for name, part in parts.items():
        down, up = part.get("lora_A"), part.get("lora_B")
        allowed = _fitting(config.get("rank_pattern"), name) or [config["r"]]
        alphas = _fitting(config.get("alpha_pattern"), name) or [config["lora_alpha"]]
        shapes = [None if each is None else tuple(each.shape) for each in (down, up)]
        if any(shape is None or len(shape) != 2 for shape in shapes) or down.shape[0] != up.shape[1]:
            raise ValueError(f"{path}: lora_A and lora_B of {name!r} are {shapes[0]} and {shapes[1]}")
        rank, alpha = down.shape[0], alphas[0]
        if rank not in allowed:  # of patterns that overlap, the tensors tell which one counted
            raise ValueError(
                f"{path}: the layer {name!r} has rank {rank}, {ADAPTER_CONFIG} says {allowed[0]}: the two files "
                "do not belong together; save or fetch the adapter again"
            )
        if len(set(alphas)) > 1:
            unsure.append(f"{name} ({' or '.join(f'{each:g}' for each in alphas)})")
        magnitude = part.get("lora_magnitude_vector")
        if bool(config.get("use_dora")) != (magnitude is not None):
            raise ValueError(
                f"{path}: {name!r} and use_dora={config.get('use_dora')!r} do not belong together"
            )
        if magnitude is not None and magnitude.shape != up.shape[:1]:
            raise ValueError(f"{path}: the magnitude of {name!r} has shape {tuple(magnitude.shape)}")
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        layers[name] = LowRank(down, up, scale, magnitude)
    if unsure:
        warnings.warn(
            f"{path}: the alpha_pattern beside it gives several alphas for {', '.join(unsure[:3])}"
            f"{', ...' if len(unsure) > 3 else ''}, and PEFT sorts them when it saves: the first is taken, and may not "
            "be what was trained. Save it anew from training with save_adapter, or with keys of one layer each",
            stacklevel=5,
        )
    return layers


def _fitting(pattern: Mapping[str, Any] | None, name: str) -> list[Any]:
    """What a config says of the layer `name`, or of the end of its name, the first said first."""
    return [v for k, v in (pattern or {}).items() if name == k.removeprefix("^") or name.endswith(f".{k}")]


def _pattern(pattern: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    return next(iter(_fitting(pattern, name)), default)


# -- writing -------------------------------------------------------------------------------------------------
def write_adapter(
    folder: str | Path,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    style: torch.Tensor | None,
    style_name: str | None,
    band: Sequence[str] = (),
    phrases: PhraseMemory | None = None,
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
    if phrases is not None:
        with whole_or_not_at_all(folder / PHRASES) as partial:
            partial.write_text(json.dumps(phrases.to_dict(), indent=1), encoding="utf-8")
    else:
        (folder / PHRASES).unlink(missing_ok=True)  # an older adapter's
    with whole_or_not_at_all(folder / ADAPTER_CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2, default=_as_json), encoding="utf-8")


def _as_json(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.value if isinstance(value, enum.Enum) else str(value)


__all__ = [
    "Adapter",
    "LowRank",
    "adapter_of_state_dict",
    "exact_patterns",
    "read_adapter",
    "write_adapter",
]
