"""Batches by their number: what each holds is a pure function of the seed, so that a restart repeats and skips none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def step_rng(seed: int, *key: int) -> np.random.Generator:
    """The random generator that belongs to (seed, step, ...), the same whenever it is asked for."""
    return np.random.default_rng([seed, *key])


class EpochOrder:
    """Every one of `size` samples once an epoch, each epoch in an order of its own.

    A pure function of the seed and of how many samples came before, so that a restart, or other processes, neither
    repeat nor skip one.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f"an epoch of {size} samples: there must be one at least")
        self.size, self.seed = size, seed
        self._epoch, self._order = -1, np.zeros(0, dtype=int)

    def __getitem__(self, place: int) -> int:
        """The sample at `place`, counted from the beginning of the run over all epochs."""
        epoch, within = divmod(place, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, step_rng(self.seed, epoch, 2).permutation(self.size)
        return int(self._order[within])


class StepDataset(torch.utils.data.Dataset):
    """Micro-batches by their number, so that workers, processes and resumed runs make the same ones."""

    def __init__(self, make_batch: Callable[[np.random.Generator], Any], seed: int) -> None:
        self.make_batch, self.seed = make_batch, seed

    def __getitem__(self, number: int) -> Any:
        rng = step_rng(self.seed, number, 0)
        numbered = getattr(self.make_batch, "numbered", None)
        return self.make_batch(rng) if numbered is None else numbered(number, rng)


__all__ = ["EpochOrder", "StepDataset", "step_rng"]
