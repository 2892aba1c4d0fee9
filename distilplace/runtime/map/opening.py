"""Which kind of map an address means."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distilplace.runtime.map.base import BaseMap
from distilplace.runtime.map.milvus import MilvusMap
from distilplace.runtime.map.place_map import PlaceMap
from distilplace.runtime.map.space import Space

SERVER = re.compile(r"(https?|tcp|unix):")
LITE = ".milvus.db"


def open_map(where: Path | str, model: Mapping[str, Any] | Space | None = None, *, index: str = "auto") -> BaseMap:
    """The map at ``where``: a file, ``http://host:19530`` of a Milvus server, or ``<name>.milvus.db`` of milvus-lite.

    ``model`` and ``index`` as for :class:`PlaceMap`; on Milvus the server's own index is used.
    """
    if _on_milvus(where):
        return MilvusMap(str(where), model)
    return PlaceMap(where, model, index=index)


def holds_map(where: Path | str) -> bool:
    """Is there anything at ``where``, so that :func:`open_map` would make no new map?"""
    if _on_milvus(where):
        return MilvusMap.is_at(str(where))
    return Path(where).exists() and Path(where).stat().st_size > 0


def _on_milvus(where: Path | str) -> bool:
    return SERVER.match(str(where)) is not None or str(where).endswith(LITE)
