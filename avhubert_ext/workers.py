"""Jobs in worker processes, which never outlive the command that started them."""

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
    """In a worker: leave Ctrl-C to the parent, and end when the parent is gone."""
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
    """Each job with the function's result as it is done; with None if its process died of it.

    When a process dies, the jobs that may have been in it are tried again one at a time, so that
    one file that crashes a decoder does not end a batch.
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
            # Jobs are handed out in order, a few ahead of those that run.
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
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=follow_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
