"""A session's state in a file: one safetensors file, its settings as JSON in the header, nothing pickled."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..audio import check_output_path, whole_or_not_at_all
from ..codec.streaming import StreamingState
from ..flow import FlowCache
from ..music import LeadSheet
from .plan import Plan, check_asked
from .session import LiveSession, standing_still

if TYPE_CHECKING:
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

FORMAT, VERSION = "rtjazz-live-session", 1
SUFFIX = ".safetensors"
_SAMPLED = 64  # values of a weight that its fingerprint looks at


def model_fingerprint(pipe: RealTimeJazzPipeline) -> str:
    """32 hexadecimal digits that tell the models a session's state belongs to from others.

    Of names, shapes and some values, at 16 bits: a model loaded in another type has the same.
    """
    digest = hashlib.sha256()
    for model in (pipe.transformer, pipe.codec):
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().flatten()
            values = flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED]
            digest.update(values.to(torch.bfloat16).cpu().view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()[:32]


def save_session(session: LiveSession, path: str | os.PathLike, overwrite: bool = False) -> None:
    """Write what a session's music depends on; the file appears whole or not at all.

    Waits for a block in the making; the session plays on. Cache, decoder, noise generator, style, lead sheet,
    wishes and counters are in it.

    Raises:
        ValueError: the suffix is not .safetensors. FileExistsError: unless `overwrite`. OSError: as it comes.
    """
    path = check_output_path(path, (SUFFIX,), overwrite)
    tensors: dict[str, torch.Tensor] = {}
    with standing_still(session) as stream:
        with session._lock:
            plan, largest = session._plan, session._largest
        cache = stream.cache.state_dict()
        adapters = _adapter_fingerprints(session.pipe, plan.asked)
        tensors.update({f"cache.{name}": value for name, value in cache.items() if torch.is_tensor(value)})
        for name, tensor in _flattened(stream.decoder_state):
            tensors[f"decoder.{name}"] = tensor
        tensors["generator"] = session._generator.get_state()
        tensors["style"] = plan.style
        settings = {
            "frame": session._frame,
            "largest_block": largest,
            "window_frames": session.window_frames,
            "seeds": session._seeds,
            "plan_seeds": plan.seeds,
            "lead_sheet": plan.lead_sheet.to_dict(),
            "asked": _asked_as_json(plan.asked, tensors),
            "cache": {name: value for name, value in cache.items() if not torch.is_tensor(value)},
        }
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    settings["model"] = model_fingerprint(session.pipe)
    settings["adapters"] = adapters
    header = {"format": FORMAT, "version": str(VERSION), "session": json.dumps(settings)}
    with whole_or_not_at_all(path) as partial:
        save_file(tensors, partial, metadata=header)


def load_session(pipe: RealTimeJazzPipeline, path: str | os.PathLike, **options: Any) -> LiveSession:
    """The session that `save_session` wrote, on the models of `pipe`; `options` go to `LiveSession`.

    It plays on as the saved one does: to the bit on the same kind of device, in the same type, with the same
    version of torch.

    Raises:
        FileNotFoundError, OSError: as it comes. ValueError: no session's file, cut short, damaged, of a newer
        version of the format, or of other models.
    """
    tensors, settings = _read(path)
    if settings.get("model") != model_fingerprint(pipe):
        raise ValueError(
            f"the session in '{path}' was played by other models than those of this pipeline: load the "
            "pipeline that it was saved with"
        )
    for name, fingerprint in settings.get("adapters", {}).items():
        if _adapter_fingerprints(pipe, {"adapter": name}).get(name) != fingerprint:
            raise ValueError(
                f"the session in '{path}' plays the adapter {name!r}, and it, as it was, is not loaded: load it under "
                "that name with load_lora_weights first"
            )
    try:
        return _restored(pipe, tensors, settings, options)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the session in '{path}' does not load: {error!r}") from error


def _read(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no session file '{path}'.")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"'{path}' holds no live session; give a file that `session.save` wrote")
            version = header.get("version", "")
            if not version.isdigit() or int(version) > VERSION:
                raise ValueError(
                    f"the session in '{path}' is of format version {version or 'none'}, this package reads up to "
                    f"{VERSION}: update rtjazz-hf"
                )
            settings = json.loads(header["session"])
            # copies: the file is mapped, and its tensors are not aligned as a session's own are
            return {name: file.get_tensor(name).clone() for name in file.keys()}, settings  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"the session in '{path}' is damaged or cut short: {error}") from error


def _restored(
    pipe: RealTimeJazzPipeline, tensors: dict[str, torch.Tensor], settings: dict[str, Any], options: dict
) -> LiveSession:
    device, dtype = pipe._execution_device, pipe.transformer.dtype
    asked = _asked_from_json(settings["asked"], tensors)
    mix = pipe.adapter_mix(asked.get("adapter"), asked.get("adapter_scale", 1.0))
    plan = Plan(
        asked=asked,
        style=tensors["style"].to(device),
        lead_sheet=LeadSheet.from_dict(settings["lead_sheet"]),
        transformer=pipe.transformer_for(mix),
        seeds=settings["plan_seeds"],
    )
    check_asked(pipe, plan.asked)
    session = LiveSession(pipe, plan, window_frames=settings["window_frames"], **options)
    state: dict[str, Any] = {
        name.removeprefix("cache."): tensor for name, tensor in tensors.items() if name.startswith("cache.")
    }
    for name in ("keys", "values"):
        state[name] = state[name].to(device, dtype)
    stream = session.stream
    stream.cache = FlowCache.from_state_dict({**state, **settings["cache"]})
    stream.decoder_state = _unflattened(tensors, "decoder.", pipe)
    session._generator.set_state(tensors["generator"])
    session._seeds = settings["seeds"]
    session._frame = session._effect_frame = int(settings["frame"])
    session._largest = settings["largest_block"]
    return session


def _adapter_fingerprints(pipe: RealTimeJazzPipeline, asked: dict[str, Any]) -> dict[str, str]:
    adapter = asked.get("adapter") or {}
    names = [adapter] if isinstance(adapter, str) else adapter
    loaded = pipe._adapters.adapters  # one that was deleted since cannot be told from another of its name
    return {name: loaded[name].fingerprint if name in loaded else "" for name in names}


# -- parts ---------------------------------------------------------------------------------------------------
def _flattened(state: StreamingState | None, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    pairs = []
    for name, entry in state.entries.items() if state is not None else ():
        if isinstance(entry, StreamingState):
            pairs += _flattened(entry, f"{prefix}{name}/")
        else:
            pairs.append((prefix + name, entry))
    return pairs


def _unflattened(
    tensors: dict[str, torch.Tensor], prefix: str, pipe: RealTimeJazzPipeline
) -> StreamingState | None:
    root = StreamingState()
    for full, tensor in tensors.items():
        if not full.startswith(prefix):
            continue
        *path, name = full.removeprefix(prefix).split("/")
        state = root
        for part in path:
            state = state.entries.setdefault(part, StreamingState())
        state[name] = tensor.to(pipe._execution_device)
    return root if len(root) else None


def _asked_as_json(asked: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Wishes in JSON's types; clips of the prompt go to `tensors`."""
    from ..prompts import mix_of  # which imports this room's constants

    written = {}
    for name, value in asked.items():
        if name == "prompt":
            value = []
            for part, weight in mix_of(asked["prompt"]):
                if not isinstance(part, str):
                    key = f"prompt.{len(value)}"
                    tensors[key], part = part, None
                value.append([part, weight])
        elif name == "lead_sheet":
            value = value.to_dict()
        elif isinstance(value, np.generic):
            value = value.item()
        elif name != "adapter" and not isinstance(value, (str, int, float)):
            value = list(value)
        written[name] = value
    return written


def _asked_from_json(written: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    asked = dict(written)
    asked["prompt"] = tuple(
        (tensors[f"prompt.{index}"] if part is None else part, weight)
        for index, (part, weight) in enumerate(written["prompt"])
    )
    if "lead_sheet" in asked:
        asked["lead_sheet"] = LeadSheet.from_dict(asked["lead_sheet"])
    return asked
