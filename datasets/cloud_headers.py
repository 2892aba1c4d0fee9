"""Headers of PCD and PLY files, read only to see whether the body is whole.

Open3D answers a truncated file with as many points as the header promises, the missing ones uninitialised.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from common.errors import UserError

HEADER_LINES = 500
PLY_BYTES = {
    **{"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8},
    **{"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8},
}


@dataclass
class _Header:
    """Number of points, whether the body is text, and the widths (bytes) of a point's values (empty: unknown)."""

    points: int = -1
    encoding: str = ""
    widths: list[int] = field(default_factory=list)


def declared_points(path: Path) -> int:
    """How many points the header declares; a :class:`UserError` when unreadable or the body is too short."""
    with path.open("rb") as stream:
        header = _pcd_header(stream) if path.suffix.lower() == ".pcd" else _ply_header(stream)
        if header.points < 0 or not header.encoding:
            raise UserError(f"cloud file {path} has no readable {path.suffix} header: write it again")
        body = stream.read()
    if not _whole(header, body):
        raise UserError(
            f"cloud file {path} is truncated: its header declares {header.points} points, the {len(body)} bytes "
            "after it hold fewer: copy or write it again"
        )
    return header.points


def _whole(header: _Header, body: bytes) -> bool:
    if header.points == 0 or not header.widths:
        return True
    if header.encoding == "ascii":
        lines = [line for line in body.splitlines() if line.strip()]
        return len(lines) >= header.points and len(lines[header.points - 1].split()) >= len(header.widths)
    if header.encoding == "binary_compressed":
        return len(body) >= 8 + int.from_bytes(body[:4], "little")
    return len(body) >= header.points * sum(header.widths)


def _pcd_header(stream: BinaryIO) -> _Header:
    header = _Header()
    sizes: list[int] = []
    counts: list[int] = []
    for words in _lines(stream):
        if words[0] == "SIZE":
            sizes = _numbers(words)
        elif words[0] == "COUNT":
            counts = _numbers(words)
        elif words[0] == "POINTS" and words[1:2] and words[1].isdigit():
            header.points = int(words[1])
        elif words[0] == "DATA" and len(words) == 2:
            header.encoding = words[1]
            break
    header.widths = [size for size, count in zip(sizes, counts or [1] * len(sizes), strict=False) for _ in range(count)]
    return header


def _ply_header(stream: BinaryIO) -> _Header:
    """The vertex element's header; widths stay unknown when another element precedes it or it holds lists."""
    header, encoding, element, measurable = _Header(), "", "", True
    for words in _lines(stream):
        if words[0] == "format" and len(words) > 1:
            encoding = "ascii" if words[1] == "ascii" else "binary"
        elif words[0] == "element" and len(words) == 3:
            element = words[1]
            measurable &= header.points >= 0 or element == "vertex"
            if element == "vertex" and words[2].isdigit():
                header.points = int(words[2])
        elif words[0] == "property" and element == "vertex":
            measurable &= words[1] in PLY_BYTES
            header.widths.append(PLY_BYTES.get(words[1], 0))
        elif words[0] == "end_header":
            header.encoding = encoding
            break
    if not measurable:
        header.widths = []
    return header


def _lines(stream: BinaryIO) -> Iterator[list[str]]:
    """Words of the header's lines, blank ones left out; the stream stays right behind the last line taken."""
    for _ in range(HEADER_LINES):
        line = stream.readline(4096)
        if not line:
            return
        words = line.decode("ascii", errors="replace").split()
        if words:
            yield words


def _numbers(words: list[str]) -> list[int]:
    return [int(word) for word in words[1:] if word.isdigit()]
