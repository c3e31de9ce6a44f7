"""Progress of long work: a bar on a terminal, and one line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from tqdm import tqdm

INTERVAL = 30.0  # seconds between two lines in a log

Report = Callable[[int, int], None]
"""Called with the amount done and the total, 0 if it is unknown."""


class Progress(tqdm):
    """A progress bar that becomes plain lines where stderr is not a terminal.

    A log gets a line every `INTERVAL` seconds and one at the end, instead of a bar for every
    update. Everything else is as in `tqdm`.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        desc: str,
        unit: str,
        total: int | None = None,
        initial: int = 0,
        leave: bool = True,
    ) -> None:
        """Begin.

        Args:
            iterable: what to iterate over, if the work is a loop.
            desc: what is being done.
            unit: what is counted, in the singular.
            total: how many there are; by default the length of `iterable`.
            initial: how many were done before.
            leave: whether the finished bar, or a last line in a log, stays.
        """
        # disable=None: tqdm draws on terminals only.
        super().__init__(
            iterable, desc=desc, total=total, initial=initial, leave=leave, unit=unit, disable=None
        )
        # A disabled bar counts nothing and keeps none of these.
        self.desc, self.unit, self.postfix = desc, unit, None
        self.in_log, self.finished = self.disable, False
        self.begun = self.last_line = time.monotonic()
        if self.in_log and total is None and isinstance(iterable, Sized):
            self.total = len(iterable)

    def __iter__(self) -> Iterator[Any]:
        if not self.in_log:
            yield from super().__iter__()
            return
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more."""
        if not self.in_log:
            return super().update(n)
        self.n += n
        now = time.monotonic()
        if now - self.last_line >= INTERVAL:
            self.last_line = now
            self._write_line()
        return None

    def close(self) -> None:
        """End; a log gets its last line if the work is complete."""
        if self.in_log and not self.finished:
            self.finished = True
            if self.leave and self.n and self.n == (self.total or self.n):
                self._write_line()
        super().close()

    def _write_line(self) -> None:
        count = f"{self.n} of {self.total}" if self.total else f"{self.n}"
        units = self.unit + ("es" if self.unit.endswith("s") else "s")
        taken = self.format_interval(time.monotonic() - self.begun)
        detail = f", {self.postfix}" if self.postfix else ""
        print(f"{self.desc}: {count} {units} in {taken}{detail}", file=sys.stderr, flush=True)
