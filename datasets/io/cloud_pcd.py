"""PCD files (versions .5 to .7): ascii, binary and binary_compressed, any order, number and type of fields.

Layout: https://pointclouds.org/documentation/tutorials/pcd_file_format.html. Open3D reads float64 coordinates as zeros
and words as zeros, and takes no upper-case X Y Z; so header and bytes are read here, with liblzf for the compression.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distilplace.datasets.io.cloud_text import (
    axis_columns,
    byte_rows,
    header_lines,
    text_rows,
    without_mark,
)

HEADER_LINES = 100
KEYS = {"FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "POINTS", "DATA"}
TYPES = {("F", size): f"<f{size}" for size in (4, 8)} | {
    (kind, size): f"<{kind.replace('U', 'u').replace('I', 'i')}{size}" for kind in "IU" for size in (1, 2, 4, 8)
}
LARGEST_RATIO = 100  # a three-byte token of LZF stands for 264 bytes at most


@dataclass(frozen=True)
class _Header:
    """Fields of a point with their NumPy types and repetitions; number of points; how the body is written."""

    fields: list[str]
    types: list[str]
    counts: list[int]
    points: int
    encoding: str

    @property
    def columns(self) -> int:
        """Values of a point."""
        return sum(self.counts)

    @property
    def axes(self) -> list[int]:
        """Which fields are x, y, z."""
        axes = axis_columns(self.fields)
        if any(self.counts[axis] != 1 for axis in axes):
            raise ValueError("has more than one value in x, y or z (COUNT): one each is needed")
        return axes


def read_pcd(path: Path) -> np.ndarray:
    """Float64 [N, 3] of a PCD file; ``ValueError`` with the end of a sentence that begins with the file's name."""
    content = without_mark(path.read_bytes())
    header, body = _header(content)
    axes = header.axes
    if header.encoding == "ascii":
        first = np.cumsum([0, *header.counts])
        return text_rows(body, header.points, header.columns)[:, first[axes]]
    if header.encoding == "binary":
        row = np.dtype([(f"f{i}", t, (n,)) for i, (t, n) in enumerate(zip(header.types, header.counts, strict=True))])
        points = byte_rows(body, header.points, row)
        return np.column_stack([points[f"f{axis}"][:, 0].astype(np.float64) for axis in axes])
    return _compressed(body, header, axes)


def _compressed(body: bytes, header: _Header, axes: list[int]) -> np.ndarray:
    """The fields lie one after the other, each for all points; before them both sizes as uint32."""
    if header.points == 0:
        return np.empty((0, 3))
    import lzf

    widths = [np.dtype(kind).itemsize * count for kind, count in zip(header.types, header.counts, strict=True)]
    whole = header.points * sum(widths)
    packed, unpacked = (int.from_bytes(body[start : start + 4], "little") for start in (0, 4))
    if len(body) < 8 or len(body) - 8 < packed:
        raise ValueError(f"is truncated: {max(0, len(body) - 8)} of {packed} compressed bytes are there")
    if unpacked != whole:
        raise ValueError(f"is damaged: {unpacked} bytes are compressed, {header.points} points take {whole}")
    if unpacked > LARGEST_RATIO * packed:
        raise ValueError(f"is damaged: {packed} bytes cannot unpack to {unpacked}")
    try:
        plain = lzf.decompress(body[8 : 8 + packed], unpacked)
    except ValueError:
        plain = None
    if plain is None or len(plain) != whole:
        raise ValueError("is damaged: its body does not decompress")
    starts = np.cumsum([0, *(header.points * width for width in widths)])
    columns = [np.frombuffer(plain, header.types[axis], header.points, int(starts[axis])) for axis in axes]
    return np.column_stack([column.astype(np.float64) for column in columns])


def _header(content: bytes) -> tuple[_Header, bytes]:
    """The header, checked, and the bytes after it."""
    entries: dict[str, list[str]] = {}
    for words, position in header_lines(content, HEADER_LINES):
        key = "FIELDS" if words[:1] == ["COLUMNS"] else "".join(words[:1])
        if key not in KEYS:
            continue
        if key in entries:
            raise ValueError(f"names {key} twice in its header")
        entries[key] = words[1:]
        if key == "DATA":
            return _checked(entries), content[position:]
    raise ValueError("has no readable .pcd header (FIELDS, SIZE, TYPE, POINTS, DATA)")


def _checked(entries: dict[str, list[str]]) -> _Header:
    fields, kinds = entries.get("FIELDS", []), entries.get("TYPE", [])
    sizes = _counts(entries, "SIZE", [])
    repeats = _counts(entries, "COUNT", [1] * len(fields))
    if not fields or not len(fields) == len(kinds) == len(sizes) == len(repeats):
        raise ValueError(
            f"has no readable .pcd header: FIELDS, SIZE, TYPE, COUNT hold {len(fields)}, {len(sizes)}, {len(kinds)}, "
            f"{len(repeats)} entries"
        )
    for field, kind, size in zip(fields, kinds, sizes, strict=True):
        if (kind, size) not in TYPES:
            raise ValueError(f"has a field {field} of type {kind}{size}, which PCD does not know")
    if min(repeats) < 1 or max(repeats) > 10**4:
        raise ValueError("has no readable .pcd header: COUNT must lie between 1 and 10000")
    grid = _counts(entries, "WIDTH", [-1]) + _counts(entries, "HEIGHT", [1])
    points = (_counts(entries, "POINTS", [grid[0] * grid[1]]) or [-1])[0]
    if points < 0:
        raise ValueError("has no readable .pcd header: it declares no number of POINTS")
    if "WIDTH" in entries and grid[0] * grid[1] != points:
        raise ValueError(f"declares {points} points, but WIDTH {grid[0]} times HEIGHT {grid[1]}")
    encoding = (entries["DATA"] or [""])[0].lower()
    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise ValueError(f"has a body of kind '{encoding[:30]}': ascii, binary and binary_compressed are known")
    types = [TYPES[kind, size] for kind, size in zip(kinds, sizes, strict=True)]
    return _Header(fields, types, repeats, points, encoding)


def _counts(entries: dict[str, list[str]], key: str, default: list[int]) -> list[int]:
    """Whole numbers of a header line."""
    words = entries.get(key)
    if words is None:
        return default
    if not words or not all(word.isascii() and word.isdigit() and len(word) < 19 for word in words):
        raise ValueError(f"has no readable .pcd header: {key} {' '.join(words)[:60]}")
    return [int(word) for word in words]
