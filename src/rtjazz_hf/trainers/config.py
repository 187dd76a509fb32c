"""The settings of a training script, read from YAML and the command line, and its learning rate."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import importlib
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..runtime.files import in_words, is_disk_full

SCHEDULES = ("constant", "cosine", "wsd")

# How `rtjazz adapt` and training/configs/lora_mini.yaml (`preset: personal`) train beside what the class says: within
# an hour of two CPU cores, which see the end of neither 1,500 steps nor their schedule.
PERSONAL_SETTINGS = {"learning_rate": 1e-3, "warmup_steps": 20, "max_steps": 1500, "max_minutes": 50.0,
                     "decay_by": "minutes", "save_every": 100, "sample_every": 500}  # fmt: skip
PRESETS = {"personal": PERSONAL_SETTINGS}  # what a file's `preset` may name


@dataclass
class TrainConfig:
    """Settings shared by all training scripts. Steps are of the optimizer; minutes, of this call."""

    output_dir: str = ""
    seed: int = 0
    max_steps: int = 1000
    max_minutes: float | None = None  # stop, save and end cleanly after this long
    learning_rate: float = 3e-4
    warmup_steps: int = 100
    schedule: str = "cosine"  # constant, cosine, or wsd (warm up, stay, decay linearly)
    decay_fraction: float = 0.2  # of wsd: how much of the run decays
    decay_by: str = "steps"  # "minutes": the schedule ends at max_minutes instead (not repeatable to the bit)
    min_learning_rate_ratio: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999  # 0 turns it off
    mixed_precision: str = "bf16"  # no, bf16 (fast on CPUs with AVX-512; else it becomes no), fp16 (CUDA)
    gradient_accumulation_steps: int = 1
    num_workers: int = 0
    log_every: int = 10
    save_every: int = 500
    sample_every: int = 0
    keep_checkpoints: int = 2  # the newest
    keep_best: int = 0  # and so many with the lowest best_metric, of those logged
    best_metric: str = "val_true"
    resume: bool = True
    init_from: str | None = None
    wandb: bool = False  # W&B beside TensorBoard, kept in output_dir unless WANDB_MODE=online

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError(
                "output_dir is missing: give --output-dir, the folder for checkpoints, logs and the model."
            )
        for name in ("max_steps", "learning_rate", "gradient_accumulation_steps", "log_every", "save_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}.")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes must be greater than 0, got {self.max_minutes}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}.")
        if self.decay_by not in ("steps", "minutes"):
            raise ValueError(f"decay_by must be steps or minutes, got {self.decay_by!r}.")
        if self.decay_by == "minutes" and self.max_minutes is None:
            raise ValueError("decay_by: minutes needs max_minutes.")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"mixed_precision must be no, bf16 or fp16, got {self.mixed_precision!r}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}.")


@dataclass
class EvaluatedTrainConfig(TrainConfig):
    """Settings of trainings that can be evaluated on the way (`trainers.evaluation`)."""

    evaluate_every: int = 0  # steps between two evaluations on held-out takes; 0: none
    evaluate_takes: int = 4
    evaluate_seconds: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate_takes < 1 or not self.evaluate_seconds > 0:
            raise ValueError(
                f"evaluate_takes {self.evaluate_takes} and evaluate_seconds {self.evaluate_seconds}: give one take at "
                "least and more than 0 seconds."
            )


ConfigT = TypeVar("ConfigT", bound=TrainConfig)


def load_config(
    config_class: type[ConfigT], path: str | os.PathLike | None, overrides: dict[str, Any]
) -> ConfigT:
    """Build a config dataclass from a YAML file (or none) and overrides; dicts in both are merged key by key.

    Raises FileNotFoundError, and ValueError that names unknown keys (with the nearest allowed name) and wrong
    types.
    """
    values: dict[str, Any] = {}
    if path is not None:
        yaml = import_train_extra("yaml")
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no config file '{path}'.")
        try:
            values = yaml.safe_load(Path(path).read_text()) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"'{path}' is not valid YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"'{path}' must hold key: value pairs, got {type(values).__name__}.")
        if "preset" in values:
            values = _with_preset(values, path)
    hints = typing.get_type_hints(config_class)
    for key, value in overrides.items():
        if hints.get(key) is dict:
            value = _coerce(key, value, dict)
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            value = {**values[key], **value}
        values[key] = value
    allowed = {field.name for field in dataclasses.fields(config_class)}
    unknown = sorted(set(map(str, values)) - allowed)
    if unknown:
        named = [
            f"{key} (did you mean {close[0]}?)"
            if (close := difflib.get_close_matches(key, allowed, 1))
            else key
            for key in unknown
        ]
        where = f" in '{path}'" if path is not None else ""
        raise ValueError(
            f"unknown settings{where}: {', '.join(named)}. Allowed: {', '.join(sorted(allowed))}."
        )
    return config_class(**{key: _coerce(key, value, hints[key]) for key, value in values.items()})


def _with_preset(values: dict[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """The settings that `preset` names, under those that stand beside it."""
    name = values.pop("preset")
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} in '{path}': choose from {', '.join(PRESETS)}.")
    return {**PRESETS[name], **values}


def parse_config(
    config_class: type[ConfigT],
    name: str,
    config_dir: str | os.PathLike,
    description: str | None = None,
    argv: Sequence[str] | None = None,
) -> ConfigT:
    """Read the command line of a training script: `--config mini` means `config_dir/{name}_mini.yaml`.

    Every field of the dataclass is an option (`--learning-rate 1e-4`, `--no-resume`, `--model '{num_layers:
    2}'`) and wins over the file. Exits with status 2 and a message for bad input, as argparse does.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", help=f"mini, base, or the path of a YAML file; names are of {name}_*.yaml"
    )
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        option = "--" + field.name.replace("_", "-")
        if hints[field.name] is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        else:
            default = "" if field.default in (dataclasses.MISSING, "", None) else f"default {field.default}"
            parser.add_argument(option, default=argparse.SUPPRESS, help=default, metavar="VALUE")
    overrides = vars(parser.parse_args(argv))
    path = overrides.pop("config")
    if path is not None and not path.endswith((".yaml", ".yml")):
        path = Path(config_dir) / f"{name}_{path}.yaml"
    try:
        return load_config(config_class, path, overrides)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


