"""The hash in an exported student, which notices a flipped bit: BLAKE2b of the file with the hash's digits zeroed.

It stands in the ONNX metadata as an entry of its own, so it is found and verified without parsing the file. BLAKE2b:
SHA-256 takes twice as long where a processor has no instructions for it.
"""

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distilplace.common.errors import UserError

HASH = "distilplace_blake2b"
"""Entry of the metadata that holds the hash."""
STATED = "hashed"
"""Entry of the card's ``export`` that says that there is one, so that damage to the entry itself is noticed."""
_BYTES = 32
DIGITS = 2 * _BYTES
EMPTY = "0" * DIGITS
_ENTRY = b"\x0a" + bytes([len(HASH)]) + HASH.encode() + b"\x12" + bytes([DIGITS])  # key and length, as ONNX stores them


def stamped(content: bytes) -> bytes:
    """``content`` of an ONNX file whose metadata hold :data:`EMPTY` under :data:`HASH`, with the hash in its place.

    Raises:
        ValueError: there is no such entry.

    """
    at = content.rfind(_ENTRY + EMPTY.encode())
    if at < 0:
        raise ValueError(f"the metadata lack an entry {HASH}")
    start = at + len(_ENTRY)
    digest = hashlib.blake2b(content, digest_size=_BYTES).hexdigest()
    return content[:start] + digest.encode() + content[start + DIGITS :]


def verify(path: Path) -> bool:
    """Is the hash of ``path`` that of its bytes? False: the file has none.

    Raises:
        UserError: it has another, or the file cannot be read.

    """
    with _mapped(path) as content:
        at = content.rfind(_ENTRY)
        if at < 0:
            return False
        start, end = at + len(_ENTRY), at + len(_ENTRY) + DIGITS
        digest = hashlib.blake2b(digest_size=_BYTES)
        with memoryview(content) as view:
            for part in (view[:start], EMPTY.encode(), view[end:]):
                digest.update(part)
                if isinstance(part, memoryview):
                    part.release()
        if digest.hexdigest().encode() != content[start:end]:
            raise damaged(path)
        return True


def damaged(path: Path) -> UserError:
    """The one line for a file that is not as it was written."""
    return UserError(
        f"student {path} is damaged or was changed by another program (its content does not match its hash): copy it "
        "again, or export it again"
    )


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                yield b""
                return
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield content
    except OSError as error:
        raise UserError(f"student {path} cannot be read: {error.strerror or error}") from error
