"""What PCD and PLY bodies have in common: rows of text, rows of bytes, and the columns called x, y, z.

Every function raises ``ValueError`` with the end of a sentence that begins with the file's name.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np

AXES = ("x", "y", "z")


def axis_columns(names: Sequence[str]) -> list[int]:
    """Where x, y and z (in either case) stand among a point's fields, each once."""
    lower = [name.lower() for name in names]
    for axis in AXES:
        if lower.count(axis) != 1:
            times = "no" if axis not in lower else "more than one"
            raise ValueError(f"has {times} field {axis} (fields: {' '.join(names) or 'none'}): x, y and z are needed")
    return [lower.index(axis) for axis in AXES]


def header_lines(content: bytes, most: int) -> Iterator[tuple[list[str], int]]:
    """The words of each of the first ``most`` lines, and where the next line begins."""
    position = 0
    for _ in range(most):
        end = content.find(b"\n", position, position + 8192)
        if end < 0:
            return
        words, position = content[position:end].decode("ascii", errors="replace").split(), end + 1
        yield words, position


def text_rows(body: bytes, points: int, columns: int) -> np.ndarray:
    """Float64 [points, columns]: numbers between blanks, a point a line; blank lines are passed over."""
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) < points:
        raise ValueError(f"is truncated: its header declares {points} points, {len(lines)} lines follow")
    if len(lines) > points:
        raise ValueError(f"holds more than its header declares: {points} points, but {len(lines)} lines follow")
    if points == 0:
        return np.empty((0, columns))
    if len(lines[-1].split()) < columns:
        raise ValueError(f"is truncated: its last line has {len(lines[-1].split())} of {columns} values")
    try:
        table = np.loadtxt(io.BytesIO(b"\n".join(lines)), dtype=np.float64, comments=None, ndmin=2, encoding="ascii")
    except ValueError as error:
        raise ValueError(f"has a body that is no table of numbers ({_first_fault(lines, columns)})") from error
    if table.shape != (points, columns):
        raise ValueError(f"has {table.shape[1]} values a line, its header names {columns} fields")
    return table


def _first_fault(lines: Sequence[bytes], columns: int) -> str:
    """Which of the lines holds another number of values than ``columns``, or a word that is no number."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) != columns:
            return f"point {number} has {len(words)} values, the header names {columns} fields"
        for word in words:
            try:
                np.loadtxt([word.decode("ascii")], comments=None)
            except ValueError:
                shown = word[:30].decode("ascii", errors="backslashreplace")
                return f"point {number} holds '{shown}', which is no number"
    return "its lines differ"


def without_mark(content: bytes) -> bytes:
    """The file without the byte order mark that some editors put before UTF-8; UTF-16 is refused."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("is UTF-16 text (byte order mark): save it as ASCII")
    return content.removeprefix(b"\xef\xbb\xbf")


def byte_rows(body: bytes, points: int, row: np.dtype) -> np.ndarray:
    """``points`` records of type ``row``; what follows them may only be padding."""
    needed = points * row.itemsize
    if len(body) < needed:
        raise ValueError(
            f"is truncated: its header declares {points} points of {row.itemsize} bytes, {len(body)} bytes follow"
        )
    rest = body[needed:]
    if len(rest) >= row.itemsize and rest.strip(b"\0\n\r "):
        raise ValueError(
            f"holds more than its header declares: {points} points of {row.itemsize} bytes, {len(body)} bytes follow"
        )
    return np.frombuffer(body, dtype=row, count=points)
