"""Checkpoints of a run on disk: which are whole, which is gone on from, which are kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .config import TrainConfig

STATE_FILE = "state.json"
_CHECKPOINT_NAME = re.compile(r"step-(\d{8})")
# What a checkpoint's tensors are of: with another value they do not fit, or mean something else.
_FIXED = ("model", "discriminator", "styles", "rank", "alpha", "targets", "dora", "qlora")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a complete checkpoint says of itself."""
    return json.loads((checkpoint / STATE_FILE).read_text())


def complete_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """The complete checkpoint folders of a run, oldest first; half-written ones are ignored."""
    return sorted(
        folder
        for folder in Path(output_dir, "checkpoints").glob("step-*")
        if _CHECKPOINT_NAME.fullmatch(folder.name) and (folder / STATE_FILE).is_file()
    )


def partial_checkpoint(folder: Path) -> Path:
    """Where a checkpoint lies while it is written, or deleted."""
    return folder.with_name(f".{folder.name}.partial")


def latest_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The newest complete checkpoint folder of a run, or None."""
    return next(reversed(complete_checkpoints(output_dir)), None)


def damaged_files(checkpoint: Path) -> list[str]:
    """The files of a checkpoint that are missing, cut short or changed since it was written, by their checksums."""
    sums = read_state(checkpoint).get("sha256", {})  # older ones have none
    return [name for name, known in sums.items() if file_sum(checkpoint / name) != known]


def file_sum(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def usable_checkpoint(config: TrainConfig) -> Path | None:
    """The newest checkpoint whose files are as they were written; ValueError where it is of another model."""
    if not config.resume:
        return None
    for folder in reversed(complete_checkpoints(config.output_dir)):
        if damaged := damaged_files(folder):
            print(
                f"checkpoint {folder.name} is damaged ({', '.join(damaged)}): passed over",
                file=sys.stderr,
            )
            continue
        before = read_state(folder)["config"]
        now = json.loads(json.dumps(dataclasses.asdict(config)))
        other = [key for key in _FIXED if key in now and key in before and now[key] != before[key]]
        if other:
            told = "; ".join(f"{key} {before[key]!r}, now {now[key]!r}" for key in other)
            raise ValueError(
                f"'{folder}' is of another model ({told}): give another output_dir, or the settings of this one."
            )
        return folder
    return None


def drop_checkpoints(config: TrainConfig) -> None:
    """Delete the checkpoints that are not kept, and what a killed process left of one it wrote or deleted."""
    done = complete_checkpoints(config.output_dir)
    kept = {*done[-max(1, config.keep_checkpoints) :], *_best_checkpoints(config, done)}
    for old in set(done) - kept:  # renamed first: half deleted, it must not stay for ever
        partial = partial_checkpoint(old)
        shutil.rmtree(partial, ignore_errors=True)
        os.replace(old, partial)
    for left in (Path(config.output_dir) / "checkpoints").glob(partial_checkpoint(Path("step-*")).name):
        shutil.rmtree(left, ignore_errors=True)


def _best_checkpoints(config: TrainConfig, done: Sequence[Path]) -> list[Path]:
    """The keep_best of `done` with the lowest best_metric; of two that are equal the older."""
    measured = []
    for folder in done if config.keep_best else ():
        value = read_state(folder).get("metrics", {}).get(config.best_metric)
        if value is not None and np.isfinite(value):
            measured.append((value, folder))
    return [folder for _, folder in sorted(measured)[: config.keep_best]]
