"""Who does the work of a preparation: processes of this machine, or Ray Data on one machine or a cluster."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

ENGINES = ("local", "ray")
_AHEAD = 2  # parts a worker, made or waiting, beyond the one whose turn it is
_RAY_WAVE = 16  # parts a worker that Ray is given at once

Work = Callable[[Any], dict[str, Any]]


def run_parts(engine: str, work: Work, parts: Iterable[Any], workers: int) -> Iterator[dict[str, Any]]:
    """`work(part)` of every part, in any order, made by so many workers; `parts` is read as they need them.

    Args:
        work: can be pickled, and makes the same of a part wherever it is.

    Raises:
        ValueError: for an unknown engine or number of workers. ImportError: Ray is not installed.
        RuntimeError: a worker was killed. What `work` raises, it raises.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}: choose {', '.join(ENGINES)}")
    if workers < 1:
        raise ValueError(f"workers {workers!r}: choose 1 or more")
    if engine == "ray":
        return _run_ray(work, parts, workers)
    return map(work, parts) if workers == 1 else _run_local(work, parts, workers)


def _run_local(work: Work, parts: Iterable[Any], workers: int) -> Iterator[dict[str, Any]]:
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(work,)
    )
    waiting: deque = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(_do, part))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker was killed, perhaps for want of memory: the same command goes on, with fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_work: Work | None = None


def _start_worker(work: Work) -> None:
    """An interrupt is the parent's to handle, and a worker whose parent was killed ends too."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _do(part: Any) -> dict[str, Any]:
    return _work(part)


class _RayWorker:
    """One of Ray Data's actors: `work` is unpickled once in its process."""

    def __init__(self, work: bytes) -> None:
        self.work = pickle.loads(work)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.work(pickle.loads(row["part"]))


def _run_ray(work: Work, parts: Iterable[Any], workers: int) -> Iterator[dict[str, Any]]:
    """In waves, so that a source of any length is never in memory as a whole.

    Ray is started for this machine unless it runs already or RAY_ADDRESS names a cluster.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("Ray is not installed; run: pip install 'rtjazz-hf[scale]'") from error
    mine = not ray.is_initialized()
    if mine and "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    elif mine:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        parts = iter(parts)
        while wave := list(itertools.islice(parts, _RAY_WAVE * workers)):
            items = [{"part": pickle.dumps(part)} for part in wave]
            done = ray.data.from_items(items, override_num_blocks=len(items)).map(
                _RayWorker,
                fn_constructor_args=(pickle.dumps(work),),
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
                num_cpus=1,
            )
            yield from done.iter_rows()
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (OSError, ValueError)):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise (cause or error) from None
    finally:
        if mine:
            ray.shutdown()


__all__ = ["ENGINES", "run_parts"]
