"""``sequences`` (also called ``vprice``): two ordered image sequences of one route, a remembered and a live one.

``D/memory`` and ``D/live`` (or ``D/database`` and ``D/queries``), in the order of the names. Truth from
``D/truth.csv``, in which an empty database cell says that a live image matches nothing, or from ``frame_tolerance``:
live image k shows the place of memory image k, give or take so many images (order in the folder, not numbers in the
names). A flat folder of images is one sequence (flat_folder.py). EXIF orientation is applied. The VPRiCE 2015 challenge
came without truth; its counts are nowhere confirmed, so none is expected here.
"""

from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.image_sets import Images
from distilplace.datasets.matched_sets import MatchedSet
from distilplace.datasets.matches import checked_tolerance, listed_images, matches_by_order
from distilplace.datasets.readers.frames.flat_folder import flat_note, flat_parts, flat_tolerance, is_flat
from distilplace.datasets.readers.frames.image_folder import FOLDERS, TRUTH, Listed

LAYOUTS = (("memory", "live"), FOLDERS)


class SequencesData(MatchedSet):
    """Two ordered sequences under ``dataset_folder``; a tolerance wins over a truth.csv.

    ``train_fraction``: the first part of both, used for training; the rest is the test.
    """

    name = "sequences"
    upright = True
    _own = True

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        frame_tolerance: int | None = None,
        train_fraction: float = 0.0,
    ) -> None:
        super().__init__(dataset_folder, train_fraction)
        tolerance = checked_tolerance(frame_tolerance)
        if is_flat(self._folder, [side for layout in LAYOUTS for side in layout]):
            self._settle_flat(tolerance)
            return
        listed = Listed.read(self._folder, _layout(self._folder), upright=True)
        self.notes += listed.notes
        self.notes.append(f"{len(listed.database)} remembered, {len(listed.queries)} live images, in the names' order")
        self._settle(self._matched(listed, tolerance))

    def _settle_flat(self, tolerance: int | None) -> None:
        """Take a flat folder of images, in the order of their names, as one sequence."""
        reach = flat_tolerance(self._folder, tolerance, f"{self._folder}/memory and {self._folder}/live")
        names = listed_images(self._folder, self.notes)
        test, training = flat_parts(self._folder, names, np.arange(len(names)), reach, self._fraction)
        self.notes.append(flat_note(test, training, reach))
        self._radius = float(reach)
        self._settle(test, training)

    def _matched(self, listed: Listed, tolerance: int | None) -> Images | None:
        if tolerance is None and listed.truth is None:
            return None
        if tolerance is None:
            found, self._radius = listed.by_table()
            self.notes.append(f"truth: {listed.truth} ({sum(map(len, found.truth))} pairs)")
            return found
        beside = f"; {TRUTH} is left aside" if listed.truth else ""
        reach = "exact frame" if tolerance == 0 else f"at most {tolerance} apart"
        self.notes.append(f"truth: same place in the order, {reach} (--frame_tolerance{beside})")
        self._radius = float(tolerance)
        return listed.by_matches(matches_by_order(len(listed.database), len(listed.queries), tolerance))[0]

    def _without_truth(self) -> UserError:
        return UserError(
            f"no truth for the sequences in {self._folder}: add a {TRUTH} (header query,database) or set "
            "--frame_tolerance N (image k of one shows the place of image k of the other, give or take N)"
        )


def _layout(folder: Path) -> tuple[str, str]:
    for names in LAYOUTS:
        if all((folder / name).is_dir() for name in names):
            return names
    raise UserError(
        f"{folder} holds neither memory/ and live/ nor database/ and queries/, nor images: put the two sequences in "
        "folders of these names"
    )
