"""Worker processes that never outlive the command that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

WORKER_DIED = (
    "a worker process died (out of memory?); run the same command again to go on, "
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
