"""A FAISS index kept beside its map, in ``<map>.index/``: built once, read by whoever opens the map next.

The map is the truth, this file may be removed: it is used only where its hash is right and it was made of the very
places that the map holds (their runs, and a checksum of their embeddings); else it is built again.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from distilplace.common.files import atomic_path, remove_leftovers
from distilplace.runtime.map.file import StoredRun
from distilplace.runtime.map.indexes import require_faiss

SMALLEST = 20_000
"""Places from which on an index is kept: fewer are indexed in a second."""
MAGIC = b"DPINDEX1"
LONGEST_HEADER = 10_000_000
_DIGEST = 32
_BLOCK = 1 << 20


class Kept(NamedTuple):
    """An index as FAISS read it, the number of ``runs`` whose places it holds, and the ``crc`` of their embeddings."""

    index: Any
    runs: int
    crc: int


class StaleError(Exception):
    """The file is no index of this map as it is: the reason in words."""


def kept_path(where: Path, kind: str) -> Path:
    """Where the index of the map ``where`` is kept."""
    return where.with_name(f"{where.name}.index") / f"{kind}.faiss"


def write_kept(path: Path, recipe: str, runs: Sequence[StoredRun], crc: int, index: Any) -> None:
    """Keep a FAISS index of the places of ``runs``, whole or not at all; :class:`UserError` where that cannot be."""
    faiss = require_faiss(path.stem)
    header = json.dumps({"recipe": recipe, "runs": runs, "crc": crc}).encode()
    digest = hashlib.blake2b(digest_size=_DIGEST)
    remove_leftovers(path.parent)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:

        def write(content: bytes) -> None:
            digest.update(content)
            stream.write(content)

        write(MAGIC + struct.pack("<Q", len(header)) + header)
        faiss.write_index(index, faiss.PyCallbackIOWriter(write))
        stream.write(digest.digest())


def read_kept(path: Path, recipe: str, runs: Sequence[StoredRun], kind: bytes) -> Kept:
    """The index that was kept, of the first of ``runs`` and at least half of their places.

    Args:
        path: the file.
        recipe: what the index has to be built by.
        runs: all that the map holds.
        kind: FAISS's four letters for such an index.

    Raises:
        StaleError: there is none, or it is damaged, of another recipe or of other places.

    """
    faiss = require_faiss(path.stem)
    try:
        with path.open("rb") as stream:
            header, start = _header(stream)
            held = [StoredRun(*run) for run in header["runs"]]
            if header["recipe"] != recipe:
                raise StaleError("the one kept beside the map was built otherwise")
            if held != list(runs[: len(held)]) or 2 * _places(held) < _places(runs):
                raise StaleError("the one kept beside the map is of other places")
            _verify(stream)
            stream.seek(start)
            if stream.read(len(kind)) != kind:
                raise StaleError("the one kept beside the map is of another kind")
            stream.seek(start)
            index = faiss.read_index(faiss.PyCallbackIOReader(stream.read))
            if index.ntotal != _places(held):
                raise StaleError("the one kept beside the map is of other places")
            return Kept(index, len(held), int(header["crc"]))
    except FileNotFoundError as error:
        raise StaleError("none is kept beside the map") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, struct.error) as error:
        raise StaleError(f"the one kept beside the map is damaged ({error})") from error


def _header(stream: IO[bytes]) -> tuple[dict[str, Any], int]:
    """The header, not yet verified, and where the index begins."""
    magic, length = struct.unpack("<8sQ", stream.read(16))
    if magic != MAGIC or length > LONGEST_HEADER:
        raise ValueError("its beginning is not ours")
    found = json.loads(stream.read(length))
    if not isinstance(found, dict):
        raise ValueError("its header is none")
    return found, 16 + length


def _verify(stream: IO[bytes]) -> None:
    """ValueError unless the file ends in the hash of all before it."""
    size = stream.seek(0, 2) - _DIGEST
    digest = hashlib.blake2b(digest_size=_DIGEST)
    stream.seek(0)
    while size > 0:
        block = stream.read(min(_BLOCK, size))
        if not block:
            break
        digest.update(block)
        size -= len(block)
    if stream.read() != digest.digest():
        raise ValueError("its content does not match its hash")


def _places(runs: Sequence[StoredRun]) -> int:
    return sum(run.places for run in runs)
