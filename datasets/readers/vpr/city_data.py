"""What Pittsburgh and Tokyo share as data sets: radii, checks of what was found, and notes of them for the log."""

from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from distilplace.datasets.base import existing_folder
from distilplace.datasets.doubts import doubts
from distilplace.datasets.image_sets import Images, ImageSet, Truth, evaluation_set
from distilplace.datasets.readers.vpr.city_images import CitySplit, Layout, read_split
from distilplace.datasets.records import EvaluationSet, RankingRules, positions
from distilplace.datasets.relations import Radii


class City(NamedTuple):
    """Where positions must lie: UTM zone, and the least and largest easting and northing (metres)."""

    name: str
    zone: str
    easting: tuple[float, float]
    northing: tuple[float, float]

    def outside(self, places: np.ndarray) -> int:
        """How many of ``places`` ``[n, 2]`` (northing, easting) lie elsewhere."""
        low = np.array([self.northing[0], self.easting[0]])
        high = np.array([self.northing[1], self.easting[1]])
        return int(((places < low) | (places > high)).any(axis=1).sum())


class CityData(ImageSet):
    """Base: splits read once each, and once each described in ``notes``.

    ``published`` holds (database images, queries) of a split as checked on real files; None where not checked.
    """

    city: City
    layout: Layout
    published: ClassVar[dict[str, tuple[int | None, int | None]]] = {}
    sized_queries = True

    def __init__(self, dataset_folder: Path | str | None, radii: Radii) -> None:
        super().__init__()
        self.folder = existing_folder(dataset_folder, "--dataset_folder", "data set folder")
        self.radii = radii
        self._splits: dict[str, CitySplit] = {}

    def city_split(self, split: str) -> CitySplit:
        """The images of one split."""
        if split not in self._splits:
            found = read_split(self.folder, split, self.layout)
            self._splits[split] = found
            self._describe(found, self.published.get(split, (None, None)))
        return self._splits[split]

    def scored(self, split: CitySplit, truth: Truth, name: str, rules: RankingRules) -> EvaluationSet:
        """The split as an evaluation set, with a note of how many queries have no ground truth."""
        radius = self.radii.evaluation
        alone = sum(len(row) == 0 for row in truth)
        self.note(f"{split.source}: {alone} of {len(truth)} queries have no match within {radius:g} m and are misses")
        if split.struct is not None and split.struct.positive_threshold != radius:
            self.note(f"{split.source} states {split.struct.positive_threshold:g} m for a match; {radius:g} m is used")
        test = evaluation_set(name, Images(split.database, split.queries, truth), radius, rules)
        self.note(*(f"{split.source}: {line}" for line in doubts(test)))
        return test

    def _describe(self, split: CitySplit, published: tuple[int | None, int | None]) -> None:
        counts = (len(split.database), len(split.queries))
        self.note(*split.notes, f"{split.source}: {counts[0]} database images, {counts[1]} queries")
        for what, here, there in zip(("database images", "queries"), counts, published, strict=True):
            if there is not None and here != there:
                self.note(f"{split.source}: {here} {what}, but the published split has {there}")
        outside = self.city.outside(positions([*split.database, *split.queries]))
        if outside:
            self.note(
                f"{split.source}: {outside} of {sum(counts)} positions lie outside {self.city.name} (UTM zone "
                f"{self.city.zone}): east and north exchanged, or another zone?"
            )
