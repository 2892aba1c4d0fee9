"""Plain .npy files, opened only after the header was compared with the file's size.

``numpy.load`` allocates what a header promises before it reads: a few bytes could claim a terabyte.
"""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

MOST_EXPANSION, SMALL = 200, 2**24  # a zip of a few kilobytes can unpack to any number of bytes


def load_npy(path: Path) -> np.ndarray:
    """The array of a .npy file of plain values (no objects, never unpickled).

    Raises:
        ValueError: the header is no .npy header, names objects, or promises more or fewer bytes than there are.
        OSError: the file cannot be read.

    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")  # a pipe would be waited for
    with path.open("rb") as stream:
        require_plain_npy(stream, path.stat().st_size)
        stream.seek(0)
        loaded: np.ndarray = np.load(stream, allow_pickle=False)
    return loaded


def load_npz(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays ``names`` of an .npz archive, each checked as :func:`load_npy` does.

    Raises:
        KeyError: the archive has no such array.
        ValueError, OSError, zipfile.BadZipFile: it cannot be read, or an array is none of plain values.

    """
    found = []
    most = MOST_EXPANSION * path.stat().st_size + SMALL
    with zipfile.ZipFile(path) as archive:
        for name in names:
            try:
                member = archive.getinfo(f"{name}.npy")
            except KeyError:
                raise KeyError(f"no array {name}") from None
            if member.file_size > most:
                raise ValueError(f"array {name} would take {member.file_size} bytes")
            with archive.open(member) as stream:
                require_plain_npy(stream, member.file_size)
            with archive.open(member) as stream:
                found.append(np.lib.format.read_array(stream, allow_pickle=False))
    return found


def require_plain_npy(stream: IO[Any], size: int) -> None:
    """Check the .npy header at the start of ``stream`` against the ``size`` of its file, bytes; :class:`ValueError`."""
    shape, dtype = _header(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not opened")
    if dtype.itemsize == 0 or max(shape, default=0) > size:  # an empty array may name any number of empty rows
        raise ValueError(f"its header promises {_shape(shape)} {dtype}, which no file of {size} bytes can hold")
    promised, present = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if promised != present:
        raise ValueError(f"its header promises {_shape(shape)} {dtype}, {promised} bytes, but {present} follow")


def _header(stream: IO[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except OSError:
        raise
    except Exception as error:  # a mutated header makes NumPy's parser raise nearly anything
        raise ValueError(f"its header cannot be read: {type(error).__name__}") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"its header names the shape {_shape(shape)}")
    return shape, dtype


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one"
