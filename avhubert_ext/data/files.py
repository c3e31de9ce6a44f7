"""Files and folders that are either whole or not there, whenever the process is killed."""

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
    """Yield a temporary path beside `path`; rename it to `path` if the block ends well."""
    make_folder(path.parent)
    # With an ending of its own: what a killed process leaves must not pass for a clip or a wav.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it becomes `path` if the block ends well.

    Raises InputError if `path` is there and not an empty folder: nothing is overwritten.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: there is something already; delete it, or name another folder")
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
    """Keep other processes out of the block for `path`; the second one gets an InputError.

    `path` need not be there. A killed process releases it.
    """
    lock = path.with_name(f"{path.name}.lock")
    while True:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{path}: another run is writing it; wait until it ends") from None
            except OSError:
                pass  # a file system without locks
            if not _is_file(lock, file):
                continue  # the run that had it deleted it after it was opened here
            try:
                yield
            finally:
                if _is_file(lock, file):
                    lock.unlink()  # still locked, so that nobody else holds it
            return


def _is_file(path: Path, file: IO[str]) -> bool:
    """Whether `path` is the file that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Make a folder and its parents; an InputError names it if it can't be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot make this folder ({error.strerror}); choose one you can write to"
        ) from None
    if not os.access(path, os.W_OK):
        raise InputError(f"{path}: cannot write to this folder; choose one you can write to")
