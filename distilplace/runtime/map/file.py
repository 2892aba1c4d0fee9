"""The file of a map: one SQLite database, in which every row carries a checksum.

``facts`` (the model, the calibration), ``runs``, ``places``. A run's places have consecutive ids, never used again.
The write-ahead log with full synchronisation keeps what was committed through a crash, and lets readers read on.
"""

import contextlib
import json
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.files import require_file
from distilplace.runtime.map.database import (
    APPLICATION_ID,
    FORMAT,
    SCHEMA,
    connect,
    explained,
    is_empty,
    require_database,
    require_ours,
)
from distilplace.runtime.map.rows import Columns

CHUNK = 2048  # rows fetched at a time
ASKED = 500  # ids in one query
DTYPES = {"float32": "<f4", "float16": "<f2"}
COLUMNS = "id, timestamp, easting, northing, altitude, yaw, image, embedding, crc"


class StoredRun(NamedTuple):
    """A row of ``runs``: its places have the ids from ``first`` on."""

    id: int
    name: str
    added: str
    first: int
    places: int


class MapFile:
    """An open map file. One thread at a time may use it."""

    def __init__(self, path: Path | str, facts: dict[str, str] | None = None) -> None:
        """Open the map ``path``; with ``facts`` one that does not exist yet is made, holding them.

        Raises:
            UserError: no such map, a file of another program or format version, a damaged one.

        """
        self.path = Path(path)
        new = facts is not None and (not self.path.exists() or self.path.stat().st_size == 0)
        if not new:
            require_database(require_file(self.path, "map"))
        with self.reported():
            self._database = connect(self.path, new)
            try:
                if facts is not None and is_empty(self._database):
                    self._create(facts)
                require_ours(self.path, self._database)
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Close it; the last to do so leaves one file behind."""
        with self.reported():
            self._database.close()

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """SQLite's errors as one line that names the map."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: a message that quotes damaged bytes
            raise explained(self.path, error) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Everything inside sees one state of the map, whatever is written meanwhile."""
        with self.reported():
            self._database.execute("BEGIN")
            try:
                self._database.execute("SELECT 1 FROM facts LIMIT 1").fetchone()  # from here on
                yield
            finally:
                self._database.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """All that is written inside, or nothing of it, even if the machine stops; then it lasts."""
        with self.reported():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def version(self) -> int:
        """A number that changes when another program has changed the map."""
        return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def runs(self) -> list[StoredRun]:
        """All runs, in the order in which they were added."""
        found = []
        for *row, crc in self._database.execute("SELECT id, name, added, first, places, crc FROM runs ORDER BY id"):
            if crc != _crc(*row):
                raise self.damaged(f"run {row[1]} is not as it was written")
            found.append(StoredRun(*row))
        return found

    def fact(self, name: str) -> str | None:
        """The text kept under ``name``; None: there is none."""
        row = self._database.execute("SELECT value, crc FROM facts WHERE name = ?", (name,)).fetchone()
        if row is not None and row[1] != _crc(name, row[0]):
            raise self.damaged(f"its {name} is not as it was written")
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str | None) -> None:
        """Keep a text, in a transaction of :meth:`writing`; None: forget it."""
        self._database.execute("DELETE FROM facts WHERE name = ?", (name,))
        if value is not None:
            self._database.execute("INSERT INTO facts VALUES (?, ?, ?)", (name, value, _crc(name, value)))

    def add_run(self, name: str, columns: Columns, blocks: Iterator[np.ndarray], dtype: str) -> None:
        """Write a run of embeddings [b, D] block by block, in a transaction of :meth:`writing`.

        Raises:
            UserError: a run of that name is there, or the blocks hold another number of rows than the columns.

        """
        if any(run.name == name for run in self.runs()):
            raise UserError(f"map {self.path} holds a run {name} already: give another name, or delete that one")
        last = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'places'").fetchone()
        first = 1 if last is None else int(last[0]) + 1
        numbers, count = columns.numbers(), 0
        for block in blocks:
            rows = slice(count, count + len(block))
            count += len(block)
            if count > len(columns):
                break
            stored = np.ascontiguousarray(block, dtype=DTYPES[dtype])
            if not np.isfinite(stored).all():
                raise UserError(f"run {name}: embeddings are too large for {dtype}: choose float32")
            written = _rows(first + rows.start, numbers[rows], columns.images[rows], stored)
            self._database.executemany("INSERT INTO places VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", written)
        if count != len(columns):
            more = "more" if count > len(columns) else str(count)
            raise UserError(f"run {name}: {more} embeddings for {len(columns)} positions: give one each")
        added = datetime.now(UTC).isoformat(timespec="seconds")
        last = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'runs'").fetchone()
        row = (1 if last is None else int(last[0]) + 1, name, added, first, count)
        self._database.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)", (*row, _crc(*row)))

    def delete_run(self, run: StoredRun) -> None:
        """Remove a run, in a transaction of :meth:`writing`."""
        self._database.execute("DELETE FROM places WHERE id BETWEEN ? AND ?", (run.first, run.first + run.places - 1))
        self._database.execute("DELETE FROM runs WHERE id = ?", (run.id,))

    def read_run(self, run: StoredRun, width: int, dtype: str) -> Iterator[tuple[np.ndarray, Columns, np.ndarray]]:
        """Ids, columns and float32 embeddings [b, width] of a run's places, in blocks; every row is verified."""
        count = 0
        asked = f"SELECT {COLUMNS} FROM places WHERE id BETWEEN ? AND ? ORDER BY id"
        rows = self._database.execute(asked, (run.first, run.first + run.places - 1))
        while chunk := rows.fetchmany(CHUNK):
            count += len(chunk)
            yield self._verified(chunk, width, dtype)
        if count != run.places:
            raise self.damaged(f"run {run.name} has {count} of its {run.places} places")

    def embeddings(self, ids: np.ndarray, width: int, dtype: str) -> np.ndarray:
        """Float32 [m, width] of the places ``ids`` [m], which must be there."""
        found = np.empty((len(ids), width), dtype=np.float32)
        order = np.argsort(ids, kind="stable")
        for start in range(0, len(order), ASKED):
            part = order[start : start + ASKED]
            marks = ",".join("?" * len(part))
            asked = f"SELECT {COLUMNS} FROM places WHERE id IN ({marks}) ORDER BY id"
            chunk = self._database.execute(asked, ids[part].tolist()).fetchall()
            if len(chunk) != len(part):
                raise self.damaged("places are missing")
            found[part] = self._verified(chunk, width, dtype)[2]
        return found

    def compact(self) -> None:
        """Write the file anew without what was deleted."""
        with self.reported():
            self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def damaged(self, reason: str) -> UserError:
        """The one line for a damaged map."""
        return UserError(f"map {self.path} is damaged: {reason}: put a copy in its place, or build it again")

    def _verified(self, chunk: Sequence[Any], width: int, dtype: str) -> tuple[np.ndarray, Columns, np.ndarray]:
        size = width * np.dtype(DTYPES[dtype]).itemsize
        try:
            for number, *values, image, embedding, crc in chunk:
                if len(embedding) != size or crc != _place_crc(number, values, image, embedding):
                    raise self.damaged(f"place {number} is not as it was written")
            numbers = np.array([row[1:6] for row in chunk], dtype=np.float64)
            joined = b"".join([row[7] for row in chunk])
        except (TypeError, ValueError, AttributeError, struct.error) as error:
            raise self.damaged(f"a place is not as it was written ({error})") from error
        vectors = np.frombuffer(joined, dtype=DTYPES[dtype]).reshape(len(chunk), width).astype(np.float32)
        ids = np.array([row[0] for row in chunk], dtype=np.int64)
        timestamp, easting, northing, altitude, yaw = numbers.T.copy()
        images = [row[6] for row in chunk]
        return ids, Columns(timestamp, easting, northing, altitude, yaw, images), vectors

    def _create(self, facts: dict[str, str]) -> None:
        self._database.execute("PRAGMA page_size = 8192")
        self._database.execute("PRAGMA journal_mode = WAL")
        with self.writing():
            if not is_empty(self._database):
                return  # another program has made it meanwhile
            for statement in SCHEMA.values():
                self._database.execute(statement)
            for name, value in facts.items():
                self.set_fact(name, value)
            self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._database.execute(f"PRAGMA user_version = {FORMAT}")


def _rows(first: int, numbers: np.ndarray, images: Sequence[str], stored: np.ndarray) -> Iterator[tuple[Any, ...]]:
    for row, (values, image, embedding) in enumerate(zip(numbers.tolist(), images, stored, strict=True)):
        present = [None if value != value else value for value in values]
        blob = embedding.tobytes()
        yield first + row, *present, image, blob, _place_crc(first + row, present, image, blob)


def _place_crc(number: int, values: Sequence[float | None], image: str, embedding: bytes) -> int:
    head = struct.pack("<q5d", number, *(float("nan") if value is None else value for value in values))
    return zlib.crc32(embedding, zlib.crc32(image.encode(), zlib.crc32(head)))


def _crc(*values: Any) -> int:
    return zlib.crc32(json.dumps(values).encode())
