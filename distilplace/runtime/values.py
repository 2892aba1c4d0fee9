"""Checks of plain values that come from a file: one line for what is missing, unknown or out of range."""

from collections.abc import Collection, Mapping
from typing import Any

from distilplace.common.errors import UserError

REMEDY = "the file is damaged or of a newer version: fetch or make it again"


def require_keys(
    values: object, keys: Collection[str], where: str, optional: Collection[str] = ()
) -> Mapping[str, Any]:
    """``values`` as a mapping with exactly ``keys``, and perhaps some of the ``optional`` ones; else UserError."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} is no set of named values; {REMEDY}")
    odd = sorted(({*values} - {*keys, *optional}) | ({*keys} - {*values}), key=str)
    if odd:
        raise UserError(f"{where} {'has an unknown' if odd[0] in values else 'lacks the'} entry {odd[0]!r}; {REMEDY}")
    return values


def numbers(values: object, count: int, limits: tuple[float, float], where: str) -> tuple[float, ...]:
    """``count`` numbers within ``limits``; else UserError."""
    found = values if isinstance(values, list) else []
    if len(found) != count or not all(_is_number(value) and limits[0] <= value <= limits[1] for value in found):
        raise UserError(f"{where} is not {count} numbers from {limits[0]:g} to {limits[1]:g}; {REMEDY}")
    return tuple(float(value) for value in found)


def integers(values: object, count: int, limits: tuple[int, int], where: str) -> tuple[int, ...]:
    """``count`` whole numbers within ``limits``; else UserError."""
    found = numbers(values, count, limits, where)
    if not all(value.is_integer() for value in found):
        raise UserError(f"{where} is not {count} whole numbers; {REMEDY}")
    return tuple(int(value) for value in found)


def text(value: object, longest: int, where: str) -> str:
    """A text of at most ``longest`` letters; else UserError."""
    if not isinstance(value, str) or len(value) > longest:
        raise UserError(f"{where} is no text of at most {longest} letters; {REMEDY}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
