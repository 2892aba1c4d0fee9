"""Tables in text files with a header: commas, semicolons or tabs between the cells, found by the header's names.

Names count in either case of letters; a byte order mark, any line ends and blank lines are passed over. What a program
could only guess (a name that stands twice, a row with more or fewer cells) is refused with file and line. A row is a
line: a quotation mark that is never closed would take the rows after it for its cell.
"""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.common.inputs.text_files import read_text
from distilplace.common.numbers import parse_number

SEPARATORS = (",", ";", "\t")
Explain = Callable[[list[str]], str]


@dataclass(frozen=True)
class Table:
    """``header`` in lower case; ``rows``: the line in the file, and the stripped cells by their column's name."""

    header: list[str]
    rows: list[tuple[int, dict[str, str]]]


def read_table(path: Path, required: Sequence[str], advice: str, explain: Explain | None = None) -> Table:
    """The table in ``path``, which must name the ``required`` columns (lower case).

    Args:
        path: the file, UTF-8.
        required: names that must stand in the header, once each.
        advice: what to do where one is missing, the end of a sentence.
        explain: the cells of a header that lacks one -> a likely cause, or nothing.

    Raises:
        UserError: no text, a missing or repeated column, a row of another length than the header; with file and line.

    """
    lines = read_text(path, remedy="export it as UTF-8 CSV").split("\n")
    separator, start = _separator(lines, required)
    written_rows = [
        (number, _cells(path, number, line, separator)) for number, line in enumerate(lines[start:], start=start + 1)
    ]
    table = [(number, cells) for number, cells in written_rows if any(cells)]
    line, written = table[0] if table else (1, [])
    header = [cell.lower() for cell in written]
    _check_header(path, line, header, written, required, advice, explain)
    rows = []
    for number, cells in table[1:]:
        if len(cells) != len(header):
            raise UserError(
                f"{path} line {number}: {len(cells)} values for {len(header)} columns: one value per column"
            )
        rows.append((number, dict(zip(header, cells, strict=True))))
    return Table(header, rows)


def _cells(path: Path, number: int, line: str, separator: str) -> list[str]:
    """The stripped cells of one line."""
    try:
        return [cell.strip() for row in csv.reader([line], delimiter=separator, strict=True) for cell in row]
    except csv.Error as error:
        open_mark = (
            'a cell begins with a quotation mark (") but does not end with one: remove it, or keep the cell on a line'
        )
        cause = open_mark if '"' in line else str(error)
        raise UserError(f"{path} line {number} cannot be read as a row: {cause}") from error


def _separator(lines: list[str], required: Sequence[str]) -> tuple[str, int]:
    """What separates the cells of the header, and the index of the line from which on the table is read."""
    start = next((number for number, line in enumerate(lines) if line.strip()), 0)
    first = lines[start].strip()
    if len(first) == 5 and first.lower().startswith("sep=") and first[4] in SEPARATORS:  # Excel's own mark
        return first[4], start + 1

    def named(separator: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"').lower() for cell in first.split(separator)]
        return len(set(cells) & set(required)), len(cells)

    return max(SEPARATORS, key=named), start


def _check_header(
    path: Path,
    line: int,
    header: list[str],
    written: list[str],
    required: Sequence[str],
    advice: str,
    explain: Explain | None,
) -> None:
    if missing := [name for name in required if name not in header]:
        cause = _cause(header, required) or (explain(header) if explain else "")
        raise UserError(
            f"{path} line {line}: column(s) {', '.join(missing)} missing from the header "
            f"'{','.join(written)[:120]}': {cause + '; ' if cause else ''}{advice}"
        )
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise UserError(f"{path} line {line}: column(s) {', '.join(twice)} repeated in the header: keep one of each")


def _cause(header: list[str], required: Sequence[str]) -> str:
    text = " ".join(header)
    for pattern, name in ((r"\s*\|\s*", "'|'"), (r"\s*:\s*", "':'"), (r"\s+", "blanks")):
        if set(required) <= set(re.split(pattern, text.strip())):
            return f"its columns are separated by {name}, commas, semicolons or tabs are read"
    if header and all(parse_number(cell) is not None for cell in header if cell):
        return "the first line holds numbers, not names"
    return ""
