"""``gldv2``: the clean training part of Google Landmarks v2, for distillation.

Weyand et al., CVPR 2020; the clean list of 1,580,470 images of 81,313 landmarks: Yokoo et al., CVPR workshops 2020.
Images lie in ``train/a/b/c/<id>.jpg`` (a, b, c: the first characters of the id), the list is ``meta/train_clean.csv``.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from distilplace.common.errors import UserError
from distilplace.common.inputs.text_files import read_lines
from distilplace.common.numbers import parse_whole
from distilplace.datasets.base import existing_file, existing_folder
from distilplace.datasets.columns import RecordColumns
from distilplace.datasets.image_sets import ImageSet
from distilplace.datasets.records import Benchmark, PlaceRecord, TrainingSet
from distilplace.datasets.relations import group_relations

IMAGES = "train"
CLEAN_LIST = "meta/train_clean.csv"
CLEAN_IDS = "meta/train_clean_ids.txt"
HEADER = "landmark_id,images"
IMAGE_ID = re.compile(r"[0-9A-Za-z_-]{3,}")


class GoogleLandmarksData(ImageSet):
    """Training images under ``dataset_folder``, grouped by the landmark they show.

    Images that are listed but absent are left out, and so are landmarks with fewer than two images; the notes count
    both. There is no test part: revisited Oxford and Paris are what such networks are tested on.
    """

    name = "gldv2"
    views = "landmarks"
    metric_positions = False

    def __init__(self, dataset_folder: Path | str | None = None) -> None:
        super().__init__()
        self._folder = existing_folder(dataset_folder, "--dataset_folder", "Google Landmarks folder")
        self._images = existing_folder(self._folder / IMAGES, "--dataset_folder", "image folder")
        self._list = existing_file(self._folder / CLEAN_LIST, "--dataset_folder", "clean list")

    def training_set(self) -> TrainingSet:
        """Images landmark by landmark; positives show the same landmark, every other image is a negative."""
        landmarks = read_clean_list(self._list)
        listed = sum(map(len, landmarks.values()))
        present = self.present(image for row in landmarks.values() for image in row)
        kept = {landmark: [image for image in row if image in present] for landmark, row in landmarks.items()}
        kept = {landmark: row for landmark, row in kept.items() if len(row) > 1}
        if not kept:
            raise UserError(
                f"{self._images} holds {len(present)} of the {listed} images in {self._list}, and no landmark twice: "
                f"unpack them to {IMAGES}/a/b/c/<id>.jpg"
            )
        self._count(listed, len(present), len(landmarks), kept)
        leaves = {leaf: self._images.joinpath(*leaf) for leaf in {image[:3] for image in present}}
        records = RecordColumns(
            PlaceRecord(f"{IMAGES}/{image}", IMAGES, None, (leaves[image[:3]] / f"{image}.jpg",), 0.0, 0.0)
            for row in kept.values()
            for image in row
        )
        groups = np.repeat(np.array(list(kept), dtype=np.int64), [len(row) for row in kept.values()])
        return TrainingSet(records, *group_relations(groups), groups=groups, layout="groups")

    def present(self, images: Iterable[str]) -> set[str]:
        """Those of ``images`` (ids) that are there."""
        return present_images(self._images, images)

    def evaluation_set(self) -> Benchmark:
        """There is none: :class:`UserError`."""
        raise UserError(
            "data set gldv2 has no test part: add --test_dataset roxford5k --test_folder D (or rparis6k), D being the "
            "folder of its images and ground truth"
        )

    def _count(self, listed: int, present: int, landmarks: int, kept: dict[int, list[str]]) -> None:
        images = sum(map(len, kept.values()))
        self.notes.append(f"{images} images of {len(kept)} landmarks")
        if listed > present:
            self.notes.append(f"{listed - present} of {listed} images in {self._list} are absent and left out")
        if landmarks > len(kept):
            self.notes.append(f"{landmarks - len(kept)} of {landmarks} landmarks have fewer than two images: left out")


def read_clean_list(path: Path) -> dict[int, list[str]]:
    """Landmark -> its image ids, in the order of ``train_clean.csv``: lines ``landmark,id id id``.

    Raises:
        UserError: another header, a line of another form, or a landmark or image named twice; with file and line.

    """
    landmarks: dict[int, list[str]] = {}
    seen: set[str] = set()
    # Not by the csv module: a landmark may have thousands of images, and that refuses fields beyond 128 KiB.
    (_, header), *lines = read_lines(path, "clean list", "download it again")
    if header != HEADER:
        raise UserError(f"clean list {path}, line 1: '{header[:60]}' instead of the header {HEADER}")
    for number, line in lines:
        landmark, images = _clean_line(line, f"clean list {path}, line {number}")
        twice = "landmark" if landmark in landmarks else "image" if not seen.isdisjoint(images) else None
        seen.update(images)
        if twice or len(set(images)) != len(images):
            raise UserError(f"clean list {path}, line {number}: names {twice or 'image'}s named before")
        landmarks[landmark] = images
    if not landmarks:
        raise UserError(f"clean list {path} names no landmark: download it again")
    return landmarks


def _clean_line(line: str, where: str) -> tuple[int, list[str]]:
    landmark, comma, rest = line.partition(",")
    images = rest.split()
    number = parse_whole(landmark)
    if not comma or number is None or number < 0 or not images:
        raise UserError(f"{where}: expected a landmark's number, a comma, and image ids separated by spaces")
    for image in images:
        if not IMAGE_ID.fullmatch(image):
            raise UserError(f"{where}: '{image[:40]}' is no image id")
    return number, images


def present_images(folder: Path, images: Iterable[str]) -> set[str]:
    """Those of ``images`` (ids) that are files of ``folder``/a/b/c: each leaf folder is listed once, no file asked."""
    by_leaf: dict[str, list[str]] = defaultdict(list)
    for image in images:
        by_leaf[image[:3]].append(image)
    present: set[str] = set()
    for leaf, wanted in tqdm(sorted(by_leaf.items()), desc="looking for images", leave=False, disable=None):
        names = _names(folder.joinpath(*leaf))
        present.update(image for image in wanted if f"{image}.jpg" in names)
    return present


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()
