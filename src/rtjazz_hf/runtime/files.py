"""Files and folders that are written whole or not at all, readable as the umask says, with errors that say why."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class NotWritten(OSError):
    """A file or folder that could not be written: it says which, why, and what is left, and nothing else."""

    def __str__(self) -> str:
        return str(self.strerror)


_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAKES_NO_MORE = (*_FULL, errno.EFBIG)
# What a disk says: of these errors it is known that the file to be written is meant, if they name none.
_OF_A_DISK = (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS)
_PROBE = bytes(1 << 17)  # more than what may be left of a disk's last block


@contextmanager
def whole_or_not_at_all(path: Path) -> Iterator[Path]:
    """A name beside `path`, on the same disk, to write under: it takes the place of `path` when all went well,
    and is removed when anything, an interrupt too, went wrong.

    Whoever may read what this process makes may read the file, whatever library writes it: safetensors keeps its
    files to their owner.

    Raises:
        OSError: it cannot be written: which file, why, and what is left.
    """
    partial = path.with_name(f".{path.stem[:80]}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        with told_why(path, partial):
            mode = _mode_of_new_files(partial)
            yield partial
            os.chmod(partial, mode)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike, replace: bool = True) -> Iterator[Path]:
    """A folder beside `path` to write in: it takes the place of `path` when all went well, and vanishes when not.

    replace: False: other files that `path` holds stay in it.

    Raises:
        OSError: as `whole_or_not_at_all`.
    """
    path = Path(os.path.abspath(path))
    partial = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with told_why(path, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            yield partial
            as_umask(partial)
            if replace or not path.exists():
                shutil.rmtree(path, ignore_errors=True)
                os.replace(partial, path)
            else:
                _move_into(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def as_umask(folder: Path) -> None:
    """Let those read the files in `folder` that are kept to their owner whom the umask lets."""
    mode = _mode_of_new_files(folder / f".{uuid.uuid4().hex[:8]}")
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and not file.stat().st_mode & 0o077:
            os.chmod(file, mode)


def _move_into(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for entry in sorted(source.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            _move_into(entry, target / entry.name)
        else:
            os.replace(entry, target / entry.name)


@contextmanager
def told_why(path: Path, partial: Path) -> Iterator[None]:
    """Errors of writing `partial`, a file or a folder that is to become `path`, become an OSError that says why.

    libsndfile says "System error.", safetensors has an error of its own, torch speaks of positions, and Python's may
    name no file, or the partial one. Other errors stay as they are.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if (number := _error_number(error, partial)) is None:
            raise
        text = os.strerror(number)
        text = f"'{path}' cannot be written: {text[0].lower()}{text[1:]}; " + (
            "what was there before is kept" if path.exists() else "nothing of it is left"
        )
        text += what_to_do(number)
        kind = type(OSError(number, ""))  # PermissionError and the like stay what they are
        if kind is OSError:
            raise NotWritten(number, f"{text}.") from error
        told = kind(f"{text}.")
        told.errno = number
        raise told from error


def graphs_folder() -> Path | None:
    """Where what is made once for a machine is kept, graphs and weights; `None` if it is not."""
    named = os.environ.get("RTJAZZ_GRAPHS")
    if named is not None:
        return Path(named).expanduser() if named else None
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "rtjazz-graphs"


def keep_latest(folder: Path, suffix: str, most: int) -> None:
    """Remove all but the `most` files with `suffix` in `folder` that were used last, by their times."""
    kept = sorted(folder.glob(f"*{suffix}"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-most]:
        path.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that nothing more can be written, which is no fault of what was asked, or read."""
    return isinstance(error, OSError) and error.errno in _TAKES_NO_MORE


def what_to_do(number: int | None) -> str:
    """What is added to a message where a disk is full, by the number of the error; nothing where it is another's."""
    return "; make room on that disk, or choose another" if number in _FULL else ""


def in_words(error: Exception) -> str:
    """An error as it is told; of a full disk, what to do too, whoever it comes from."""
    if not is_disk_full(error) or isinstance(error, NotWritten):
        return str(error)
    what = "what was to be written" if error.filename is None else f"'{error.filename}'"
    reason = os.strerror(error.errno)
    return f"{what} cannot be written: {reason[0].lower()}{reason[1:]}{what_to_do(error.errno)}."


def why_not(partial: Path) -> int | None:
    """The number of the error that keeps a file, or a folder, from growing; None where nothing does.

    A file beside it is what grows: from the same size on, so that a limit of sizes is met too."""
    probe = partial.with_name(f".{uuid.uuid4().hex[:8]}.probe")
    try:
        with open(probe, "wb") as file:
            file.seek(partial.stat().st_size if partial.is_file() else 0)
            file.write(_PROBE)
    except OSError as error:
        return error.errno
    finally:
        probe.unlink(missing_ok=True)
    return None


def _error_number(error: Exception, partial: Path) -> int | None:
    """Of the disk's error behind it; None where it is another's."""
    if isinstance(error, OSError):
        named = error.filename
        if named is None:
            return error.errno if error.errno in _OF_A_DISK else None
        ours = isinstance(named, (str, os.PathLike)) and os.fspath(named).startswith(os.fspath(partial))
        return error.errno if ours else None
    if isinstance(error, SafetensorError):
        told = re.search(r"os error (\d+)", str(error))
        return int(told.group(1)) if told else None
    return why_not(partial)  # it is the disk's if the disk takes no more


def _mode_of_new_files(name: Path) -> int:
    """As the umask has it, which cannot be asked for without being changed, for all threads: by making one."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        os.unlink(name)


__all__ = [
    "NotWritten",
    "as_umask",
    "atomic_folder",
    "graphs_folder",
    "in_words",
    "is_disk_full",
    "keep_latest",
    "told_why",
    "what_to_do",
    "whole_or_not_at_all",
    "why_not",
]
