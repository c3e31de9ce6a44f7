"""Run jobs in worker processes, which never outlive the command that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

WORKER_DIED = (
    "a worker process died (out of memory?); run the same command again to continue, "
    "with fewer --workers"
)


def follow_parent() -> None:
    """In a worker process: leave Ctrl-C to the parent, and exit when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


def in_workers(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Result | None]]:
    """Run jobs in parallel, and yield each with its result as soon as it is done.

    If a process dies, the jobs that it may have been running are tried again one at a time, so that
    one file that crashes a decoder does not stop the others.

    Args:
        function: Called with each job; must pickle.
        jobs: The arguments.
        workers: The number of processes.

    Yields:
        Each job and its result, None if its process died.
    """
    left = dict(enumerate(jobs))
    while left:
        try:
            with _pool(workers) as pool:
                futures = {pool.submit(function, job): number for number, job in left.items()}
                for future in as_completed(futures):
                    result = future.result()
                    yield left.pop(futures[future]), result
        except BrokenProcessPool:
            # Jobs are submitted in order, a few ahead of those that run.
            for number in list(left)[: 2 * workers + 1]:
                job = left.pop(number)
                try:
                    with _pool(1) as alone:
                        result = alone.submit(function, job).result()
                except BrokenProcessPool:
                    result = None
                yield job, result


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of processes, and cancel its waiting jobs at the end."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=follow_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
