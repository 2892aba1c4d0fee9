"""The space that embeddings lie in: which model made them, how wide they are, and what "near" means."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distilplace.common.errors import UserError

WIDEST = 65_536
METRICS = ("cosine", "euclidean")


@dataclass(frozen=True)
class Space:
    """``fingerprint``: identity of the model; ``width``: numbers per embedding; ``unit``: are they of length 1?

    ``maps``: fingerprints of other models whose maps these embeddings may query; a map itself does not store it.
    """

    fingerprint: str
    model: str
    width: int
    metric: str = "cosine"
    unit: bool = False
    maps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fits = isinstance(self.width, int) and 0 < self.width <= WIDEST and self.metric in METRICS
        if not (fits and isinstance(self.fingerprint, str) and self.fingerprint and isinstance(self.model, str)):
            raise UserError(
                f"model description {str(asdict(self))[:200]} is none: expected a fingerprint, a width of 1 to "
                f"{WIDEST} and one of the metrics {', '.join(METRICS)}"
            )

    @classmethod
    def of(cls, metadata: "Mapping[str, Any] | Space") -> "Space":
        """The space of a model by its metadata (``Student.metadata``); :class:`UserError` where they do not say."""
        if isinstance(metadata, Space):
            return metadata
        try:
            embedding = metadata["embedding"]
            return cls(
                metadata["fingerprint"],
                metadata["model"],
                embedding["width"],
                embedding["metric"],
                bool(embedding.get("unit", False)),
                tuple(metadata.get("maps", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"the model's metadata lack {error}: export it again") from error

    @classmethod
    def read(cls, text: str) -> "Space":
        """What :meth:`written` wrote; ValueError, TypeError or :class:`UserError` for anything else."""
        return cls(**json.loads(text))

    def written(self) -> str:
        """As JSON."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "maps"})

    @property
    def spherical(self) -> bool:
        """Does the angle alone decide? Then embeddings are brought to length 1, and similarity is their cosine."""
        return self.metric == "cosine" or self.unit

    def admits(self, other: "Space") -> bool:
        """May ``other`` query maps of this space? The model that made them may, and one that was made to match it."""
        return self.width == other.width and self.fingerprint in (other.fingerprint, *other.maps)

    def require_admitted(self, other: "Space", where: object) -> None:
        """:class:`UserError` unless ``other``, the model at hand, may query the map ``where``."""
        if not self.admits(other):
            raise UserError(
                f"map {where} was made by another model: {self._named()}, not {other._named()}: give the model that "
                "made it or a student of it, or make a new map with this one"
            )

    def require_maker(self, other: "Space | None", where: object) -> None:
        """:class:`UserError` where ``other``, the model at hand, is not the one that made the map ``where``."""
        if other is not None and other.fingerprint != self.fingerprint:
            raise UserError(
                f"map {where} takes places from the model that made it, {self._named()}; {other._named()} can query "
                "it: give the other one to add places"
            )

    def _named(self) -> str:
        return f"{self.model} {self.fingerprint[:12]} of width {self.width}"

    def prepared(self, embeddings: Any, what: str = "embeddings") -> np.ndarray:
        """``embeddings`` [n, width] as float32, of length 1 where the space is :attr:`spherical`.

        Raises:
            UserError: another shape or kind of number, or numbers that are not finite.

        """
        rows = np.asarray(embeddings)
        if rows.ndim != 2 or rows.shape[1] != self.width or rows.dtype.kind not in "fiu":
            raise UserError(f"{what} are {rows.dtype} {list(rows.shape)}: expected numbers [n, {self.width}]")
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if not np.isfinite(rows).all():
            raise UserError(f"{what} hold numbers that are not finite: the images or the model are damaged")
        if not self.spherical:
            return rows
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1)
