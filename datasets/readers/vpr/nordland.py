"""``nordland``: one railway line in four seasons; frame k of any season is the same place.

Published sets differ in their images, their queries and how many frames off still counts, so that a figure means
nothing without the variant's name:

- ``full``: a folder of images per season, 27,592 each when filtered; +-10 frames (``frame_tolerance``).
- ``patchnetvlad``: Patch-NetVLAD's nordland.npz and name lists; (i, i) as positions, radius 10: +-7 frames.
- ``downloader``: @-names of VPR-datasets-downloader, 2.381 m a frame, radius 25 m: +-10 frames.
- ``vprbench``: ref/, query/ and ground_truth_new.npy; every tenth frame is a query, +-1 frame ("Nordland*").
- ``seqnet``: a dbStruct file (.db) with frame numbers; +-1 frame.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.image_sets import Images, Truth
from distilplace.datasets.io.npy_lists import checked_truth, read_index_lists
from distilplace.datasets.matched_sets import MatchedSet
from distilplace.datasets.matches import frame_numbers, listed_images, matches_by_number
from distilplace.datasets.readers.frames.image_folder import Listed
from distilplace.datasets.readers.vpr.nordland_layout import (
    found_file,
    pictures,
    reseasoned,
    season_folder,
    vprbench_lists,
)
from distilplace.datasets.readers.vpr.patch_netvlad import read_names, read_position_truth
from distilplace.datasets.records import distance_text
from distilplace.datasets.relations import checked_radii

TOLERANCES = {"full": 10, "patchnetvlad": 7, "downloader": 10, "vprbench": 1, "seqnet": 1}
QUERY_STEPS = {"vprbench": 10}
Matched = tuple[Images, float]


def variant_matches(variant: str, database: int, queries: int, tolerance: int | None = None) -> Truth:
    """True database indices per query of a variant, from counts alone; ``tolerance`` in frames (the variant's own)."""
    allowed = TOLERANCES[variant] if tolerance is None else tolerance
    step = QUERY_STEPS.get(variant, 1)
    return matches_by_number(np.arange(database), step * np.arange(queries), allowed)


class NordlandData(MatchedSet):
    """The variant ``nordland_variant`` under ``dataset_folder``.

    ``nordland_database``, ``nordland_query``: the season's folder on either side, where the variant does not fix it
    (``full``, ``patchnetvlad``, ``seqnet``). ``frame_tolerance`` replaces the variant's own truth. ``train_fraction``:
    the first part of the line, used for training.
    """

    name = "nordland"

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        nordland_variant: str = "full",
        nordland_database: str = "summer",
        nordland_query: str = "winter",
        frame_tolerance: int | None = None,
        train_fraction: float = 0.0,
        eval_radius: float | None = None,
    ) -> None:
        super().__init__(dataset_folder, train_fraction, frame_tolerance)
        if nordland_variant not in TOLERANCES:
            raise UserError(f"--nordland_variant must be one of {', '.join(TOLERANCES)}, not '{nordland_variant}'")
        self._seasons = (nordland_database, nordland_query)
        self._eval_radius = checked_radii(eval_radius).evaluation
        readers: dict[str, Callable[[], Matched]] = {
            "full": self._full,
            "patchnetvlad": self._patchnetvlad,
            "downloader": self._downloader,
            "vprbench": self._vprbench,
            "seqnet": self._seqnet,
        }
        self.notes.append(f"Nordland, variant {nordland_variant}")
        test, self._radius = readers[nordland_variant]()
        self._unit = "m" if nordland_variant == "downloader" and self._tolerance is None else "frames"
        pairs = sum(map(len, test.truth))
        apart = distance_text(self._radius, self._unit)
        self.notes.append(f"{pairs} true pairs, {apart if self._radius == 0 else f'at most {apart} apart'}")
        self._settle(test)

    def _by_order(self, listed: Listed, step: int = 1, tolerance: int = 0) -> Matched:
        """Query k shows the place of database image ``step`` k, give or take ``--frame_tolerance``, else this one."""
        allowed = tolerance if self._tolerance is None else self._tolerance
        places = np.arange(len(listed.database)), step * np.arange(len(listed.queries))
        return listed.by_numbers(*places, allowed), float(allowed)

    def _full(self) -> Matched:
        folders = season_folder(self._folder, self._seasons[0]), season_folder(self._folder, self._seasons[1])
        names = [listed_images(folder, self.notes) for folder in folders]
        listed = Listed(folders, names[0], names[1], None)
        counts = len(listed.database), len(listed.queries)
        if counts[0] != counts[1]:
            raise UserError(
                f"{folders[0]} holds {counts[0]} images and {folders[1]} {counts[1]}: frame k must show one place in "
                "both seasons; use one filtered list for both"
            )
        if not np.array_equal(frame_numbers(listed.database), frame_numbers(listed.queries)):
            self.notes.append(
                f"frame numbers of {folders[0].name} and {folders[1].name} differ: places go by order; check that "
                "both downloads start at one frame"
            )
        return self._by_order(listed, tolerance=TOLERANCES["full"])

    def _patchnetvlad(self) -> Matched:
        truth_file = found_file(self._folder, ("nordland.npz", "dataset_gt_files/nordland.npz"))
        truth = read_position_truth(truth_file)
        sides: list[list[str]] = []
        for side, usual, season in zip(("index", "query"), ("summer", "winter"), self._seasons, strict=True):
            file = f"nordland_imageNames_{side}.txt"
            path = found_file(self._folder, (file, f"dataset_imagenames/{file}"))
            sides.append([reseasoned(name, usual, season) for name in read_names(path)])
        for kind, names, places in zip(("index", "query"), sides, (truth.database, truth.queries), strict=True):
            if len(names) != len(places):
                raise UserError(f"{truth_file} has {len(places)} {kind} positions, but the list {len(names)} names")
        home = pictures(self._folder, sides[0][0])
        listed = Listed((home, home), sides[0], sides[1], None)
        if self._tolerance is not None:
            return self._by_order(listed)
        # Positions are (i, i): a frame is sqrt(2) long, so that the radius of 10 reaches 7 frames.
        return listed.by_matches(truth.matches())

    def _downloader(self) -> Matched:
        test = self._folder / "images" / "test"
        listed = Listed.read(test if test.is_dir() else self._folder)
        if self._tolerance is not None:
            return self._by_order(listed)
        found = listed.by_utm_names(self._eval_radius)
        if found is None:
            raise UserError(f"images in {self._folder} are not named @0@north@...@: choose another --nordland_variant")
        return found, self._eval_radius

    def _vprbench(self) -> Matched:
        listed, path = vprbench_lists(self._folder)
        if self._tolerance is not None:
            return self._by_order(listed, QUERY_STEPS["vprbench"])
        rows = read_index_lists(path)
        return listed.by_matches(checked_truth(rows, len(listed.database), len(listed.queries), path))

    def _seqnet(self) -> Matched:
        from distilplace.datasets.readers.vpr.dbstruct import read_dbstruct

        lists = sorted(self._folder.glob("*.db"))
        if len(lists) != 1:
            raise UserError(f"{self._folder} holds {len(lists)} .db files: put exactly one there, the test split")
        struct = read_dbstruct(lists[0])
        if not struct.frame_numbers:
            raise UserError(f"{lists[0]} holds positions in the plane, not frame numbers: not a Nordland list")
        folders = season_folder(self._folder, self._seasons[0]), season_folder(self._folder, self._seasons[1])
        listed = Listed(folders, struct.database, struct.queries, None)
        allowed = int(struct.positive_threshold) if self._tolerance is None else self._tolerance
        frames = [side[:, 0].round().astype(np.int64) for side in (struct.database_positions, struct.query_positions)]
        return listed.by_numbers(frames[0], frames[1], allowed), float(allowed)
