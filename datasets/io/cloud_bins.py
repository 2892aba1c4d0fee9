"""``.bin`` clouds: float32 rows without a header. How wide a row is stands nowhere in the file.

Widths in use: 3 (x y z), 4 (KITTI: intensity), 5 (nuScenes: intensity, ring), 6 (Boreas: intensity, laser, time). The
width is therefore an option; it is guessed only where the sizes of a folder's files leave one of these, and only for
files whose values do not speak for another one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.io.cloud_layouts import WIDTHS, looks_like, suggested_width

FLAG = "--bin_columns"


@dataclass(frozen=True)
class BinWidth:
    """How wide the rows of a folder's ``.bin`` files are.

    ``columns`` is None where nothing may be guessed: ``candidates`` are the widths that fit all sizes, and ``problem``
    says it in full (it looks into a file). ``given``: by the user; then a file's values are not asked.
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
    fits = {width: sum(size % (4 * width) == 0 for size in sizes.values()) for width in WIDTHS}
    whole = [width for width, count in fits.items() if count == len(sizes)]
    if len(whole) == 1:
        return BinWidth(whole[0])
    problem = partial(_ambiguous, whole, list(sizes)) if whole else partial(_odd_one, fits, sizes)
    return BinWidth(None, candidates=tuple(whole), problem=problem)


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
            f"cloud file {path}: its values look like {other_width} columns a point, not {columns}: remove "
            f"it, or set {FLAG}"
        )
    return values.reshape(-1, columns)[:, :3]


def refuse_misfits(paths: Iterable[Path], width: BinWidth) -> None:
    """:class:`UserError` naming the first of the ``.bin`` files whose size is no multiple of the row."""
    columns = width.required()
    for path in paths:
        if path.suffix.lower() == ".bin" and _size(path) % (4 * columns):
            read_bin(path, width)


def width_note(width: BinWidth) -> str:
    """A line for the log: the width and where it comes from."""
    if width.columns is None:
        fit = " or ".join(map(str, width.candidates)) or f"no width of {WIDTHS[0]} to {WIDTHS[-1]}"
        return f"sizes of the .bin clouds fit {fit} columns: models that read clouds need {FLAG}"
    source = f"as {FLAG} says" if width.given else f"guessed: no other of {WIDTHS[0]} to {WIDTHS[-1]} fits their sizes"
    return f".bin clouds hold {width.columns} columns ({source}); x, y, z come first, the rest is left out"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # whoever opens the file says that it is absent


def _ambiguous(widths: list[int], paths: list[Path]) -> str:
    """Several widths fit all sizes."""
    content, names = _content(paths[0]), " or ".join(map(str, widths))
    if other := looks_like(content):
        return f"cloud file {paths[0]} {other}"
    values = np.frombuffer(content[: len(content) // 4 * 4], dtype="<f4")
    likely = suggested_width(values, widths[0]) or widths[0]
    files = f"cloud file {paths[0]}" if len(paths) == 1 else f"the {len(paths)} .bin files such as {paths[0]}"
    return (
        f"{files} may hold {names} float32 a point, sizes do not tell: set {FLAG} to {names} (the values look most "
        f"like {likely})"
    )


def _odd_one(fits: dict[int, int], sizes: dict[Path, int]) -> str:
    """No width fits all files: the one that most have, and the first file that differs."""
    width = max(fits, key=lambda number: fits[number])
    path = next(path for path, size in sizes.items() if size % (4 * width))
    if other := looks_like(_content(path)):
        return f"cloud file {path} {other}"
    if fits[width] == 0:
        return (
            f"cloud file {path}: {sizes[path]} bytes are no whole number of points of {', '.join(map(str, WIDTHS))} "
            f"float32: truncated, or another layout (set {FLAG} where its rows are wider)"
        )
    return (
        f"cloud file {path} is truncated or of another width: {sizes[path]} bytes are no whole number of points of "
        f"{width} float32, which fit {fits[width]} of the {len(sizes)} .bin files: copy it again or remove it, or set "
        f"{FLAG}"
    )


def _content(path: Path) -> bytes:
    """The first megabytes of a file, to look at; nothing where it is none."""
    if not path.is_file():
        return b""
    with path.open("rb") as stream:
        return stream.read(60 * 10**5)  # whole rows of any width
