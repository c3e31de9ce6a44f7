"""Jobs in worker processes: a job that kills its process does not stop the others."""

from __future__ import annotations

import os

import pytest

from avhubert_ext.workers import in_workers


def double_or_die(number: int) -> int:
    if number in (3, 7):
        os._exit(9)  # like a crash in a decoder
    return 2 * number


@pytest.mark.slow
def test_a_job_that_kills_its_process_does_not_end_the_batch() -> None:
    for workers in (1, 2):
        found = dict(in_workers(double_or_die, list(range(12)), workers))
        expected = {n: None if n in (3, 7) else 2 * n for n in range(12)}
        assert found == expected


def test_no_jobs() -> None:
    assert list(in_workers(double_or_die, [], 2)) == []
