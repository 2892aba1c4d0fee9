"""What all sets of query and database images share: records, two runs, relations from positions or from a truth table.

Such a set has two runs, ``database`` and ``queries``. Where the truth is a list of matches instead of positions,
records carry frame numbers for positions (one "metre" a frame), and relations come from the matches alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.base import PlaceData
from distilplace.datasets.records import CloudSettings, EvaluationSet, PlaceRecord, RankingRules, TrainingSet, positions
from distilplace.datasets.relations import neighbours_within, training_relations

RUNS = ["database", "queries"]
Truth = list[np.ndarray]
"""Per query the sorted int64 indices of the database images that show its place; empty: none does."""


@dataclass(frozen=True)
class Images:
    """Database and query images of one split, and which database images are right for each query."""

    database: list[PlaceRecord]
    queries: list[PlaceRecord]
    truth: Truth

    def __post_init__(self) -> None:
        if len(self.truth) != len(self.queries):
            raise ValueError(f"{len(self.truth)} rows of truth for {len(self.queries)} queries")


class ImageSet(PlaceData):
    """Base of the image-only data sets: no clouds, notes for the log."""

    cloud = CloudSettings(quantization_size=1.0, n_points=4096, augmentation="boreas")

    def __init__(self) -> None:
        self.notes = []

    def read_cloud(self, path: Path) -> np.ndarray:
        """No cloud is ever read: these samples have none."""
        raise UserError(f"data set {self.name} has images only: {path} cannot be read as a cloud")


def record(
    run: str,
    path: Path,
    name: str,
    northing: float = 0.0,
    easting: float = 0.0,
    *,
    upright: bool = False,
    prefix: str = "",
) -> PlaceRecord:
    """The sample of one image; ``prefix``, ``run`` and ``name`` (unique in the run) make its key."""
    key = f"{prefix}{run}/{name}"
    return PlaceRecord(key, run, None, (path,), float(northing), float(easting), upright=upright)


def records_at(
    run: str, folder: Path, names: Sequence[str], places: np.ndarray, *, upright: bool = False, prefix: str = ""
) -> list[PlaceRecord]:
    """The samples of the images ``names`` below ``folder``, at ``places`` [n, 2] (northing, easting)."""
    rows = zip(names, places.tolist(), strict=True)
    return [record(run, folder / name, name, *place, upright=upright, prefix=prefix) for name, place in rows]


def matches_by_distance(database: list[PlaceRecord], queries: list[PlaceRecord], radius: float) -> Truth:
    """Database images within ``radius`` metres of each query, the boundary included."""
    return neighbours_within(positions(queries), positions(database), radius)


def evaluation_set(
    name: str, images: Images, radius: float, rules: RankingRules | None = None, unit: str = "m"
) -> EvaluationSet:
    """The two runs as every evaluation takes them; ``radius`` is stated in reports, in ``unit``."""
    queries = [replace(query, as_query=True) for query in images.queries]
    entries: dict[int, dict[Any, Any]] = {
        i: {"query": query.key, "northing": query.northing, "easting": query.easting, 0: found.tolist()}
        for i, (query, found) in enumerate(zip(queries, images.truth, strict=True))
    }
    return EvaluationSet(
        name,
        list(RUNS),
        [images.database, []],
        [[], queries],
        [{}, entries],
        radius,
        rules or RankingRules(),
        unit,
    )


def training_by_distance(
    database: list[PlaceRecord], queries: list[PlaceRecord], positive_radius: float, negative_radius: float
) -> TrainingSet:
    """Database images, then queries; positives and non-negatives by distance in metres."""
    records = [*database, *queries]
    relations = training_relations(positions(records), positive_radius, negative_radius)
    return TrainingSet(records, *relations, queries=np.arange(len(database), len(records)))


def training_by_truth(images: Images) -> TrainingSet:
    """Database images, then queries. Positives are the matches.

    Non-negatives (never used as negatives) are, besides: images of one run that share a match.
    """
    import scipy.sparse

    count, queries = len(images.database), len(images.queries)
    lengths = [len(row) for row in images.truth]
    columns = np.concatenate([np.empty(0, dtype=np.int64), *images.truth])
    rows = np.repeat(np.arange(queries), lengths)
    table = scipy.sparse.csr_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=(queries, count))
    matched = scipy.sparse.block_array([[None, table.T], [table, None]], format="csr")
    near = scipy.sparse.block_array([[table.T @ table, None], [None, table @ table.T]], format="csr")
    near = near + matched + scipy.sparse.eye_array(count + queries, dtype=np.int32, format="csr")
    return TrainingSet(
        [*images.database, *images.queries],
        _rows(matched),
        _rows(near),
        queries=np.arange(count, count + queries),
    )


def _rows(table: Any) -> list[np.ndarray]:
    table.sort_indices()
    return [table.indices[table.indptr[i] : table.indptr[i + 1]].astype(np.int64) for i in range(table.shape[0])]


def carve(images: Images, fraction: float) -> tuple[Images, Images]:
    """Training and test part of one ordered sequence: its first ``fraction`` of database images, and the rest.

    A query belongs to the part that holds all its matches; one whose matches lie in both is left out, one without any
    belongs to the test part.

    Raises:
        UserError: one of the parts would have no query with a match.

    """
    cut = round(fraction * len(images.database))
    first = [i for i, row in enumerate(images.truth) if len(row) and row.max() < cut]
    second = [i for i, row in enumerate(images.truth) if len(row) == 0 or row.min() >= cut]
    training = _part(images, images.database[:cut], first, 0)
    test = _part(images, images.database[cut:], second, cut)
    if not first or not any(len(row) for row in test.truth):
        raise UserError(
            f"--train_fraction {fraction:g} leaves {len(first)} queries to train on and "
            f"{sum(len(row) > 0 for row in test.truth)} with a match to test on: choose another, or give the set a "
            "training part of its own"
        )
    return training, test


def _part(images: Images, database: list[PlaceRecord], chosen: Sequence[int], shift: int) -> Images:
    return Images(database, [images.queries[i] for i in chosen], [images.truth[i] - shift for i in chosen])
