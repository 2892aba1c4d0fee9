"""The same map on Milvus: a cluster by its address, or a milvus-lite file. For fleets; one machine needs none of it.

Milvus has no transactions. A run counts once its entry among the facts is written, after all of its places; places
without one were left by a writer that was killed: they are never found, and ``compact`` removes them. Two programs that
add a run of the same name at the same time are not told apart.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from distilplace.common.errors import UserError
from distilplace.runtime.map.base import BaseMap, Storage
from distilplace.runtime.map.milvus_client import MOST, NUMBERS, Client
from distilplace.runtime.map.rows import Columns, Match, RunInfo, make_match
from distilplace.runtime.map.space import Space

FORMAT = 1
RUN = "run:"


class _Run(NamedTuple):
    info: RunInfo
    token: str
    """What its places carry."""


class MilvusMap(BaseMap):
    """Places in the collections ``distilplace_places`` and ``distilplace_facts`` of a Milvus database.

    Args:
        where: ``http://host:19530``, or ``<name>.milvus.db``.
        model: as for :class:`PlaceMap`.

    Raises:
        UserError: no pymilvus, no answer, no map there, or one of another model.

    """

    _block_rows = 2000  # in one call

    def __init__(self, where: str, model: Mapping[str, Any] | Space | None = None) -> None:
        space = None if model is None else Space.of(model)
        self._where = where
        self._client = Client(where)
        try:
            if not self._client.has_map():
                if space is None:
                    raise UserError(f"{where} holds no map of places: check the address, or add a run to it")
                self._client.create(space)
                self._client.set_fact("map", json.dumps({"format": FORMAT, "model": space.written()}))
            self.space = self._stored_space()
            if space is not None:
                self.space.require_admitted(space, where)
            self.model = space
        except BaseException:
            self._client.close()
            raise
        self._runs: dict[str, _Run] = {}
        self._read_runs()

    @staticmethod
    def is_at(where: str) -> bool:
        """Is a map there?"""
        client = Client(where)
        try:
            return client.has_map()
        finally:
            client.close()

    def _stored_space(self) -> Space:
        try:
            stored = json.loads(self._client.facts()["map"])
            if stored["format"] != FORMAT:
                raise UserError(f"map {self._where} has format {stored['format']}, this program reads {FORMAT}")
            return Space.read(stored["model"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"map {self._where} does not say which model made it: build it again") from error

    def _add(self, name: str, columns: Columns, blocks: Iterator[np.ndarray]) -> None:
        if name in self._read_runs():
            raise UserError(
                f"map {self._where} holds a run {name} already: give another --run, or delete that one first"
            )
        token = uuid.uuid4().hex
        try:
            self._insert(name, token, columns, blocks)
            entry = {"token": token, "places": len(columns), "added": datetime.now(UTC).isoformat()}
            self._client.set_fact(RUN + name, json.dumps(entry))
        except BaseException:
            self._client.delete_places(f'token == "{token}"')
            raise

    def _insert(self, name: str, token: str, columns: Columns, blocks: Iterator[np.ndarray]) -> None:
        numbers, count = columns.numbers(), 0
        for block in blocks:
            start, count = count, count + len(block)
            if count > len(columns):
                break
            rows = zip(numbers[start:count].tolist(), columns.images[start:count], block, strict=True)
            self._client.insert([_entity(values, image, vector, token) for values, image, vector in rows])
        if count != len(columns):
            more = "more" if count > len(columns) else str(count)
            raise UserError(f"run {name}: {more} embeddings for {len(columns)} positions: give one each")

    def delete(self, run: str) -> int:
        """As :meth:`BaseMap.delete`."""
        self._require_run(run)
        gone = self._runs[run]
        self._client.set_fact(RUN + run, None)  # from here on it does not count
        self._client.delete_places(f'token == "{gone.token}"')
        return gone.info.places

    def _search(
        self, query: np.ndarray, k: int, prior: tuple[float, float, float] | None, run: str | None
    ) -> list[Match]:
        """By the server's index; at most 16,384 places."""
        names = {each.token: name for name, each in self._read_runs().items()}
        conditions = []
        if run is not None:
            self._require_run(run)
            conditions.append(f'token == "{self._runs[run].token}"')
        if prior is not None:
            conditions += [
                f"{axis} {sign} {middle + step * prior[2]!r}"
                for axis, middle in zip(("easting", "northing"), prior, strict=False)
                for sign, step in ((">=", -1), ("<=", 1))
            ]
        wanted = k
        while True:  # the corners of the square around a prior, and runs that do not count, may fill the answer
            hits = self._client.search(query, wanted, " and ".join(conditions))
            fitting = [hit for hit in hits if hit["token"] in names and _within(hit, prior)]
            if len(fitting) >= k or len(hits) < wanted or wanted >= MOST:
                break
            wanted = min(MOST, 4 * wanted)
        found = [self._match(hit, names[hit["token"]]) for hit in fitting]
        return sorted(found, key=lambda match: (-match.similarity, match.id))[:k]

    def _match(self, hit: dict[str, Any], run: str) -> Match:
        distance = float(hit["distance"])
        similarity = distance if self.space.spherical else -float(np.sqrt(max(0.0, distance)))
        numbers = [float("nan") if hit[name] is None else float(hit[name]) for name in NUMBERS]
        return make_match(int(hit["id"]), run, numbers, hit["image"], similarity)

    def _read_runs(self) -> dict[str, _Run]:
        found = []
        for name, text in self._client.facts().items():
            if name.startswith(RUN):
                entry = json.loads(text)
                info = RunInfo(name.removeprefix(RUN), int(entry["places"]), str(entry["added"]))
                found.append(_Run(info, str(entry["token"])))
        self._runs = {each.info.name: each for each in sorted(found, key=lambda each: each.info.added)}
        return self._runs

    def runs(self) -> list[RunInfo]:
        """As :meth:`BaseMap.runs`."""
        return [each.info for each in self._read_runs().values()]

    def compact(self) -> None:
        """As :meth:`BaseMap.compact`; also removes what writers that were killed left. No other may be adding."""
        tokens = json.dumps([each.token for each in self._read_runs().values()])
        self._client.delete_places(f"token not in {tokens}" if self._runs else 'token != ""')
        self._client.compact()

    def _storage(self) -> Storage:
        return Storage(self._where, FORMAT, "float32", None)

    def close(self) -> None:
        """As :meth:`BaseMap.close`."""
        self._client.close()

    @property
    def calibration(self) -> dict[str, Any] | None:
        """As :attr:`BaseMap.calibration`."""
        text = self._client.facts().get("calibration")
        found: dict[str, Any] | None = None if text is None else json.loads(text)
        return found

    @calibration.setter
    def calibration(self, values: dict[str, Any] | None) -> None:
        self._client.set_fact("calibration", None if values is None else json.dumps(values, allow_nan=False))


def _entity(values: list[float], image: str, vector: np.ndarray, token: str) -> dict[str, Any]:
    present = [None if value != value else value for value in values]
    return {**dict(zip(NUMBERS, present, strict=True)), "image": image, "token": token, "embedding": vector}


def _within(hit: dict[str, Any], prior: tuple[float, float, float] | None) -> bool:
    if prior is None:
        return True
    east, north, radius = prior
    return bool((hit["easting"] - east) ** 2 + (hit["northing"] - north) ** 2 <= radius**2)
