"""Running before other programs, where the system lets one, so that a block is in time beside them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

_NICE = (-10, -5, -1)  # on systems of Unix's kind, the best that is allowed
_SWITCH = 0.0005  # seconds; Python's own are ten times as long
_NOT_ALLOWED = "the system does not let it run before other programs; it plays all the same"


@contextmanager
def running_first(say: Callable[[str], None], process: Any = None) -> Iterator[None]:
    """Meanwhile the process has a high priority, with the threads that are started in it, and the thread in which a
    sound card asks for sound waits half a millisecond at most for others that hold Python.

    A priority that somebody gave the process stays (`nice -n 10 rtjazz play ...`).

    Args:
        say: told once, why it cannot be done. process: in place of this one's `psutil.Process`.
    """
    process = psutil.Process() if process is None else process
    windows = sys.platform == "win32"
    normal = psutil.NORMAL_PRIORITY_CLASS if windows else 0
    raised, switch = False, sys.getswitchinterval()
    try:
        if process.nice() == normal:
            raised = any(_may(process, level) for level in ((psutil.HIGH_PRIORITY_CLASS,) if windows else _NICE))
            if not raised:
                say(_NOT_ALLOWED)
    except (psutil.Error, OSError) as error:
        say(f"its priority cannot be raised ({error}); it plays all the same")
    sys.setswitchinterval(min(switch, _SWITCH))
    try:
        yield
    finally:
        sys.setswitchinterval(switch)
        if raised:
            with suppress(psutil.Error, OSError):
                process.nice(normal)


def _may(process: Any, level: int) -> bool:
    try:
        process.nice(level)
    except psutil.AccessDenied:
        return False
    return True
