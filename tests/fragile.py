"""A worker that fails in every way, for tests. It imports little, so that it starts quickly."""

from __future__ import annotations

import os
import time

from avhubert_ext.errors import InputError


def make_worker(start: str = "well"):
    if start == "ill":
        raise InputError("model.pt: no model")
    return work, "ready"


def work(job, tell):
    if job == "crash":
        os._exit(1)
    if job == "hang":
        time.sleep(60)
    if job == "eat":
        return len(bytearray(2**30))
    if job == "refuse":
        raise InputError("no such job")
    if job == "err":
        raise ValueError("unforeseen")
    time.sleep(0.3)
    tell(1, 2)
    return 2 * job
