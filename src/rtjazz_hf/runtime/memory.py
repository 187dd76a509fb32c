"""What a process takes of memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def memory_of_this_process() -> Callable[[], int]:
    """Ask it how many bytes of this process are in memory now (resident set size)."""
    import psutil

    process = psutil.Process()
    return lambda: process.memory_info().rss


def return_free_memory() -> None:
    """Return to the system what is free in the C library's heaps, which glibc alone keeps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


__all__ = ["memory_of_this_process", "return_free_memory"]
