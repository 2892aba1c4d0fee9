"""Numbers in text files, read strictly.

Python's own ``float`` and ``int`` take ``1_000`` and digits of any script (``٣``): in a data file both are a slip of
whatever wrote it, and reading on would give a number that nobody meant.
"""

import math
import re

_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_UNDEFINED = re.compile(r"[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # fits an int64


def parse_number(text: str) -> float | None:
    """The number that ``text`` writes in ASCII digits, nan and inf included; None where it writes none."""
    text = text.strip()
    if _DECIMAL.fullmatch(text) or (text.isascii() and _UNDEFINED.fullmatch(text)):
        return float(text)
    return None


def parse_finite(text: str) -> float | None:
    """As :func:`parse_number`, None for nan and infinite numbers (1e999 is one) too."""
    value = parse_number(text)
    return value if value is not None and math.isfinite(value) else None


def parse_whole(text: str) -> int | None:
    """The whole number of at most 18 ASCII digits that ``text`` writes; None where it writes none."""
    text = text.strip()
    return int(text) if _WHOLE.fullmatch(text) else None


def number_hint(text: str) -> str:
    """Why ``text`` is no number, where that is easily seen, to stand in brackets behind it; else empty."""
    if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", text.strip()):
        return " (a decimal comma: write a point)"
    if "_" in text:
        return " (underscores are no part of a number)"
    if not text.isascii():
        return " (only the digits 0 to 9 are read)"
    return ""
