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
from distilplace.datasets.readers.frames.image_folder import FOLDERS, TRUTH, Listed, OwnImages


class SequencesData(OwnImages):
    """Two ordered sequences under ``dataset_folder``; a tolerance wins over a truth.csv.

    ``train_fraction``: the first part of both, used for training; the rest is the test.
    """

    name = "sequences"
    layouts = (("memory", "live"), FOLDERS)

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        frame_tolerance: int | None = None,
        train_fraction: float = 0.0,
    ) -> None:
        super().__init__(dataset_folder, train_fraction, frame_tolerance)
        if self.settle_flat():
            return
        present = (names for names in self.layouts if all((self._folder / name).is_dir() for name in names))
        names = next(present, None)
        if names is None:
            raise UserError(
                f"{self._folder} holds neither memory/ and live/ nor database/ and queries/, nor images: put the two "
                "sequences in folders of these names"
            )
        listed = self.listed(self._folder, names)
        self.notes.append(f"{len(listed.database)} remembered, {len(listed.queries)} live images, in the names' order")
        self._settle(self._matched(listed))

    def numbers(self, names: list[str]) -> np.ndarray:
        """Their order."""
        return np.arange(len(names))

    def _matched(self, listed: Listed) -> Images | None:
        if self._tolerance is None:
            return self.by_table(listed) if listed.truth else None
        beside = f"; {TRUTH} is left aside" if listed.truth else ""
        reach = f"at most {self._tolerance} apart" if self._tolerance else "exact frame"
        self.notes.append(f"truth: same place in the order, {reach} (--frame_tolerance{beside})")
        self._radius = float(self._tolerance)
        return listed.by_numbers(np.arange(len(listed.database)), np.arange(len(listed.queries)), self._tolerance)

    def _without_truth(self) -> UserError:
        return UserError(
            f"no truth for the sequences in {self._folder}: add a {TRUTH} (header query,database) or set "
            "--frame_tolerance N (image k of one shows the place of image k of the other, give or take N)"
        )
