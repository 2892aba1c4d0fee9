"""Ways in which files get damaged; each is a function of the bytes and a seed, so that a failure can be repeated."""

import random
import struct
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]


def truncated(content: bytes, draw: random.Random) -> bytes:
    """An interrupted copy: the end is missing. An odd number of bytes stays, so that no row ends there by chance."""
    return content[: draw.randrange(1, max(len(content) - 1, 2)) | 1]


def emptied(content: bytes, draw: random.Random) -> bytes:
    """A full disk: the name without its content."""
    return b""


def text(content: bytes, draw: random.Random) -> bytes:
    """A download that was refused: a page instead of the file."""
    page = "<!DOCTYPE html><html><head><title>404</title></head><body>Sorry, this file is not here.</body></html>\n"
    return page.encode() * draw.randrange(1, 40)


def flipped(content: bytes, draw: random.Random) -> bytes:
    """A worn disk: one bit."""
    changed = bytearray(content)
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def scrambled(content: bytes, draw: random.Random) -> bytes:
    """A stretch of random bytes."""
    start = draw.randrange(len(content))
    noise = draw.randbytes(draw.randrange(1, 64))
    return content[:start] + noise + content[start + len(noise) :]


def zeroed(content: bytes, draw: random.Random) -> bytes:
    """A hole of zeros, as after a crash of the machine, to the end of the file."""
    start = draw.randrange(len(content) // 2 + 1)
    return content[:start] + bytes(len(content) - start)


def head_changed(content: bytes, draw: random.Random) -> bytes:
    """A huge number where a header may hold a length."""
    start = draw.randrange(min(len(content), 160))
    number = struct.pack("<q", draw.choice((2**62, 2**40, 2**31 - 1, -1)))
    return content[:start] + number + content[start + 8 :]


def numbers_grown(content: bytes, draw: random.Random) -> bytes:
    """Some number written in digits becomes 10^12 times as large."""
    digits = [index for index, byte in enumerate(content[:4000]) if chr(byte).isdigit()]
    if not digits:
        return scrambled(content, draw)
    place = draw.choice(digits)
    return content[: place + 1] + b"0" * 12 + content[place + 1 :]


def appended(content: bytes, draw: random.Random) -> bytes:
    """Something else behind the end."""
    return content + draw.randbytes(1 + 2 * draw.randrange(200))


def words_inside(content: bytes, draw: random.Random) -> bytes:
    """Words where numbers should be."""
    start = draw.randrange(len(content))
    return content[:start] + b" nonsense " + content[start:]


MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (
        *(truncated, emptied, text, flipped, scrambled, zeroed),
        *(head_changed, numbers_grown, appended, words_inside),
    )
}
REPEATED = ("truncated", "flipped", "scrambled", "head_changed", "numbers_grown", "words_inside")
"""Mutations that differ by their seed: tried twice."""
