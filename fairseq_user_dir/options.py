"""Readers for option values that are more than a word or a number."""

import json
from typing import Any

from avhubert_ext.errors import InputError


def parse_json(text: str, option: str) -> dict[str, Any]:
    """Read an option whose value is a JSON object.

    Args:
        text: The value, for example `{"dropout": 0.0}`.
        option: The option's name, for messages.

    Returns:
        The object as a dict.

    Raises:
        InputError: The value is not JSON, or JSON but not an object.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{option} {text}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f'{option} {text}: expected an object, for example {{"dropout": 0.0}}')
    return found


def parse_range(text: str) -> tuple[float, float]:
    """Read an SNR in dB or a range of them.

    Args:
        text: `"0"`, `"-5,20"` or `"(-5,20)"`.

    Returns:
        The lowest and the highest SNR; both are the same for a single number.

    Raises:
        InputError: The text is neither a number nor a range from low to high.
    """
    try:
        values = [float(v) for v in text.strip("() ").split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or values[0] > values[-1]:
        raise InputError(
            f"noise_snr '{text}': expected a number in dB, or a range, for example (-5,20)"
        )
    return values[0], values[-1]
