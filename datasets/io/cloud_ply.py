"""PLY files: the vertices of ascii, binary_little_endian and binary_big_endian files, any order and type of properties.

Layout: http://paulbourke.net/dataformats/ply/. (The library plyfile is under the GPL; Open3D fills up truncated files
with memory it never wrote.) Vertices must come before elements that hold lists, as every writer puts them.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distilplace.datasets.io.cloud_text import (
    axis_columns,
    byte_rows,
    header_lines,
    text_rows,
    without_mark,
)

HEADER_LINES = 500
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass
class _Element:
    """One element of the header: how many, and of each property its name and NumPy type ("" for a list)."""

    name: str
    count: int
    properties: list[tuple[str, str]] = field(default_factory=list)

    def row(self, order: str) -> np.dtype:
        """The type of one of its records."""
        if not all(kind for _, kind in self.properties):
            raise ValueError(f"holds lists in its element {self.name}, before or among the vertices: write points only")
        return np.dtype([(f"f{i}", order + kind) for i, (_, kind) in enumerate(self.properties)])


def read_ply(path: Path) -> np.ndarray:
    """Float64 [N, 3], a PLY's vertices; ``ValueError`` with the end of a sentence that begins with the file's name."""
    content = without_mark(path.read_bytes())
    encoding, elements, body = _header(content)
    if [element.name for element in elements].count("vertex") != 1:
        raise ValueError("has no readable .ply header: one element vertex is needed")
    vertex = next(element for element in elements if element.name == "vertex")
    before = elements[: elements.index(vertex)]
    axes = axis_columns([name for name, _ in vertex.properties])
    if encoding == "ascii":
        lines = [line for line in body.splitlines() if line.strip()]
        skipped, last = sum(element.count for element in before), elements[-1] is vertex
        own = lines[skipped:] if last else lines[skipped : skipped + vertex.count]
        vertex.row("<")
        return text_rows(b"\n".join(own), vertex.count, len(vertex.properties))[:, axes]
    order = ORDERS[encoding]
    skipped = sum(element.count * element.row(order).itemsize for element in before)
    row, body = vertex.row(order), body[skipped:]
    if elements[-1] is not vertex:
        body = body[: vertex.count * row.itemsize]
    points = byte_rows(body, vertex.count, row)
    return np.column_stack([points[f"f{axis}"].astype(np.float64) for axis in axes])


def _header(content: bytes) -> tuple[str, list[_Element], bytes]:
    """Encoding, elements, and the bytes after the header."""
    encoding, elements = "", list[_Element]()
    for number, (words, position) in enumerate(header_lines(content, HEADER_LINES)):
        if number == 0 and words != ["ply"]:
            break
        if words[:1] == ["end_header"] and encoding:
            return encoding, elements, content[position:]
        if words[:1] == ["format"]:
            encoding = words[1] if len(words) > 1 else ""
            if encoding not in ORDERS:
                raise ValueError(f"is of format '{encoding[:30]}': {', '.join(ORDERS)} are known")
        elif words[:1] == ["element"]:
            elements.append(_element(words))
        elif words[:1] == ["property"]:
            if not elements:
                raise ValueError("has no readable .ply header: a property before the first element")
            elements[-1].properties.append(_property(words))
    raise ValueError("has no readable .ply header (ply, format, element, property, end_header)")


def _element(words: list[str]) -> _Element:
    if len(words) != 3 or not (words[2].isascii() and words[2].isdigit() and len(words[2]) < 19):
        raise ValueError(f"has no readable .ply header: {' '.join(words)[:60]}")
    return _Element(words[1], int(words[2]))


def _property(words: list[str]) -> tuple[str, str]:
    if len(words) == 5 and words[1] == "list":
        return words[4], ""
    if len(words) != 3 or words[1] not in TYPES:
        raise ValueError(f"has no readable .ply header: {' '.join(words)[:60]}")
    return words[2], TYPES[words[1]]