def build_config(make_config: Callable[..., Any], values: dict[str, Any]) -> Any:
    """A model's config from the `model` setting of a script; transformers would take a misspelt key as it is.

    Args:
        make_config: a config class, or a maker of one (`RealTimeJazzStyleEncoderConfig.mini`).

    Raises ValueError that names unknown keys, with the nearest that exists, and what a config finds wrong.
    """
    from huggingface_hub.errors import StrictDataclassError

    allowed = make_config().to_dict()
    if unknown := sorted(set(values) - set(allowed)):
        close = difflib.get_close_matches(unknown[0], allowed, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"unknown keys of model: {', '.join(unknown)}{hint}.")
    try:
        return make_config(**values)
    except (StrictDataclassError, TypeError) as error:
        raise ValueError(f"model: {error}") from error


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """For the part of a script that opens what it was given: what is wrong with that ends it with one line and
    status 2, as a wrong option does; a disk that takes no more, with status 1."""
    try:
        yield
    except (OSError, ValueError) as error:
        _end(error, 1 if is_disk_full(error) else 2)


def disk_errors(main: Callable[..., Any]) -> Callable[..., Any]:
    """For a script's `main`: where a disk takes no more it ends with one line and status 1, whenever that is. The same
    command then goes on from what is there."""

    @functools.wraps(main)
    def guarded(*args: Any, **named: Any) -> Any:
        try:
            return main(*args, **named)
        except OSError as error:
            if not is_disk_full(error):
                raise
            _end(error, 1)

    return guarded


def _end(error: Exception, status: int) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: error: {in_words(error)}", file=sys.stderr)
    raise SystemExit(status) from None


def learning_rate_factor(step: int, config: TrainConfig, progress: float | None = None) -> float:
    """The share of the peak learning rate at `step` (0 = first): linear warm-up, then the config's schedule.

    A pure function, so a resumed run needs no scheduler state. `progress` in [0, 1] replaces step /
    max_steps.
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = min(1.0, step / config.max_steps if progress is None else progress)
    low = config.min_learning_rate_ratio
    if config.schedule == "cosine":
        factor = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "wsd":
        factor = 1 - (1 - low) * max(0.0, progress - (1 - config.decay_fraction)) / max(
            config.decay_fraction, 1e-9
        )
    else:
        factor = 1.0
    return warmup * factor


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """Turn a YAML or command-line value into the field's type; ValueError that names the key."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        if types.NoneType in options:
            return None
        raise ValueError(f"{key} may not be empty.")
    kind = next(option for option in options if option is not types.NoneType)
    origin = typing.get_origin(kind) or kind
    try:
        if origin is bool:
            if not isinstance(value, bool):
                raise ValueError
            return value
        if origin in (int, float):
            if isinstance(value, bool) or (origin is int and float(value) != int(float(value))):
                raise ValueError
            number = origin(float(value))  # YAML 1.1 reads 1e-4 as a string
            if not math.isfinite(number):
                raise ValueError
            return number
        if origin in (dict, list, tuple):
            value = import_train_extra("yaml").safe_load(value) if isinstance(value, str) else value
            if isinstance(value, dict) != (origin is dict) or isinstance(value, str):
                raise ValueError
            return origin(value)
        return str(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{key} must be of type {origin.__name__}, got {value!r}.") from error


def import_train_extra(name: str, extra: str = "train") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is not installed; run: pip install 'rtjazz-hf[{extra}]'") from error
