"""Writing to disk so that nothing is ever half there: atomic files, published folders, clear errors."""

import errno
import hashlib
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import TypeVar

from workbench.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

FULL = {errno.ENOSPC, errno.EDQUOT}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST}


@contextmanager
def user_errors_for_disk(path: str | Path) -> Iterator[None]:
    """Turn a full disk, a folder without write permission, and a file in the way into `UserError`.

    The sentence names the file that the system names, else `path`.
    """
    try:
        yield
    except Exception as error:
        where = getattr(error, "filename", None) or path
        number = _system_error(error)
        if number in FULL:
            message = (
                f"The disk that holds {where} is full: free some space, then run the same command again "
                "(finished parts are kept), or choose another output folder."
            )
        elif number in NOT_WRITABLE:
            message = f"{where} is read-only, or you have no permission: choose an output folder you may write to."
        elif number in NOT_A_FOLDER:
            message = f"{where} cannot be made, because part of that path is a file: choose another folder."
        else:
            raise
        raise UserError(message) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there; where the system has no place for it, `UserError`."""
    with user_errors_for_disk(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # what /proc and its like say
            raise UserError(f"{path} cannot be made there: choose another folder.") from error


def _system_error(error: Exception) -> int | None:
    """The errno behind an error. safetensors gives it in words, and torch.save only says that the file ended early."""
    if isinstance(error, OSError):
        return error.errno
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return int(number[1])
    return errno.ENOSPC if "enforce fail at inline_container.cc" in str(error) else None


@contextmanager
def atomic_writer(path: Path) -> Iterator[Callable[[bytes], object]]:
    """A function that takes the bytes of `path` piece by piece; the file appears whole at the end, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a whole file (text as UTF-8), or nothing: nobody ever sees a part, even after a power cut."""
    with atomic_writer(Path(path)) as write:
        write(content.encode() if isinstance(content, str) else content)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partial_folder(output: Path) -> Path:
    """The sibling folder in which an output folder is made before it gets its name."""
    return output.with_name(output.name + ".partial")


def publish_folder(partial: Path, output: Path) -> None:
    """Give a finished folder its name; one already there is removed only after the new one is in its place.

    Its weights become as readable as any new file: safetensors writes them for their owner alone.
    """
    umask = os.umask(0)
    os.umask(umask)
    for path in partial.rglob("*.safetensors"):
        path.chmod(0o666 & ~umask)
    replaced = output.with_name(f"{output.name}.replaced-{os.getpid()}")
    if output.exists():
        output.rename(replaced)
    partial.rename(output)
    if replaced.exists():
        shutil.rmtree(replaced)


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int, ahead: int = 64
) -> Iterator[Result]:
    """`map` in threads, in order, holding at most `ahead` results: for streams that do not fit in memory."""
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
