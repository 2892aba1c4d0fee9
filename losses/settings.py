"""Checking the settings of a method when it is built: each mistake becomes one line for the user."""

import math
from collections.abc import Iterable, Sequence

from distilplace.common.errors import UserError, unknown_name

Weights = float | str | Sequence[float | str]
"""One weight, or several: 0.1, "0.1", "1_0.5" (DistilVPR's way to write a list) or a sequence."""


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """``value`` if it is one of ``known``."""
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise unknown_name(f"value of {name}", value, names)
    return value


def switch(name: str, value: object) -> bool:
    """True or False, also written as text."""
    table = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in table:
        return table[value.lower()]
    if not isinstance(value, bool):
        raise UserError(f"{name} is {value!r}: give True or False")
    return value


def weight(name: str, value: float | str) -> float:
    """A finite number of at least 0."""
    number = finite(name, value)
    if number < 0:
        raise UserError(f"{name} is {value}: a negative weight would reward disagreement; give 0 or more")
    return number


def positive(name: str, value: float | str) -> float:
    """A finite number above 0."""
    number = finite(name, value)
    if number <= 0:
        raise UserError(f"{name} is {value}: give a number above 0")
    return number


def positive_or_none(name: str, value: float | str | None) -> float | None:
    """A finite number above 0, or None."""
    return None if value is None else positive(name, value)


def whole(name: str, value: float | str, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    number = weight(name, value)
    if number != int(number) or number < least:
        raise UserError(f"{name} is {value}: give a whole number of at least {least}")
    return int(number)


def share(name: str, value: float | str) -> float:
    """A number from 0 to 1."""
    number = weight(name, value)
    if number > 1:
        raise UserError(f"{name} is {value}: give a number from 0 to 1")
    return number


def weights(name: str, value: Weights, labels: Sequence[str]) -> tuple[float, ...]:
    """One weight per label; a single 0 stands for zeros everywhere."""
    parts = value.split("_") if isinstance(value, str) else [value] if isinstance(value, int | float) else value
    numbers = tuple(weight(name, part) for part in parts)
    if numbers == (0.0,):
        return (0.0,) * len(labels)
    if len(numbers) != len(labels):
        given = "_".join(f"{number:g}" for number in numbers)
        raise UserError(
            f"{name} is '{given}', {len(numbers)} weight(s): give {len(labels)}, joined by '_' ({', '.join(labels)})"
        )
    return numbers


def finite(name: str, value: float | str) -> float:
    """A finite number, plainly written."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, str) and ("_" in value or not value.isascii()):  # Python takes 1_000 and other scripts' digits
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise UserError(f"{name} is {value!r}: give a finite number")
    return number
