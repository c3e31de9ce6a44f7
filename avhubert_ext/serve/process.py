"""A worker process for what may crash, hang or eat memory: native decoding of foreign files."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from avhubert_ext.errors import InputError
from avhubert_ext.workers import follow_parent

Tell = Callable[[int, int], None]  # how much is done, of how much
Work = Callable[[Any, Tell], Any]  # does a job
START_SECONDS = 600  # to load a large model from a slow disk
PROGRESS_SECONDS = 0.2

log = logging.getLogger(__name__)


class WorkerProcess:
    """Does one job after another; where it dies or takes too long, another takes its place.

    make: called in the process, gives what does the jobs, and what `wait` is to tell about it;
    it and everything sent must pickle. purpose: what the process does, for errors. folder: for its
    temporary files, which it may leave there. seconds: that a job may take. memory: bytes of
    address space beyond what `make` took, None for any.
    """

    def __init__(
        self,
        make: Callable[[], tuple[Work, Any]],
        purpose: str,
        folder: Path,
        seconds: float,
        memory: int | None = None,
    ) -> None:
        self._arguments = (make, folder, memory)
        self._purpose = purpose
        self._seconds = seconds
        self._closed = False
        self._start()

    def wait(self) -> Any:
        """Until it is ready for jobs: what `make` told. Raises the InputError that it met."""
        if not self._ready:
            self._told = self._receive(START_SECONDS, lambda *_: None)
            self._ready = True
        return self._told

    def run(self, job: Any, tell: Tell) -> Any:
        """What the worker makes of a job; for one caller at a time.

        Raises InputError if the worker did, died, or took too long.
        """
        self.wait()
        try:
            self._connection.send(job)
        except OSError:  # it died between two jobs; no fault of this one
            self._replace()
            self.wait()
            self._connection.send(job)
        return self._receive(self._seconds, tell)

    def close(self) -> None:
        """End the process, whatever it is doing; for any thread."""
        self._closed = True
        self._end()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that reading ends when the process does
        self._ready = False

    def _end(self) -> None:
        self._process.kill()
        self._process.join()

    def _replace(self) -> None:
        self._end()
        self._connection.close()
        if self._closed:
            raise InputError(f"{self._purpose} was stopped: the server ends")
        self._start()

    def _receive(self, seconds: float, tell: Tell) -> Any:
        end = time.monotonic() + seconds
        try:
            while self._connection.poll(max(0.0, end - time.monotonic())):
                kind, value = self._connection.recv()
                if kind == "progress":
                    tell(*value)
                elif kind == "done":
                    return value
                else:
                    raise InputError(value)
        except (EOFError, OSError):
            self._replace()
            log.warning("the process that is %s died; there is a new one", self._purpose)
            raise InputError(
                f"{self._purpose} failed: its process died, of a damaged file or for want of "
                "memory; try another clip"
            ) from None
        self._replace()
        raise InputError(
            f"{self._purpose} took longer than {seconds:g} s and was stopped; try a shorter clip"
        )


def _serve(
    connection: Connection,
    make: Callable[[], tuple[Work, Any]],
    folder: Path,
    memory: int | None,
) -> None:
    """The life of a worker process."""
    follow_parent()
    tempfile.tempdir = str(folder)
    # Else threads of the library that wait keep their cores busy: on a machine that has other work
    # to do, short clips then take seconds instead of tenths.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        work, told = make()
    except InputError as error:
        connection.send(("refused", str(error)))
        return
    if memory is not None:
        _limit_memory(memory)
    connection.send(("done", told))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_outcome(work, job, _now_and_then(connection)))


def _now_and_then(connection: Connection) -> Tell:
    """Sends progress, but not for each frame, nor for a job that is done at once."""
    last = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            connection.send(("progress", (done, of)))

    return tell


def _outcome(work: Work, job: Any, tell: Tell) -> tuple[str, Any]:
    try:
        return "done", work(job, tell)
    except InputError as error:
        return "refused", str(error)
    except MemoryError:
        return "refused", "too large for the memory set aside; try a smaller or shorter clip"
    except Exception:
        log.exception("a job failed")
        return "refused", "failed for an unforeseen reason: the terminal shows which"


def _limit_memory(spare: int) -> None:
    """Let this process take so many bytes more than it has now, where the system tells."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        taken = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + spare, taken + spare))
