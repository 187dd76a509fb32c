"""A process for every case: its peak of memory is its own, and cases take turns round by round."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from multiprocessing.connection import Connection
from typing import Any, Protocol

from .settings import Case

_PRELOADED = ("rtjazz_hf.pipeline_realtime_jazz", "rtjazz_hf.benchmark.streams")
_PATIENCE = 3.0  # seconds for a process to go when it has nothing left to do


class Contender(Protocol):
    """What a case does: it is built (loading what it measures), warmed up, run round by round, and asked."""

    def warm_up(self) -> None: ...
    def round(self) -> None: ...
    def result(self) -> dict[str, Any]: ...


class CaseFailed(RuntimeError):
    """A case that could not be measured; the others go on."""


def build_contender(case: Case) -> Contender:
    from . import peers, profiling, streams

    if case.kind == "train":
        from .training import TrainContender  # wants the extra train

        return TrainContender(case)
    kinds = {
        "stream": streams.StreamContender,
        "endurance": streams.EnduranceContender,
        "beside": streams.BesideContender,
        "musicgen": peers.MusicgenContender,
        "stable_audio": peers.StableAudioContender,
        "codec": peers.CodecContender,
        "profile": profiling.ProfileContender,
    }
    return kinds[case.kind](case)


class InProcess:
    """A case that runs in this process, for a debugger and for small models."""

    def __init__(self, case: Case):
        self.case = case

    def start(self) -> None:
        self._do("warm_up")

    def round(self) -> None:
        self._do("round")

    def result(self) -> dict[str, Any]:
        result = self._do("result")
        result.pop("peak_memory_mb", None)  # of this process, whatever it did before
        return result

    def stop(self) -> None:
        self.contender = None

    def _do(self, what: str) -> Any:
        import torch

        from .timing import torch_threads

        # Sampling of a peer must not move the random numbers of whoever asked.
        with torch_threads(self.case.threads), torch.random.fork_rng(devices=[]):
            if what == "warm_up":
                self.contender = build_contender(self.case)
            return getattr(self.contender, what)()


class Isolated:
    """A case that runs in a process of its own, and only while it is asked to."""

    def __init__(self, case: Case):
        self.case = case
        context = _context()
        self.connection, self._theirs = context.Pipe()
        # A daemon: it does not outlive a benchmark that is interrupted.
        self.process = context.Process(target=_serve, args=(self._theirs, self.case), daemon=True)

    def start(self) -> None:
        self.process.start()
        self._theirs.close()
        self._answer()

    def round(self) -> None:
        self.connection.send("round")
        self._answer()

    def result(self) -> dict[str, Any]:
        self.connection.send("result")
        return self._answer()

    def stop(self) -> None:
        self.connection.close()
        if self.process.pid is None:
            return
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()

    def _answer(self) -> Any:
        try:
            failure, answer = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self.process.join(_PATIENCE)
            raise CaseFailed(
                f"its process ended with exit code {self.process.exitcode}"
                + (" (killed: was there enough memory?)" if self.process.exitcode == -signal.SIGKILL else "")
            ) from error
        if failure is not None:
            raise CaseFailed(failure)
        return answer


def _context() -> Any:
    # A fork server imports the libraries once; its children start with their pages and nothing else.
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        return context
    return multiprocessing.get_context("spawn")


def _end_with_parent() -> None:
    """A parent that was killed can say nothing, and a case may be minutes from its next look at the connection."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _serve(connection: Connection, case: Case) -> None:
    """A child's whole life: build and warm up, then do what is asked, and answer (failure, answer)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and closes the connection
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)  # whatever a library prints: the parent's stdout is for its report
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            import torch

            from rtjazz_hf.hub import quiet_libraries

            quiet_libraries()
            warnings.simplefilter("ignore", FutureWarning)  # of one library about another
            if case.threads is not None:
                torch.set_num_threads(case.threads)
            contender = build_contender(case)
            contender.warm_up()
            connection.send((None, None))
            while True:
                answer = getattr(contender, connection.recv())()
                connection.send((None, answer))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # whatever a library raises: it is told, and ends this case alone
            connection.send((f"{type(error).__name__}: {' '.join(str(error).split())}", None))
