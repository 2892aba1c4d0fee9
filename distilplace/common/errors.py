"""The one exception for a user's mistake: shown as a single line, exit code 2, never a traceback."""

import difflib
from collections.abc import Iterable

LONGEST_WORD = 400  # letters; the paths that people have are shorter


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(_shown(word) for word in message.split()))


def _shown(word: str) -> str:
    """A word as a terminal may show it: quoted from a damaged file, it can be of any length and any characters."""
    word = "".join(letter if letter.isprintable() else "?" for letter in word)
    return word if len(word) <= LONGEST_WORD else f"{word[:150]}[...]{word[-100:]}"


def unknown_name(kind: str, given: object, known: Iterable[str]) -> UserError:
    """The error for ``given`` not being one of ``known``, the nearest offered; ``kind``: "model", "pooling" ..."""
    names = list(known)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UserError(f"unknown {kind} '{given}': {hint}known: {', '.join(names) or 'none'}")
