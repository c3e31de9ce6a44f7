"""Atomic writes: files and folders that are complete or absent, even if the process is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from avhubert_ext.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` if the block succeeds."""
    make_folder(path.parent)
    # A separate suffix: the remains of a killed process must not pass for a clip or a wav file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and rename it to `path` if the block succeeds.

    Raises:
        InputError: If `path` exists and is not an empty folder: nothing is overwritten.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} already exists; delete it, or choose another folder")
    make_folder(path.parent)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        make_folder(temporary)
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Lock `path` for the block. The lock is released even if the process is killed.

    Args:
        path: The file to lock; it need not exist.

    Raises:
        InputError: If another process holds the lock.
    """
    lock = path.with_name(f"{path.name}.lock")
    while True:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{path}: another run is writing this file; wait until it ends"
                ) from None
            except OSError:
                pass  # a file system without locks
            if not _is_file(lock, file):
                continue  # its former owner deleted it after it was opened here
            try:
                yield
            finally:
                if _is_file(lock, file):
                    lock.unlink()  # still locked, so nobody else can hold it
            return


def _is_file(path: Path, file: IO[str]) -> bool:
    """Return whether `path` is the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Bytes of names that are not UTF-8 are escaped."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises InputError if it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot create this folder ({error.strerror}); choose one you can write to"
        ) from None
    if not os.access(path, os.W_OK):
        raise InputError(f"{path}: cannot write to this folder; choose one you can write to")
