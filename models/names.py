"""Refusing an unknown name in one line that offers the nearest known one."""

import difflib
from collections.abc import Iterable

from common.errors import UserError


def unknown_name(kind: str, given: object, known: Iterable[str]) -> UserError:
    """The error for ``given`` not being one of ``known``; ``kind`` says what was asked for ("model", "pooling")."""
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UserError(f"unknown {kind} '{given}': {hint}known: {', '.join(names)}")
