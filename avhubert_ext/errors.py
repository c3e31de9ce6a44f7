"""The one exception for bad input, and how command lines show it."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType


class InputError(ValueError):
    """Input the user can correct: one line that names the file or value, and the remedy."""


def printable(text: object) -> str:
    """The text with every byte of a name that is not UTF-8 as an escape, as in `caf\\udce9`."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def check_printable(name: str) -> None:
    """Raise an InputError for a name that cannot stand on a page or in a picture."""
    if name != printable(name):
        raise InputError(f"model name '{printable(name)}': not UTF-8; choose another name")


def show_input_errors_plainly() -> None:
    """Make an uncaught `InputError` end the process with one line and exit code 1, no traceback.

    So does an `OSError` about a file, such as a folder that can't be written.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, InputError):
            # A worker process wraps the message into its traceback: the last line is ours.
            line = str(error).strip().splitlines()[-1]
            # Progress bars in there are drawn a last time when they go: not after the error.
            traceback.clear_frames(trace)
            print(f"error: {line.removeprefix(_QUALIFIED)}", file=sys.stderr)
        elif isinstance(error, OSError):
            told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            print(f"error: {told}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook


_QUALIFIED = f"{InputError.__module__}.{InputError.__name__}: "
