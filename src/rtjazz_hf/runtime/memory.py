"""What a process takes of memory."""

from __future__ import annotations

from collections.abc import Callable


def memory_of_this_process() -> Callable[[], int]:
    """Ask it how many bytes of this process are in memory now (resident set size)."""
    import psutil

    process = psutil.Process()
    return lambda: process.memory_info().rss


__all__ = ["memory_of_this_process"]
