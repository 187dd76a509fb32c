"""
Graphs that OpenVINO has made stay on disk, since one takes 2 s of the processor to make and a fifth to read.

They lie beside what huggingface_hub keeps (`HF_HOME`/rtjazz-graphs, `RTJAZZ_GRAPHS` names another folder, and an empty
one keeps none). A name holds all that a graph hangs on: weights and settings of the model, this package's code, the
versions of OpenVINO and torch, the processor, number type and threads. What cannot be read or is not whole is made
again; what cannot be written is not kept, and nobody hears of either.

A file is mapped, not read: OpenVINO takes its constants from where they lie, so they are in memory once for all
processes, and only while somebody looks at them. So a file is never written over: another takes its name.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from .files import graphs_folder, keep_latest, whole_or_not_at_all
from .mapped_weights import forget

_MOST = 8  # files; those that were used least recently go first
_WORTH_KEEPING = 200_000  # weights; smaller graphs are made as fast as they are read
_SUFFIX = ".graph"
_DIGEST = hashlib.sha256
_PIECE = 1 << 20  # bytes that are looked at at once
_NOTE_LENGTH = struct.Struct("<Q")


class KeptGraph:
    """
    The file of one graph.

    Args:
        module: What the graph is made of. settings: All else that it hangs on, as text.
    """

    def __init__(self, module: nn.Module, settings: Iterable[object]):
        folder = graphs_folder()
        large = sum(weight.numel() for weight in module.parameters()) >= _WORTH_KEEPING
        self.path = None if folder is None or not large else folder / f"{_fingerprint(module, settings)}{_SUFFIX}"

    def read(self) -> tuple[mmap.mmap, int, bytes] | None:
        """What was kept, if it is whole: a mapping, how many of its first bytes are the graph, and the note."""
        if self.path is None:
            return None
        try:
            with self.path.open("rb") as file:
                length = os.fstat(file.fileno()).st_size - _DIGEST().digest_size
                if length <= 0 or self._digest_of(file, length) != file.read():
                    return None
                content = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY)  # OpenVINO takes nothing less
            os.utime(self.path)
        except OSError:
            return None
        (note,) = _NOTE_LENGTH.unpack(content[-_NOTE_LENGTH.size :])
        end = length - _NOTE_LENGTH.size
        return content, end - note, content[end - note : end]

    def write(self, export: Callable[[BinaryIO], None], note: bytes) -> None:
        """Keep what `export` writes into a file and a note beside it, and no more than the last few others."""
        if self.path is None:
            return
        with suppress(OSError):  # a full disk, a folder that nobody may write into, another process that tidies up
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_or_not_at_all(self.path) as part, part.open("w+b") as file:
                export(file)
                file.seek(0, os.SEEK_END)
                file.write(note + _NOTE_LENGTH.pack(len(note)))
                length = file.tell()
                file.seek(0)
                digest = self._digest_of(file, length)
                file.write(digest)  # at the end: what OpenVINO has aligned stays so
            keep_latest(self.path.parent, _SUFFIX, _MOST)

    def _digest_of(self, file: BinaryIO, length: int) -> bytes:
        """Of the name, so that a file under another's is none, and of the next bytes of a file, read in pieces: what is
        looked at through a mapping counts as memory."""
        told, piece = _DIGEST(self.path.stem.encode()), memoryview(bytearray(_PIECE))
        while length:
            count = file.readinto(piece[: min(length, _PIECE)])
            if not count:
                return b""
            told.update(piece[:count])
            length -= count
        return told.digest()


def let_go(content: mmap.mmap) -> None:
    """Take what was mapped out of memory, until somebody looks at it again."""
    if hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)


def _fingerprint(module: nn.Module, settings: Iterable[object]) -> str:
    told = hashlib.sha256(_code())
    for setting in (torch.__version__, *settings, module):  # a module as text: its layers and their sizes
        told.update(f"{setting}\0".encode())
    for each in module.modules():
        if hasattr(each, "config"):
            told.update(f"{each.config}\0".encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        told.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        told.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        forget([tensor])
    return told.hexdigest()[:40]


@functools.cache
def _code() -> bytes:
    """Of the modules that a graph may be made from."""
    told = hashlib.sha256()
    package = Path(__file__).parents[1]
    for part in ("codec", "flow", "runtime"):
        for path in sorted((package / part).glob("*.py")):
            told.update(path.read_bytes())
    return told.digest()


__all__ = ["KeptGraph", "let_go"]
