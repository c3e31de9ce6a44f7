"""The exception for invalid input, and how command lines show it."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType


class InputError(ValueError):
    """Invalid input that the user can correct.

    The message is one line that names the file or value, what was expected, and the remedy.
    """


def printable(text: object) -> str:
    """Return the text with escapes for bytes of a name that are not UTF-8, like `caf\\udce9`."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def check_printable(name: str) -> None:
    """Raise an InputError for a name that cannot be shown on a page or in a picture."""
    if name != printable(name):
        raise InputError(f"model name '{printable(name)}': not UTF-8; choose another name")


def show_input_errors_plainly() -> None:
    """Make an uncaught `InputError` end the process with one line instead of a traceback.

    So does an `OSError` about a file, such as a folder that is not writable.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, InputError):
            # Worker processes put the message at the end of a traceback: show its last line.
            line = str(error).strip().splitlines()[-1]
            # Progress bars in the frames are drawn once more when deleted: do that first.
            traceback.clear_frames(trace)
            print(f"error: {line.removeprefix(_QUALIFIED)}", file=sys.stderr)
        elif isinstance(error, OSError):
            reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            print(f"error: {reason}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook


_QUALIFIED = f"{InputError.__module__}.{InputError.__name__}: "
