"""Tokyo 24/7 (test only) and Tokyo Time Machine (training only).

Torii et al., "24/7 Place Recognition by View Synthesis", CVPR 2015; Time Machine and its rules: NetVLAD (Arandjelović
et al., CVPR 2016). Images are read as they are stored: an EXIF orientation is not applied.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.image_sets import Truth, matches_by_distance, training_by_distance
from distilplace.datasets.readers.vpr.city_data import City, CityData
from distilplace.datasets.readers.vpr.city_images import CitySplit, Layout
from distilplace.datasets.records import EvaluationSet, RankingRules, TrainingSet, positions
from distilplace.datasets.relations import checked_radii

TOKYO = City("Tokyo", "54S", easting=(360_000, 410_000), northing=(3_925_000, 3_970_000))
VIEWS_PER_PANORAMA = 12
SAME_PLACE = 1.0  # metres: MATLAB's NetVLAD takes what is nearer for a view of the query's own panorama
BASES = (".", "tokyo247", "Tokyo247", "raw/tokyo247", "raw/Tokyo247", "247_Tokyo_GSV_Perspective")
DATABASE_FOLDERS = ("images", ".", "database_gsv_vga")
QUERY_FOLDERS = ("query", "queries", "247query_subset_v2", "247query_v3")
FOLDERS = [
    (Path(base, database).as_posix(), Path(base, query).as_posix())
    for base, database, query in product(BASES, DATABASE_FOLDERS, QUERY_FOLDERS)
]
TIME_MACHINE_FOLDERS = ("images", "tokyoTM/images", "TokyoTM/images", "raw/tokyoTM/images", "raw/TokyoTM/images", ".")


class Tokyo247Data(CityData):
    """``tokyo247``: 12 views of each panorama in the database, phone photographs by day, at sunset and at night.

    ``tokyo247.mat`` with images in one of the layouts in use, or ``images/test/{database,queries}`` of ``@``-names.
    ``spatial_nms`` (None: True): of each panorama only the best-ranked view counts, as in both papers; the
    deep-visual-geo-localization benchmark goes without, so that its numbers do not compare. ``eval_radius`` is metres
    (None: 25). Photographs differ in size: evaluate one by one, or resize.
    """

    name = "tokyo247"
    city = TOKYO
    layout = Layout("tokyo247.mat", FOLDERS)
    published: ClassVar[dict[str, tuple[int | None, int | None]]] = {"test": (75_984, 315)}

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        eval_radius: float | None = None,
        spatial_nms: bool | None = None,
    ) -> None:
        super().__init__(dataset_folder, checked_radii(eval_radius))
        self.spatial_nms = True if spatial_nms is None else spatial_nms

    def training_set(self) -> TrainingSet:
        """There is none: :class:`UserError`."""
        raise UserError("data set tokyo247 has no training part: train on tokyotm or pitts30k, then evaluate on it")

    def evaluation_set(self) -> EvaluationSet:
        """All queries; unmatched ones are misses (the published set has none)."""
        found = self.city_split("test")
        truth = matches_by_distance(found.database, found.queries, self.radii.evaluation)
        self.note("images are read as stored: an EXIF orientation is not applied")
        if not self.spatial_nms:
            self.note("--spatial_nms False: every view of a panorama counts, unlike the published protocol")
        groups = {0: self._panoramas(found)} if self.spatial_nms else {}
        return self.scored(found, truth, self.name, RankingRules(unmatched="miss", groups=groups))

    def _panoramas(self, found: CitySplit) -> np.ndarray:
        """Int64 [n]: the panorama of each database image.

        In a .mat the views follow each other, twelve by twelve. ``@``-names are sorted by position, so that only their
        pano_id tells; an image without one is a panorama of its own.
        """
        count = len(found.database)
        if found.pano_ids is None:
            if count % VIEWS_PER_PANORAMA:
                self.note(
                    f"{found.source}: {count} database images are no multiple of {VIEWS_PER_PANORAMA}: the last "
                    "panorama is cut, or images are missing within, and then spatial suppression is wrong"
                )
            return np.arange(count, dtype=np.int64) // VIEWS_PER_PANORAMA
        bare = found.pano_ids.count("")
        if bare:
            self.note(f"{found.source}: {bare} of {count} database images name no panorama: each is its own")
        ids = [pano_id or f"@{index}" for index, pano_id in enumerate(found.pano_ids)]
        return np.unique(ids, return_inverse=True)[1].astype(np.int64)


class TokyoTMData(CityData):
    """``tokyotm``: panoramas of one place at several times; the queries are database images themselves.

    ``tokyoTM_{train,val}.mat`` with time stamps, and their images. Trained on train, evaluated and validated on val.
    NetVLAD's rules: a positive of training lies more than 1 m (else it may be a view of the same panorama) and at most
    ``positive_radius`` away, and has another time stamp; an image of a query's own time stamp is never retrieved,
    wherever that was taken. Radii are metres; None: 25 (``eval_radius``, ``negative_radius``) and 10
    (``positive_radius``).
    """

    name = "tokyotm"
    city = TOKYO
    layout = Layout("tokyoTM_{}.mat", [(folder, folder) for folder in TIME_MACHINE_FOLDERS], at_names=False)

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        eval_radius: float | None = None,
        positive_radius: float | None = None,
        negative_radius: float | None = None,
    ) -> None:
        super().__init__(dataset_folder, checked_radii(eval_radius, positive_radius, negative_radius))

    def training_set(self) -> TrainingSet:
        """The train split: database images, then the queries that have a positive in the database."""
        train = self.city_split("train")
        database_times, query_times = _times(train)
        near = matches_by_distance(train.database, train.queries, self.radii.positive)
        near = _nontrivial(near, positions(train.queries), positions(train.database), query_times, database_times)
        kept = np.array([len(row) > 0 for row in near], dtype=bool)
        if not kept.any():
            raise UserError(
                f"{train.source}: no query has a positive of another time within --positive_radius "
                f"{self.radii.positive:g} m: raise it"
            )
        dropped = int((~kept).sum())
        self.note(f"{train.source}: {dropped} of {len(kept)} training queries have no positive and are dropped")
        queries = [query for query, keep in zip(train.queries, kept, strict=True) if keep]
        training = training_by_distance(train.database, queries, self.radii.positive, self.radii.negative)
        places, times = training.positions(), np.concatenate([database_times, query_times[kept]])
        training.positives = _nontrivial(training.positives, places, places, times, times)
        return training

    def evaluation_set(self) -> EvaluationSet:
        """The val split. Images of a query's own time, itself among them, are neither retrieved nor ground truth."""
        val = self.city_split("val")
        database_times, query_times = _times(val)
        same_time = {time: np.flatnonzero(database_times == time) for time in np.unique(query_times).tolist()}
        excluded = [same_time[time] for time in query_times.tolist()]
        near = matches_by_distance(val.database, val.queries, self.radii.evaluation)
        truth = [np.setdiff1d(row, own, assume_unique=True) for row, own in zip(near, excluded, strict=True)]
        rules = RankingRules(unmatched="miss", excluded={(0, 1): excluded})
        return self.scored(val, truth, self.name, rules)

    def validation_set(self) -> EvaluationSet | None:
        """The val split, which is also what :meth:`evaluation_set` gives; None where it is absent."""
        return self.evaluation_set() if self.layout.has(self.folder, "val") else None


def _times(split: CitySplit) -> tuple[np.ndarray, np.ndarray]:
    """Time stamps of the database images and of the queries."""
    struct = split.struct
    if struct is None or struct.database_times is None or struct.query_times is None:
        raise UserError(f"{split.source}: dbStruct lacks dbTimeStamp or qTimeStamp: not a Tokyo Time Machine file")
    if (struct.database_times.dtype.kind == "U") != (struct.query_times.dtype.kind == "U"):
        raise UserError(f"{split.source}: one of dbTimeStamp, qTimeStamp is text, the other numbers: they must agree")
    return struct.database_times, struct.query_times


def _nontrivial(
    rows: Sequence[np.ndarray],
    queries: np.ndarray,
    database: np.ndarray,
    query_times: np.ndarray,
    database_times: np.ndarray,
) -> Truth:
    """Of each row of indices those of another time stamp, more than :data:`SAME_PLACE` away."""
    kept: Truth = []
    for row, place, time in zip(rows, queries, query_times, strict=True):
        squared = ((database[row] - place) ** 2).sum(axis=1)
        kept.append(row[(database_times[row] != time) & (squared > SAME_PLACE**2)])
    return kept
