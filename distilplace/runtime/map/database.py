"""The SQLite database that a map is: its tables, how it is opened, and its errors in plain words."""

import os
import sqlite3
from pathlib import Path

from distilplace.common.errors import UserError

APPLICATION_ID = 0x44504D50  # "DPMP", in the file's header
FORMAT = 1
MAGIC = b"SQLite format 3\0"
SCHEMA = {
    "facts": "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL)",
    "places": (
        "CREATE TABLE places (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp REAL NOT NULL, easting REAL NOT NULL, "
        "northing REAL NOT NULL, altitude REAL, yaw REAL, image TEXT NOT NULL, embedding BLOB NOT NULL, "
        "crc INTEGER NOT NULL)"
    ),
    "runs": (
        "CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, added TEXT NOT NULL, "
        "first INTEGER NOT NULL, places INTEGER NOT NULL, crc INTEGER NOT NULL)"
    ),
}
WAIT = 30.0  # seconds for another writer


def connect(path: Path, new: bool) -> sqlite3.Connection:
    """A connection, for reading alone where nothing may be written."""
    folder = path.resolve().parent
    if new:
        folder.mkdir(parents=True, exist_ok=True)
    where = path.resolve().as_uri()
    writable = os.access(folder, os.W_OK) and (new or os.access(path, os.W_OK))
    waiting = Path(f"{path}-wal")
    modes = ["rwc" if new else "rw"] if writable else ["ro"]
    if not writable and not (waiting.exists() and waiting.stat().st_size):
        modes.append("ro&immutable=1")  # a read-only disk: nobody else writes there either
    for mode in modes:
        database = sqlite3.connect(
            f"{where}?mode={mode}", uri=True, isolation_level=None, timeout=WAIT, check_same_thread=False
        )
        try:
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = FULL"):
                database.execute(f"PRAGMA {pragma}")
            if not new:
                database.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            database.close()
            if mode == modes[-1]:
                raise
            continue
        except BaseException:
            database.close()
            raise
        break
    return database


def require_database(path: Path) -> None:
    """:class:`UserError` for what is no SQLite database at all."""
    try:
        with path.open("rb") as stream:
            start = stream.read(len(MAGIC))
    except OSError as error:
        raise UserError(f"map {path} cannot be read: {error.strerror or error}") from error
    if start and start != MAGIC:
        raise UserError(f"{path} is no map of places: check the path")


def is_empty(database: sqlite3.Connection) -> bool:
    """Holds it nothing yet, and is nobody's? A writer that was killed as it began leaves that."""
    owner = database.execute("PRAGMA application_id").fetchone()[0]
    return owner == 0 and database.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def require_ours(path: Path, database: sqlite3.Connection) -> None:
    """:class:`UserError` for another program's database, a later version's, or one with more than our tables.

    Views and triggers of a foreign hand would run as we read and write.
    """
    if is_empty(database):
        raise UserError(f"map {path} is empty: remove it, or add a run to it")
    if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise UserError(f"{path} is no map of places: check the path")
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version != FORMAT:
        raise UserError(
            f"map {path} has format {version}, this program reads {FORMAT}: "
            f"{'update DistilPlace' if version > FORMAT else 'build it again'}"
        )
    found = database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    if {name: text for name, text in found if name != "sqlite_sequence"} != SCHEMA:
        raise UserError(f"{path} is no map of places: its tables are others; check the path")


def explained(path: Path, error: Exception) -> UserError:
    """SQLite's error as the one line for a user."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError(f"map {path} is being written by another program: try again when it is done")
    if code == sqlite3.SQLITE_FULL:
        return UserError(f"cannot write map {path}: the disk is full; free some space, then give the command again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return UserError(f"map {path} cannot be opened or written here ({error}): check the rights on its folder")
    if code == sqlite3.SQLITE_IOERR:
        return UserError(f"map {path}: the disk reports an error ({error}): check it")
    return UserError(f"map {path} is damaged ({error}): put a copy in its place, or build it again")
