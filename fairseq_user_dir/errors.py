"""fairseq's own checks of a command line: one line instead of a traceback."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType

CHECKS = (AssertionError, ValueError)


def show_fairseq_checks_plainly() -> None:
    """Make an uncaught error that a fairseq command raises about its options one line.

    Such are a missing --path, no batch size, or a --finetune-from-model that does not exist.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        raised_in = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(trace)][-1:]
        of_command = any(
            path.parent.name == "fairseq_cli" or path.name == "checkpoint_utils.py"
            for path in raised_in
        )
        if of_command and issubclass(kind, CHECKS) and str(error):
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook
