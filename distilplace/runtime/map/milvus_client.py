"""The part of ``pymilvus.MilvusClient`` that a map needs, its errors as one line."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from distilplace.common.errors import UserError
from distilplace.runtime.map.rows import LONGEST_NAME, LONGEST_PATH
from distilplace.runtime.map.space import Space

PLACES, FACTS = "distilplace_places", "distilplace_facts"
NUMBERS = ("timestamp", "easting", "northing", "altitude", "yaw")
LONGEST_FACT = 65_535
MOST = 16_384
"""Results that Milvus gives at most."""
TIMEOUT = 30.0


class Client:
    """A connection. ``places``: one entity per place; ``facts``: texts by name."""

    def __init__(self, where: str) -> None:
        try:
            import pymilvus
        except ImportError as error:
            raise UserError(f"map {where} needs pymilvus: pip install 'distilplace[fleet]'") from error
        for name in ("pymilvus", "milvus_lite"):  # what they log is raised too, and told in one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._where, self._types, self._error = where, pymilvus.DataType, pymilvus.MilvusException
        with self.reported():
            self._client = pymilvus.MilvusClient(where, timeout=TIMEOUT)

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Pymilvus' errors as one line that names the address."""
        try:
            yield
        except self._error as error:
            reason = " ".join(str(getattr(error, "message", error)).split())[:200]
            raise UserError(f"map {self._where}: Milvus says: {reason}: check the address and the server") from error

    def has_map(self) -> bool:
        """Are both collections there?"""
        with self.reported():
            return {PLACES, FACTS} <= set(self._client.list_collections())

    def create(self, space: Space) -> None:
        """Make the collections that are not there."""
        kinds = self._types
        with self.reported():
            if not self._client.has_collection(PLACES):
                schema = self._client.create_schema(auto_id=True, enable_dynamic_field=False)
                schema.add_field("id", kinds.INT64, is_primary=True)
                for name in NUMBERS:
                    schema.add_field(name, kinds.DOUBLE, nullable=name in NUMBERS[3:])
                schema.add_field("image", kinds.VARCHAR, max_length=LONGEST_PATH * 4)
                schema.add_field("token", kinds.VARCHAR, max_length=64)
                schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=space.width)
                self._create(PLACES, schema, "embedding", "IP" if space.spherical else "L2")
            if not self._client.has_collection(FACTS):
                schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("name", kinds.VARCHAR, is_primary=True, max_length=LONGEST_NAME * 4 + 8)
                schema.add_field("value", kinds.VARCHAR, max_length=LONGEST_FACT)
                schema.add_field("unused", kinds.FLOAT_VECTOR, dim=2)  # every collection has a vector
                self._create(FACTS, schema, "unused", "L2")

    def _create(self, name: str, schema: Any, field: str, metric: str) -> None:
        index = self._client.prepare_index_params()
        index.add_index(field, index_type="AUTOINDEX", metric_type=metric)
        self._client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")

    def insert(self, rows: list[dict[str, Any]]) -> None:
        """Add places."""
        with self.reported():
            self._client.insert(PLACES, rows)

    def search(self, query: Any, limit: int, condition: str) -> list[dict[str, Any]]:
        """The places nearest to ``query`` [D] that fulfil ``condition``: their fields, ``id`` and ``distance``."""
        names = [*NUMBERS, "image", "token"]
        with self.reported():
            (found,) = self._client.search(
                PLACES, [query], limit=min(limit, MOST), filter=condition, output_fields=names
            )
        return [{**hit["entity"], "id": hit["id"], "distance": hit["distance"]} for hit in found]

    def delete_places(self, condition: str) -> None:
        """Remove the places that fulfil ``condition``."""
        with self.reported():
            self._client.delete(PLACES, filter=condition)

    def facts(self) -> dict[str, str]:
        """All texts by name."""
        with self.reported():
            iterator = self._client.query_iterator(FACTS, filter='name != ""', output_fields=["name", "value"])
            found: dict[str, str] = {}
            while rows := iterator.next():
                found.update((row["name"], row["value"]) for row in rows)
            iterator.close()
        return found

    def set_fact(self, name: str, value: str | None) -> None:
        """Keep a text; None: forget it."""
        if value is not None and len(value.encode()) > LONGEST_FACT:
            raise UserError(f"map {self._where}: {name} has more than {LONGEST_FACT} bytes, which Milvus does not hold")
        with self.reported():
            if value is None:
                self._client.delete(FACTS, ids=[name])
            else:
                self._client.upsert(FACTS, [{"name": name, "value": value, "unused": [0.0, 0.0]}])

    def compact(self) -> None:
        """Let the server merge what deletions left."""
        with self.reported(), contextlib.suppress(NotImplementedError):
            self._client.compact(PLACES)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
