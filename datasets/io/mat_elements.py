"""The skeleton of a MATLAB v5 to v7 file, checked before SciPy reads it.

SciPy takes kinds and lengths in a file at their word: a wrong kind of a number crashes the process, a compressed
variable may expand to any size. Checked here: every element is of a known kind and ends inside what holds it.
Source: "MAT-File Format" of The MathWorks, level 5.
"""

import zlib
from pathlib import Path
from typing import Literal

from distilplace.common.errors import UserError

Order = Literal["little", "big"]
ORDER = slice(126, 128)  # where the header says "MI" or, byte by byte, "IM"
HEADER = 128  # bytes before the first variable
MOST_EXPANSION, SMALL = 200, 2**24  # lists of names and positions expand less
MATRIX, COMPRESSED = 14, 15
FLAGS, SIZES, NAMES = 6, 5, 1
"""Kinds of the first elements of a matrix: class and flags, sizes, name."""
PLAIN = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
"""Kinds of numbers and characters, and the bytes of one."""
CELL, STRUCT, OBJECT, CHARACTERS, SPARSE, LAST_NUMERIC = 1, 2, 3, 4, 5, 15
DEPTH = 12


def require_sound_mat(content: bytes, path: Path) -> None:
    """Refuse (:class:`UserError`) a file whose skeleton is damaged."""
    order: Order = "big" if content[ORDER] == b"MI" else "little"
    try:
        _Elements(content[HEADER:], MOST_EXPANSION * len(content) + SMALL, order).check()
    except (ValueError, zlib.error, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a MATLAB file, it may be damaged ({error})") from None


class _Elements:
    """A sequence of elements, each a kind, a length and as many bytes, padded to eight."""

    def __init__(self, content: bytes, most: int, order: Order, depth: int = 0) -> None:
        self.content, self.most, self.order, self.depth = content, most, order, depth
        self.at = 0
        if depth > DEPTH:
            raise ValueError("nested too deep")

    def check(self) -> None:
        """The top of a file: matrices, compressed or not."""
        while self.at < len(self.content):
            kind, content = self.next(padded=False)
            if kind == COMPRESSED:
                inner = _Elements(_expanded(content, self.most), self.most, self.order, self.depth + 1)
                kind, content = inner.next(padded=False)
            if kind != MATRIX:
                raise ValueError(f"a variable of the unknown kind {kind}")
            _Elements(content, self.most, self.order, self.depth + 1).check_matrix()

    def check_matrix(self) -> None:
        """The content of a matrix: class, sizes, name, then what its class has."""
        flags, sizes = self.named(FLAGS, "class"), self.named(SIZES, "sizes")
        self.named(NAMES, "name")
        if len(flags) != 8 or len(sizes) < 8:
            raise ValueError("a matrix without class or sizes")
        cells = 1
        for begin in range(0, len(sizes) - 3, 4):
            cells *= int.from_bytes(sizes[begin : begin + 4], self.order, signed=True)
        kind = flags[0 if self.order == "little" else 3]
        if cells < 0 or not CELL <= kind <= LAST_NUMERIC:
            raise ValueError(f"a matrix of class {kind} and {cells} cells")
        if kind in (CELL, STRUCT, OBJECT):
            self.check_cells(cells, kind)
        else:
            self.check_numbers(cells, kind)

    def check_cells(self, cells: int, kind: int) -> None:
        """Cells, or a struct's fields: as many matrices as there must be."""
        if kind != CELL:
            if kind == OBJECT:
                self.named(NAMES, "class name")
            width = int.from_bytes(self.named(SIZES, "length of names")[:4], self.order, signed=True)
            names = self.named(NAMES, "names of fields")
            if not 0 < width <= 64 or len(names) % width:
                raise ValueError("a struct whose names have no length")
            cells *= len(names) // width
        for _ in range(cells):
            found, content = self.next()
            if found != MATRIX:
                raise ValueError(f"a cell of the kind {found}")
            if content:
                _Elements(content, self.most, self.order, self.depth + 1).check_matrix()
        if self.at < len(self.content):
            raise ValueError("more than its sizes say")

    def check_numbers(self, cells: int, kind: int) -> None:
        """Real, and perhaps imaginary, numbers or characters: no fewer than there are cells, unless sparse."""
        count = 0
        while self.at < len(self.content):
            found, content = self.next()
            if found not in PLAIN:
                raise ValueError(f"numbers of the unknown kind {found}")
            if kind not in (SPARSE, CHARACTERS) and len(content) != cells * PLAIN[found]:
                raise ValueError(f"{len(content)} bytes of numbers for {cells} cells")
            if kind == CHARACTERS and len(content) < cells and found != 16:
                raise ValueError(f"{len(content)} bytes of characters for {cells} cells")
            count += 1
        if not count and cells:
            raise ValueError("a matrix without its numbers")

    def named(self, wanted: int, what: str) -> bytes:
        """The content of the next element, which must be of the kind ``wanted``."""
        kind, content = self.next()
        if kind != wanted:
            raise ValueError(f"{what} of the kind {kind}")
        return content

    def next(self, padded: bool = True) -> tuple[int, bytes]:
        """Kind and content of the next element; up to four bytes lie in its head itself."""
        head = self.content[self.at : self.at + 8]
        if len(head) < 8:
            raise ValueError("cut off")
        kind, length = int.from_bytes(head[:4], self.order), int.from_bytes(head[4:], self.order)
        if kind >> 16:
            length, kind = kind >> 16, kind & 0xFFFF
            if length > 4:
                raise ValueError("a small element that is none")
            self.at += 8
            return kind, head[4 : 4 + length]
        begin = self.at + 8
        self.at = begin + length + (-length % 8 if padded else 0)
        if begin + length > len(self.content):
            raise ValueError("cut off")
        return kind, self.content[begin : begin + length]


def _expanded(content: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(content, most)
    if unpacker.unconsumed_tail:
        raise ValueError(f"a variable would expand to more than {most:,} bytes")
    return found
