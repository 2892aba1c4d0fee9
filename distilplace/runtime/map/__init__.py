"""A map: places with their positions and embeddings, in one SQLite file or on a Milvus server."""

from distilplace.runtime.map.base import BaseMap
from distilplace.runtime.map.opening import holds_map, open_map
from distilplace.runtime.map.place_map import PlaceMap
from distilplace.runtime.map.rows import Match, RunInfo
from distilplace.runtime.map.space import Space

__all__ = ["BaseMap", "Match", "PlaceMap", "RunInfo", "Space", "holds_map", "open_map"]
