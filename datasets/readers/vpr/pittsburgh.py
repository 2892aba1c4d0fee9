"""Pittsburgh 30k and 250k: panoramas of Street View cut into 24 views; queries of another year.

Torii et al., "Visual Place Recognition with Repetitive Structures", CVPR 2013; splits of NetVLAD (Arandjelović et al.,
CVPR 2016). A query without a database image within the evaluation radius counts as a miss, as NetVLAD counts.
"""

from pathlib import Path
from typing import ClassVar

from distilplace.common.errors import UserError
from distilplace.datasets.image_sets import matches_by_distance, training_by_distance
from distilplace.datasets.readers.vpr.city_data import City, CityData
from distilplace.datasets.readers.vpr.city_images import Layout
from distilplace.datasets.records import EvaluationSet, RankingRules, TrainingSet
from distilplace.datasets.relations import checked_radii

PITTSBURGH = City("Pittsburgh", "17T", easting=(570_000, 605_000), northing=(4_460_000, 4_495_000))
FOLDERS = (
    ("Pittsburgh/images", "Pittsburgh/queries"),  # NetVLAD (MATLAB)
    ("images", "queries"),  # the same, seen from inside
    (".", "queries_real"),  # pytorch-NetVlad
    ("raw/Pittsburgh/images", "raw/Pittsburgh/queries"),  # OpenIBL, WAKD
)
SPLITS = ("test", "val")


class Pitts30kData(CityData):
    """``pitts30k``: ``pitts30k_{train,val,test}.mat`` with images in one of four layouts, or folders of ``@``-names.

    ``split`` is evaluated: "test" or "val". Radii are metres; None: 25 (``eval_radius``, ``negative_radius``) and 10
    (``positive_radius``, as the files' nonTrivPosDistSqThr). The rows of utmDb and utmQ are east and north.
    """

    name = "pitts30k"
    city = PITTSBURGH
    layout = Layout("pitts30k_{}.mat", FOLDERS)
    published: ClassVar[dict[str, tuple[int | None, int | None]]] = {"test": (10_000, 6_816), "val": (10_000, 7_608)}
    """Counts checked on real files; those of other splits are only recalled in the literature."""

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        split: str = "test",
        eval_radius: float | None = None,
        positive_radius: float | None = None,
        negative_radius: float | None = None,
    ) -> None:
        if split not in SPLITS:
            raise UserError(f"--split must be one of {', '.join(SPLITS)}, not '{split}'")
        super().__init__(dataset_folder, checked_radii(eval_radius, positive_radius, negative_radius))
        self.split = split

    def training_set(self) -> TrainingSet:
        """The train split: database images, then the queries with a database image within ``positive_radius``."""
        train = self.city_split("train")
        matches = matches_by_distance(train.database, train.queries, self.radii.positive)
        queries = [query for query, row in zip(train.queries, matches, strict=True) if len(row)]
        if not queries:
            raise UserError(
                f"{train.source}: no query has a database image within --positive_radius {self.radii.positive:g} m: "
                "raise it"
            )
        self.note(
            f"{train.source}: {len(train.queries) - len(queries)} of {len(train.queries)} training queries have no "
            f"positive within {self.radii.positive:g} m and are dropped"
        )
        return training_by_distance(train.database, queries, self.radii.positive, self.radii.negative)

    def evaluation_set(self) -> EvaluationSet:
        """The chosen split, 25 m unless ``eval_radius`` says otherwise; unmatched queries are misses."""
        return self._evaluation(self.split)

    def validation_set(self) -> EvaluationSet | None:
        """The val split, to choose the epoch by; None where it is absent."""
        return self._evaluation("val") if self.layout.has(self.folder, "val") else None

    def _evaluation(self, split: str) -> EvaluationSet:
        found = self.city_split(split)
        truth = matches_by_distance(found.database, found.queries, self.radii.evaluation)
        name = self.name if split == "test" else f"{self.name}_{split}"
        return self.scored(found, truth, name, RankingRules(unmatched="miss"))


class Pitts250kData(Pitts30kData):
    """``pitts250k``: as ``pitts30k``, of which it is the larger release, with ``pitts250k_{train,val,test}.mat``."""

    name = "pitts250k"
    layout = Layout("pitts250k_{}.mat", FOLDERS)
    published: ClassVar[dict[str, tuple[int | None, int | None]]] = {"test": (None, 8_280)}
