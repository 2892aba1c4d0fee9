"""The one reader of text files: UTF-8 with any line ends, or one line that says why it is none."""

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from distilplace.common.decoding import KINDS
from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.common.numbers import number_hint, parse_number

MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_text(path: Path, what: str = "", remedy: str = "save it as UTF-8") -> str:
    """The text of ``path`` without a byte order mark, lines parted by a line feed alone.

    Args:
        path: the file.
        what: what it is, to begin messages with; nothing: its path alone.
        remedy: what to do where it is no UTF-8 text.

    Raises:
        UserError: absent, no regular file (opening a pipe would hang), unreadable, or no UTF-8 text.

    """
    where = f"{what} {path}" if what else str(path)
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if not stat.S_ISREG(mode):
                kind = KINDS.get(stat.S_IFMT(mode), "no regular file")
                raise UserError(f"{where} is {kind}, not a text file: remove or rename it")
            content = stream.read()
    except FileNotFoundError as error:
        raise UserError(f"{where} does not exist: check {flag_of(path)}") from error
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror or error}") from error
    if kind := MARKS.get(content[:2], ""):
        raise UserError(f"{where} is {kind} text: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text ({error}): {remedy}") from error
    if "\0" in text:
        raise UserError(f"{where} holds zero bytes, which is no text: {remedy}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path, what: str = "", remedy: str = "copy it again") -> list[tuple[int, str]]:
    """Number and stripped text of every line that is not blank; :class:`UserError` as :func:`read_text`, and for none.

    Arguments as there.
    """
    lines = enumerate(read_text(path, what, remedy).split("\n"), start=1)
    found = [(number, line.strip()) for number, line in lines if line.strip()]
    if not found:
        raise UserError(f"{what} {path} is empty: {remedy}".lstrip())
    return found


def finite_numbers(words: Sequence[str], where: str, expected: str = "finite numbers are expected") -> list[float]:
    """The numbers that ``words`` write; :class:`UserError` naming ``where`` and the first that writes none."""
    numbers = [parse_number(word) for word in words]
    for word, number in zip(words, numbers, strict=True):
        if number is None:
            raise UserError(f"{where}: '{word[:40]}' is no number{number_hint(word)}: {expected}")
        if not math.isfinite(number):
            raise UserError(f"{where}: {word} is not finite: {expected}")
    return [number for number in numbers if number is not None]


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
