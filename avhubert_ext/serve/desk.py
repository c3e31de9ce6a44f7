"""A queue of jobs that run in threads and report progress as JSON lines."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from avhubert_ext.errors import InputError
from avhubert_ext.progress import Report

Job = Callable[[Report], dict[str, Any]]  # blocks; returns the last line of the answer
Line = tuple[int, dict[str, Any]]  # HTTP status of an answer that begins with it, and the line

OK, REFUSED, FAILED = 200, 422, 500
UNEXPECTED = "failed with an unexpected error: the terminal shows it"

log = logging.getLogger(__name__)


class BusyError(Exception):
    """The queue is full."""


class Desk:
    """Does one job at a time."""

    def __init__(self, waiting: int) -> None:
        """waiting: how many jobs may wait."""
        self._waiting = waiting
        self._taken = 0
        self._turn = asyncio.Lock()

    def check_places(self) -> None:
        """Raise a BusyError if a job would be refused."""
        if self._taken > self._waiting:
            raise BusyError("busy with other clips; try again in a moment")

    async def answer(self, request: Request, job: Job) -> Response:
        """Do a job when its turn comes, unless the visitor has left by then.

        The answer is JSON lines: progress such as `{"done": 3, "of": 10}`, then the job's result or
        `{"error": "..."}`. An error before any progress has status 422.

        Raises:
            BusyError: If the queue is full.
        """
        self.check_places()
        lines: asyncio.Queue[Line | None] = asyncio.Queue()
        begun = asyncio.Event()
        work = asyncio.create_task(self._do(job, lines, begun))
        left = asyncio.create_task(_departure(request))

        async def following() -> Line | None:
            line = asyncio.create_task(lines.get())
            await asyncio.wait({line, left}, return_when=asyncio.FIRST_COMPLETED)
            if line.done():
                return line.result()
            line.cancel()
            if not begun.is_set():  # a running thread cannot be stopped
                work.cancel()
            return None

        async def body(line: Line | None) -> AsyncIterator[str]:
            while line is not None:
                yield json.dumps(line[1]) + "\n"
                line = await following()
            left.cancel()

        first = await following()
        status = OK if first is None else first[0]
        return StreamingResponse(body(first), status, media_type="application/x-ndjson")

    async def _do(self, job: Job, lines: asyncio.Queue[Line | None], begun: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def report(done: int, of: int) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, (OK, {"done": done, "of": of}))

        self._taken += 1
        try:
            async with self._turn:
                begun.set()
                last = OK, await asyncio.to_thread(job, report)
        except InputError as error:
            last = REFUSED, {"error": str(error)}
        except Exception:
            log.exception("a job failed")
            last = FAILED, {"error": UNEXPECTED}
        finally:
            self._taken -= 1
        lines.put_nowait(last)
        lines.put_nowait(None)


async def _departure(request: Request) -> None:
    """Wait until the visitor has left; the body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
