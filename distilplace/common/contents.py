"""What files contain, as hashes: computed once per file, remembered by its stat data (as git's index does).

A hash says "same content" wherever a file lies and whenever it was written, so copies and ``touch`` change nothing. It
is read again only when size, time of modification, time of change or inode differ from what was remembered; the time of
change cannot be set by a user, so ``cp -p`` of other content over a file is seen. Memory:
``$DISTILPLACE_CACHE/contents.sqlite`` (default ``~/.cache/distilplace``); without it everything works, only slower.
"""

import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from distilplace.common.errors import UserError
from distilplace.common.files import sha256

DIGITS = 32  # of 64 hex digits: enough that no two files meet by chance
YOUNG = 2_000_000_000  # nanoseconds; a file this fresh may change again within one tick of its clock
READERS = 8
_CHUNK = 500


class _Seen(NamedTuple):
    size: int
    modified: int
    changed: int
    inode: int


def content_hashes(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file's content, 32 hex digits; "" for a file that is not there.

    Raises:
        UserError: something that is no regular file, or cannot be read.

    """
    wanted = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))
    stats = {path: _stat(path) for path in wanted}
    found = {path: "" for path, seen in stats.items() if seen is None}
    with _memory() as memory:
        remembered = dict(_recall(memory, wanted))
        for path, seen in stats.items():
            if seen is not None and remembered.get(_name(path), (None,))[:-1] == tuple(seen):
                found[path] = str(remembered[_name(path)][-1])
        new = [path for path in wanted if path not in found]
        now = time.time_ns()
        found.update(zip(new, _read(new), strict=True))
        settled = [path for path in new if (seen := stats[path]) and max(seen.modified, seen.changed) < now - YOUNG]
        _remember(memory, [(_name(path), *(stats[path] or ()), found[path]) for path in settled])
    return [found[Path(os.path.abspath(path))] for path in paths]


def _stat(path: Path) -> _Seen | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is no regular file")
    return _Seen(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (2**63 - 1))


def _read(paths: Sequence[Path]) -> Iterator[str]:
    from tqdm import tqdm

    with ThreadPoolExecutor(READERS) as readers:
        found = readers.map(_digest, paths)
        yield from tqdm(found, "files' contents", total=len(paths), leave=False, delay=2, disable=None)


def _digest(path: Path) -> str:
    try:
        return sha256(path)[:DIGITS]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _name(path: Path) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=16).digest()


@contextmanager
def _memory() -> Iterator[sqlite3.Connection | None]:
    """The table of remembered hashes; None where there is no place for one."""
    folder = Path(os.environ.get("DISTILPLACE_CACHE") or Path.home() / ".cache" / "distilplace")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(folder / "contents.sqlite", timeout=5)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS contents (name BLOB PRIMARY KEY, size INTEGER, modified INTEGER, "
            "changed INTEGER, inode INTEGER, digest TEXT) WITHOUT ROWID"
        )
    except (OSError, RuntimeError, sqlite3.Error):
        yield None
        return
    with closing(connection):
        yield connection


def _recall(memory: sqlite3.Connection | None, paths: Sequence[Path]) -> Iterable[tuple[bytes, tuple[object, ...]]]:
    if memory is None:
        return
    names = [_name(path) for path in paths]
    for start in range(0, len(names), _CHUNK):
        chunk = names[start : start + _CHUNK]
        marks = ",".join("?" * len(chunk))
        try:
            rows = memory.execute(f"SELECT * FROM contents WHERE name IN ({marks})", chunk).fetchall()
        except sqlite3.Error:
            return
        yield from ((row[0], row[1:]) for row in rows)


def _remember(memory: sqlite3.Connection | None, rows: Sequence[tuple[object, ...]]) -> None:
    if memory is None or not rows:
        return
    try:
        with memory:
            memory.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, ?, ?)", rows)
    except sqlite3.Error:  # a full disk, or another process that holds the table: the next run reads the files again
        return
