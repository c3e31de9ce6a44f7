"""The exception for invalid input, and how command lines show it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


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


def as_one_line(error: BaseException) -> str | None:
    """Return the message of an InputError, also of one that was raised in another process.

    Args:
        error: Any exception. Worker processes put the traceback of theirs into the message of
            another exception; its last line is ours.

    Returns:
        The message in one line, or None for any other error.
    """
    line = (str(error).strip().splitlines() or [""])[-1]
    if isinstance(error, InputError) or line.startswith(_QUALIFIED):
        return line.removeprefix(_QUALIFIED)
    return None


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line on stderr and exit code 1 where the block raises InputError.

    All other exceptions pass.
    """
    try:
        yield
    except Exception as error:
        line = as_one_line(error)
        if line is None:
            raise
        traceback.clear_frames(error.__traceback__)  # progress bars in them are redrawn now
        sys.exit(f"error: {line}")


_QUALIFIED = f"{InputError.__module__}.{InputError.__name__}: "
