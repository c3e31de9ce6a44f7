"""Checks of the fields of a network's configuration."""

from __future__ import annotations

from avhubert_ext.errors import InputError


def check_counts(config: object, *names: str) -> None:
    """Check fields that count something.

    Args:
        config: The configuration.
        *names: Its fields.

    Raises:
        InputError: If a value is not a whole number of at least 1.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{name} {value!r}: expected a whole number")
        if value < 1:
            raise InputError(f"{name} {value}: expected at least 1")


def check_factor(config: object, name: str) -> None:
    """Check a field that multiplies widths.

    Raises:
        InputError: If the value is not a number greater than 0.
    """
    value = _number(config, name)
    if not value > 0:
        raise InputError(f"{name} {value}: expected more than 0")


def check_probabilities(config: object, *names: str) -> None:
    """Check fields that are probabilities.

    Args:
        config: The configuration.
        *names: Its fields.

    Raises:
        InputError: If a value is not a number from 0 to 1.
    """
    for name in names:
        value = _number(config, name)
        if not 0 <= value <= 1:
            raise InputError(f"{name} {value}: expected a probability")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check that a setting is one of several names.

    Args:
        name: The setting.
        value: Its value.
        choices: The names.

    Raises:
        InputError: If the value is none of them.
    """
    if value not in choices:
        raise InputError(f"{name} {value!r}: expected one of {', '.join(choices)}")


def check_switch(config: object, name: str) -> None:
    """Check a field that is true or false.

    Raises:
        InputError: If the value is neither.
    """
    value = getattr(config, name)
    if not isinstance(value, bool):
        raise InputError(f"{name} {value!r}: expected true or false")


def _number(config: object, name: str) -> float:
    value = getattr(config, name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(f"{name} {value!r}: expected a number")
    return value
