"""A disk that fills where a test wants it to, and what a command leaves on it: old, new or half a file."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PAGE = 4096  # bytes, which a tmpfs hands out
_FILLER = ".filler"


class Disk:
    """A file system of its own: a tmpfs, whose free pages are counted to the last one."""

    def __init__(self, path: Path, megabytes: int = 64):
        path.mkdir()
        self.path = path
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise PermissionError(done.stderr.strip() or "no file system can be mounted")

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)

    @property
    def free(self) -> int:
        """Pages."""
        return os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize // PAGE

    def leave(self, pages: int) -> None:
        """Fill all but so many pages."""
        self.make_room()
        if (taken := self.free - pages) > 0:
            with (self.path / _FILLER).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, taken * PAGE)
        assert self.free == pages

    def make_room(self) -> None:
        (self.path / _FILLER).unlink(missing_ok=True)

    def files(self) -> dict[str, bytes]:
        """What is on it, by path."""
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.name != _FILLER
        }

    def put(self, files: dict[str, bytes]) -> None:
        """Make it hold these files and no others."""
        self.make_room()
        for path in sorted(self.path.rglob("*"), reverse=True):
            path.unlink() if not path.is_dir() else path.rmdir()
        for name, data in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(data)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it said on stderr."""

    code: int
    said: str


def call(main: Callable[[list[str]], int | None], arguments: list[object]) -> Ended:
    """Call a command in this process; an error that it lets out, which none may, is the exit code 3."""
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main([str(argument) for argument in arguments]) or 0
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=said)
            code = stop.code if isinstance(stop.code, int) else 1
        except Exception as error:
            print(f"Traceback: {error!r}", file=said)
            code = 3
    return Ended(code, said.getvalue())


def places(pages: int, count: int) -> list[int]:
    """Up to `count` numbers of free pages that are too few for what needs `pages`, none and the last one among them."""
    return sorted({*np.linspace(0, pages - 1, min(count, pages)).round().astype(int).tolist(), pages - 1})


@dataclass
class Row:
    """What a command did at all places."""

    name: str
    places: int = 0
    refused: int = 0  # with an error
    whole: int = 0  # done: what it needs in passing is less than what it leaves
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        faults = "; ".join(self.faults[:3]) or "none"
        return f"{self.name:28} {self.places:6} places  {self.refused:4} refused  {self.whole:4} done  faults: {faults}"


def try_places(
    name: str, disk: Disk, old: Callable[[], Ended] | None, new: Callable[[], Ended], count: int,
    judge: Callable[[str, bytes], bool] | None = None,
) -> Row:  # fmt: skip
    """Let `new` write over what `old` wrote, at places all through what it needs.

    Where it says that it is done everything must be new; where not, every file must be old or new, none may be left
    that is neither, and it must say which file, why, and what to do.

    judge: whether a file (its name, its bytes) that is neither is right: a recording holds what was played.
    """
    disk.put({})
    assert (ended := new()).code == 0, ended.said
    wanted, needs = disk.files(), -disk.free
    disk.put({})
    needs += disk.free
    before: dict[str, bytes] = {}
    if old is not None:
        assert (ended := old()).code == 0, ended.said
        before = disk.files()
    row, faults = Row(name), []
    for pages in places(needs, count):
        disk.put(before)
        disk.leave(pages)
        ended = new()
        found = disk.files()
        row.places += 1
        where = f"{pages} of {needs} pages"
        if ended.code == 0:
            row.whole += 1
            if found.keys() != wanted.keys() | before.keys():
                faults.append(f"{where}: done, with {sorted(found)}")
        else:
            row.refused += 1
            if ended.code != 1 or "Traceback" in ended.said:
                faults.append(f"{where}: exit code {ended.code}, {ended.said[-200:]!r}")
            for words in (
                "cannot be written: no space left on device",
                "make room on that disk",
                str(disk.path),
            ):
                if words not in ended.said:
                    faults.append(f"{where}: {words!r} is not in {ended.said[-200:]!r}")
                    break
        for file, data in found.items():
            if data in (before.get(file), wanted.get(file)):
                continue
            if judge is None or not judge(file, data):
                faults.append(f"{where}: {file} is neither old nor new, {len(data)} bytes")
    disk.put({})
    row.faults = tuple(faults)
    print(f"\n{row}", end="")
    return row
