"""
Weights that a model looks at in their file, and that are in memory only while it does.

Models are published in 16 bits and compute in float32, so that loaded weights lie in memory twice as large as in their
file, beside those that OpenVINO has laid out for itself and plays from. Here a model's weights are written to disk once
in float32, beside the kept graphs and under the same rules (`kept_graphs`), and mapped the next time: they are
ordinary weights, which may be trained and written to, and what nobody looks at takes no memory.

A mapping is private: what is written goes to memory of the process's own, never to the file. Whoever has looked at many
weights and is done says so by `forget`, which takes the pages out of memory that are as the file has them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import mmap
import os
import struct
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from .files import graphs_folder, keep_latest, whole_or_not_at_all

_WORTH_MAPPING = 10_000_000  # weights; fewer take less memory than what else comes and goes
_MOST = 6  # files; those that were used least recently go first
_SUFFIX = ".float32"
_ALIGNMENT = 64  # bytes; see `aligned_weights`
_LAYOUT = b"1"  # of the file: another one is looked for by another name
_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "BOOL": torch.bool}
# Of a page in /proc/self/pagemap (Linux, admin-guide/mm/pagemap): it is there, it is swapped, it is a file's.
_PRESENT, _SWAPPED, _OF_A_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))

_mapped: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()  # by where they lie


def mapped_weights(folder: Path) -> dict[str, torch.Tensor] | None:
    """
    The weights of a model's folder in float32, each in its place in a file beside the kept graphs, which is written
    first if it is not there. Flags are read.

    `None` where they have to be loaded as ever: few weights, several files, NaN or infinite values, other types, no
    folder for graphs, no room in it, or a system whose mappings cannot let go.
    """
    kept, source = graphs_folder(), folder / "model.safetensors"
    if kept is None or not hasattr(mmap, "MADV_DONTNEED") or not source.is_file():
        return None
    try:
        tensors = _tensors(source)
        if sum(tensor.size for tensor in tensors) < _WORTH_MAPPING:
            return None
        starts = _starts(tensors)
        path = kept / f"{_digest(source)}{_SUFFIX}"
        if not path.is_file() or path.stat().st_size != starts[-1]:
            _write(source, path, tensors)
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), starts[-1], access=mmap.ACCESS_COPY)
        with suppress(OSError):  # a folder that others keep
            os.utime(path)
        _mapped[torch.frombuffer(content, dtype=torch.uint8).data_ptr()] = content
        return {tensor.name: _placed(tensor, content, start) for tensor, start in zip(tensors, starts)}
    except (OSError, ValueError, LookupError, TypeError, struct.error):  # told where they are loaded as ever
        return None


def _placed(tensor: _Tensor, content: mmap.mmap, start: int) -> torch.Tensor:
    flags = tensor.dtype == torch.bool
    dtype = torch.bool if flags else torch.float32
    weight = torch.frombuffer(content, dtype=dtype, count=tensor.size, offset=start).view(tensor.shape)
    return weight.clone() if flags else weight


def forget(weights: Iterable[torch.Tensor], least: int = 0) -> None:
    """
    Take mapped weights, and what lies between them, out of memory, until somebody looks at them again: no value
    changes. Where one of them was written to, or they are not mapped, nothing happens.

    Args:
        least: Bytes; where there are fewer, they are left in memory.
    """
    for content, address, start, stop in _places(weights):
        if stop - start >= least and not _was_written(start, stop):
            content.madvise(mmap.MADV_DONTNEED, start - address, stop - start)


def are_untouched(weights: Iterable[torch.Tensor]) -> bool:
    """Whether all of these are mapped and as their file has them, which is told without a look at them; False where the
    system does not tell."""
    weights = list(weights)
    places = _places(weights)
    inside = all(any(start <= each.data_ptr() < stop for *_, start, stop in places) for each in weights)
    return inside and not any(_was_written(start, stop) for *_, start, stop in places)


def _places(weights: Iterable[torch.Tensor]) -> list[tuple[mmap.mmap, int, int, int]]:
    """Each mapping in which some of the weights lie, its address, and those of whole pages from the first of these
    weights to the last."""
    mappings = list(_mapped.items())
    if not mappings:
        return []
    places: dict[int, tuple[mmap.mmap, int, int, int]] = {}
    page = mmap.PAGESIZE
    for weight in weights:
        if weight.device.type != "cpu" or not weight.numel():
            continue
        first = weight.data_ptr()
        start, stop = first // page * page, -(-(first + weight.nbytes) // page) * page
        for address, content in mappings:
            if address <= first < address + len(content):
                *_, low, high = places.get(address, (start, stop))
                places[address] = content, address, min(start, low), max(stop, high)
    return list(places.values())


def _was_written(start: int, stop: int) -> bool:
    """Whether there are pages among these that are the process's own; True where the system does not tell."""
    count = (stop - start) // mmap.PAGESIZE
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as table:
            table.seek(start // mmap.PAGESIZE * 8)
            pages = np.frombuffer(table.read(8 * count), np.uint64)
    except OSError:
        return True
    somewhere = pages & (_PRESENT | _SWAPPED) != 0
    return len(pages) < count or bool((somewhere & (pages & _OF_A_FILE == 0)).any())


@dataclass(frozen=True)
class _Tensor:
    """One of a safetensors file."""

    name: str
    dtype: torch.dtype
    shape: list[int]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def _tensors(source: Path) -> list[_Tensor]:
    """Those of a safetensors file, in their order; KeyError where one is of another type."""
    with source.open("rb") as file:
        header = json.loads(file.read(_header_length(file)))
    header.pop("__metadata__", None)
    entries = sorted(header.items(), key=lambda entry: entry[1]["data_offsets"])
    return [_Tensor(name, _TYPES[entry["dtype"]], entry["shape"]) for name, entry in entries]


def _header_length(file: BinaryIO) -> int:
    return struct.unpack("<Q", file.read(8))[0]


def _starts(tensors: list[_Tensor]) -> list[int]:
    """Where each tensor starts in the file of float32, in bytes, and where the file ends."""
    lengths = (-(-4 * tensor.size // _ALIGNMENT) * _ALIGNMENT for tensor in tensors)
    return list(itertools.accumulate(lengths, initial=0))


def _digest(source: Path) -> str:
    with source.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, lambda: hashlib.sha256(_LAYOUT)).hexdigest()[:40]


def _write(source: Path, path: Path, tensors: list[_Tensor]) -> None:
    """Write the float32 file of a safetensors file; ValueError where a value is not finite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_not_at_all(path) as part, source.open("rb") as saved, part.open("wb") as file:
        saved.seek(_header_length(saved), os.SEEK_CUR)
        for tensor, start in zip(tensors, _starts(tensors)):
            # read, and not mapped: what is looked at through a mapping counts as memory
            weight = torch.frombuffer(bytearray(saved.read(tensor.size * tensor.dtype.itemsize)), dtype=tensor.dtype)
            if weight.dtype != torch.bool:
                weight = weight.float()
                if not weight.isfinite().all():
                    raise ValueError(f"{tensor.name} has values that are not finite")
            file.seek(start)
            file.write(weight.numpy())
        file.truncate(_starts(tensors)[-1])
        file.flush()
        os.fsync(file.fileno())  # nobody looks again whether it is whole
    keep_latest(path.parent, _SUFFIX, _MOST)


__all__ = ["are_untouched", "forget", "mapped_weights"]
