"""How the repository's scripts end: with 0, or with one line that says what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..runtime.files import in_words


def run_script(work: Callable[[], object]) -> int:
    """Do the work of a script; its exit code. What cannot be done is said on stderr, and is 1."""
    try:
        work()
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    return 0
