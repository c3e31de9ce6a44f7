"""A worker process for work that may crash, hang or exhaust memory, such as decoding."""

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
from avhubert_ext.progress import Report
from avhubert_ext.workers import follow_parent

Work = Callable[[Any, Report], Any]  # does a job
START_SECONDS = 600  # enough to load a large model from a slow disk
PROGRESS_SECONDS = 0.2

log = logging.getLogger(__name__)


class WorkerProcess:
    """Does one job after another; a process that dies or takes too long is replaced."""

    def __init__(
        self,
        make: Callable[[], tuple[Work, Any]],
        purpose: str,
        folder: Path,
        seconds: float,
        memory: int | None = None,
    ) -> None:
        """Start the process.

        Args:
            make: Called in the process. Returns the function that does the jobs, and a value for
                `wait`. It and everything that is sent must be picklable.
            purpose: What the process does, for errors.
            folder: For temporary files, which the process may leave behind.
            seconds: Time limit of a job.
            memory: Bytes of address space that jobs may use in addition to `make`; None for no
                limit.
        """
        self._arguments = (make, folder, memory)
        self._purpose = purpose
        self._seconds = seconds
        self._closed = False
        self._start()

    def wait(self) -> Any:
        """Wait until it is ready, and return the value of `make`; raises its InputError."""
        if not self._ready:
            self._value = self._receive(START_SECONDS, lambda *_: None)
            self._ready = True
        return self._value

    def run(self, job: Any, report: Report) -> Any:
        """Do a job; for one caller at a time.

        Raises:
            InputError: If the job raised it, the process died, or the time limit was exceeded.
        """
        self.wait()
        try:
            self._connection.send(job)
        except OSError:  # it died between two jobs, so this one is not to blame
            self._replace()
            self.wait()
            self._connection.send(job)
        return self._receive(self._seconds, report)

    def close(self) -> None:
        """End the process at once; may be called from any thread."""
        self._closed = True
        self._end()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that reading fails when the process ends
        self._ready = False

    def _end(self) -> None:
        self._process.kill()
        self._process.join()

    def _replace(self) -> None:
        self._end()
        self._connection.close()
        if self._closed:
            raise InputError(f"{self._purpose} was stopped: the server is shutting down")
        self._start()

    def _receive(self, seconds: float, report: Report) -> Any:
        end = time.monotonic() + seconds
        try:
            while self._connection.poll(max(0.0, end - time.monotonic())):
                kind, value = self._connection.recv()
                if kind == "progress":
                    report(*value)
                elif kind == "done":
                    return value
                else:
                    raise InputError(value)
        except (EOFError, OSError):
            self._replace()
            log.warning("the process for %s died and was replaced", self._purpose)
            raise InputError(
                f"{self._purpose} failed: its process died because of a damaged file or a lack of "
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
    """Run a worker process."""
    follow_parent()
    tempfile.tempdir = str(folder)
    # Otherwise waiting OpenMP threads spin: on a busy machine short clips then take seconds
    # instead of tenths.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        work, value = make()
    except InputError as error:
        connection.send(("refused", str(error)))
        return
    if memory is not None:
        _limit_memory(memory)
    connection.send(("done", value))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_outcome(work, job, _throttled(connection)))


def _throttled(connection: Connection) -> Report:
    """Send progress every PROGRESS_SECONDS; short jobs send none."""
    last = time.monotonic()

    def report(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            connection.send(("progress", (done, of)))

    return report


def _outcome(work: Work, job: Any, report: Report) -> tuple[str, Any]:
    try:
        return "done", work(job, report)
    except InputError as error:
        return "refused", str(error)
    except MemoryError:
        return "refused", "the clip needs too much memory; try a smaller or shorter one"
    except Exception:
        log.exception("a job failed")
        return "refused", "failed with an unexpected error: the terminal shows it"


def _limit_memory(spare: int) -> None:
    """Limit this process to `spare` bytes more than it uses now, on systems with /proc."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        taken = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + spare, taken + spare))
