"""``.bin`` clouds: float32 rows without a header. How wide a row is stands nowhere in the file.

Widths in use: 3 (x y z), 4 (KITTI: intensity), 5 (nuScenes: intensity, ring), 6 (Boreas: intensity, laser, time); PCL's
points have 8, 12 or 16. The width is therefore an option; it is guessed only where the sizes of a folder's files leave
one of 3 to 6, and only for files whose values do not speak for another one of 3 to 16.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import lcm
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.io.cloud_layouts import looks_like
from distilplace.datasets.io.cloud_widths import ALL_WIDTHS, WIDTHS, fitting_widths, suggested_width

FLAG = "--bin_columns"


@dataclass(frozen=True)
class BinWidth:
    """How wide the rows of a folder's ``.bin`` files are.

    ``columns`` is None where nothing may be guessed: ``candidates`` are the widths that fit all sizes, and ``problem``
    says it in full (it looks into a file). ``given``: by the user; then a file's values are not looked at.
    """

    columns: int | None
    given: bool = False
    candidates: tuple[int, ...] = ()
    problem: Callable[[], str] = str

    def required(self) -> int:
        """The width; :class:`UserError` with the problem where there is none."""
        if self.columns is None:
            raise UserError(self.problem())
        return self.columns


def bin_width(paths: Iterable[Path], given: int | None = None) -> BinWidth:
    """The row width of the ``.bin`` files among ``paths``: ``given``, or what their sizes leave. No file is opened."""
    sizes = {path: _size(path) for path in paths if path.suffix.lower() == ".bin"}
    if given is not None:
        return BinWidth(given, given=True)
    sizes = {path: size for path, size in sizes.items() if size}  # empty ones are refused when they are read
    if not sizes:
        return BinWidth(3)
    fits = Counter(width for size in sizes.values() for width in fitting_widths(size))
    whole = tuple(width for width in ALL_WIDTHS if fits[width] == len(sizes))
    usual = [width for width in whole if width in WIDTHS]
    if len(usual) == 1:
        return BinWidth(usual[0])
    problem = partial(_ambiguous, whole, list(sizes)) if whole else partial(_odd_one, fits, sizes)
    return BinWidth(None, candidates=whole, problem=problem)


def read_bin(path: Path, width: BinWidth) -> np.ndarray:
    """Float32 [N, 3] of one file.

    Raises:
        UserError: the size is no multiple of a row, the file is text or of another known layout, or its values speak
            for another width than the guessed one.

    """
    content = path.read_bytes()
    if not content:
        return np.empty((0, 3), dtype=np.float32)
    columns, size = width.required(), len(content)
    if other := looks_like(content, columns):
        raise UserError(f"cloud file {path} {other}")
    if size % (4 * columns):
        raise UserError(
            f"cloud file {path} is truncated or of another width: {size} bytes are not a multiple of {4 * columns} "
            f"({columns} float32 a point): copy it again, or set {FLAG}"
        )
    values = np.frombuffer(content, dtype="<f4")
    if not width.given and (other_width := suggested_width(values, columns)):
        raise UserError(
            f"cloud file {path}: its values look like {other_width} columns a point, not {columns}: set {FLAG} to "
            f"what it holds (its size fits {_names(fitting_widths(size))}), or remove it"
        )
    return values.reshape(-1, columns)[:, :3]


def refuse_misfits(paths: Iterable[Path], width: BinWidth) -> None:
    """:class:`UserError` naming the first of the ``.bin`` files whose size is no multiple of the row."""
    columns = width.required()
    for path in paths:
        if path.suffix.lower() == ".bin" and _size(path) % (4 * columns):
            read_bin(path, width)


def width_doubt(paths: Iterable[Path], width: BinWidth | None) -> str | None:
    """A line where the values of ``.bin`` files among ``paths`` speak against the width that the user gave."""
    if width is None or not width.given:
        return None
    columns, bins = width.required(), [path for path in paths if path.suffix.lower() == ".bin"]
    found = Counter(other for path in bins if (other := suggested_width(_values(_content(path)), columns)))
    if not found:
        return None
    likely, count = found.most_common(1)[0]
    return (
        f"{count} of {len(bins)} .bin clouds looked at look like {likely} float32 a point, {FLAG} says {columns}: x, y "
        f"and z may be mixed up: set {FLAG} {likely} if that is so"
    )


def width_note(width: BinWidth) -> str:
    """A line for the log: the width and where it comes from."""
    if width.columns is None:
        usual = [columns for columns in width.candidates if columns in WIDTHS] or width.candidates
        fit = _names(usual) or f"no width of {ALL_WIDTHS[0]} to {ALL_WIDTHS[-1]}"
        wider = _names(columns for columns in width.candidates if columns not in usual)
        also = f" ({wider} too)" if wider else ""
        return f"sizes of the .bin clouds fit {fit} columns{also}: models that read clouds need {FLAG}"
    source = f"as {FLAG} says" if width.given else f"guessed: no other of {WIDTHS[0]} to {WIDTHS[-1]} fits their sizes"
    return f".bin clouds hold {width.columns} columns ({source}); x, y, z come first, the rest is left out"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # whoever opens the file says that it is absent


def _names(widths: Iterable[int]) -> str:
    """As text: "3 or 4 or 6"."""
    return " or ".join(map(str, widths))


def _ambiguous(widths: Sequence[int], paths: list[Path]) -> str:
    """Several widths fit all sizes, or only some that are seldom."""
    content = _content(paths[0])
    if other := looks_like(content):
        return f"cloud file {paths[0]} {other}"
    likely = suggested_width(_values(content), widths[0]) or widths[0]
    first = [width for width in widths if width in WIDTHS or width == likely]
    rest = [width for width in widths if width not in first]
    files = f"cloud file {paths[0]}" if len(paths) == 1 else f"the {len(paths)} .bin files such as {paths[0]}"
    whole = "" if widths[0] in WIDTHS else ", or copy them again if they are truncated"
    return (
        f"{files} may hold {_names(first)} float32 a point, sizes do not tell: set {FLAG} to {_names(first)} (the "
        f"values look most like {likely}{f'; {_names(rest)} fit too' if rest else ''}){whole}"
    )


def _odd_one(fits: Counter[int], sizes: dict[Path, int]) -> str:
    """No width fits all files: the one that most have, and the first file that differs."""
    width = max(ALL_WIDTHS, key=lambda number: fits[number])
    path = next(path for path, size in sizes.items() if size % (4 * width))
    if other := looks_like(_content(path)):
        return f"cloud file {path} {other}"
    if fits[width] == 0:
        return (
            f"cloud file {path}: {sizes[path]} bytes are no whole number of points of {ALL_WIDTHS[0]} to "
            f"{ALL_WIDTHS[-1]} float32: truncated, or another layout (set {FLAG} where its rows are wider)"
        )
    return (
        f"cloud file {path} is truncated or of another width: {sizes[path]} bytes are no whole number of points of "
        f"{width} float32, which fit {fits[width]} of the {len(sizes)} .bin files: copy it again or remove it, or set "
        f"{FLAG}"
    )


def _values(content: bytes) -> np.ndarray:
    return np.frombuffer(content[: len(content) // 4 * 4], dtype="<f4")


def _content(path: Path) -> bytes:
    """The first megabytes of a file, to look at; nothing where it is none."""
    if not path.is_file():
        return b""
    with path.open("rb") as stream:
        return stream.read(8 * lcm(*ALL_WIDTHS))  # whole rows of any width
