"""What all sets of images with camera poses share: lists, the validation split, the mean image.

Quaternions turn as each set's files say (Cambridge: world to camera, 7-Scenes: camera to world; spec 5.3): poses of
different sets must never be mixed or compared.
"""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.base import existing_folder
from distilplace.datasets.benchmarks import PoseSet
from distilplace.datasets.image_sets import ImageSet, record
from distilplace.datasets.io.images import ImageSize
from distilplace.datasets.readers.poses.lists import PoseList
from distilplace.datasets.records import PlaceRecord, TrainingSet
from distilplace.datasets.transforms.mean_image import (
    compute_mean_image,
    given_mean_image,
    made_from,
    mean_image_file,
    origin,
    read_mean_image,
    store_mean_image,
)

LOG = logging.getLogger("distilplace")
Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")


@dataclass(frozen=True)
class Scene:
    """A published scene: how many images its two lists have; rows that tell its own files from re-issued ones."""

    train: int
    test: int
    rows: Mapping[str, tuple[float, ...]] | None = None

    def count(self, part: Part) -> int:
        """Images of one list."""
        return self.train if part == "train" else self.test


class PoseData(ImageSet):
    """One scene: ``dataset_folder``.

    Images are stretched to 455x256 (width x height), as the published code stores them, less the training images' mean.
    That is read from ``mean_image_path``, which exists: a file, which is kept as it is, or a folder. In that, or in the
    scene's, mean_image.npy is computed on first need and stored, and so it is where images changed since.
    """

    metric_positions = False
    views = "posenet"
    resize: ImageSize | None = ImageSize(256, 455)
    world_to_camera: ClassVar[bool]
    """Which way the quaternions of the set turn."""
    scenes: ClassVar[Mapping[str, Scene]]
    """The published scenes, by their folders' names."""

    def __init__(self, dataset_folder: Path | str | None = None, mean_image_path: Path | str | None = None) -> None:
        super().__init__()
        self.folder = existing_folder(dataset_folder, "--dataset_folder", "scene folder").absolute()
        self._mean_path = None if mean_image_path is None else given_mean_image(Path(mean_image_path).expanduser())
        self._lists: dict[Part, PoseList] = {}
        self._means: dict[ImageSize | None, np.ndarray] = {}

    @abstractmethod
    def read_list(self, part: Part) -> PoseList:
        """The images and poses of one part, as its files have them; :class:`UserError` naming file and line."""

    @property
    def scene(self) -> Scene | None:
        """The published scene of the folder's name, upper and lower case alike."""
        return {name.casefold(): scene for name, scene in self.scenes.items()}.get(self.folder.name.casefold())

    def poses(self, part: Part) -> PoseList:
        """:meth:`read_list`, read once; its notes are made then."""
        if part not in self._lists:
            self._lists[part] = self.read_list(part)
            self.notes += self._list_notes(part)
        return self._lists[part]

    def records(self, part: Part) -> list[PlaceRecord]:
        """The images of one part; run: the folder of an image within the scene."""
        return [_record(self.folder, name) for name in self.poses(part).names]

    def training_set(self) -> TrainingSet:
        """Every training image once, with its pose: no image is another's positive."""
        return _items(self.records("train"), self.poses("train").poses)

    def evaluation_set(self) -> PoseSet:
        """The test images with their poses, and those of training, for comparison, where its lists can be read."""
        records, poses = self.records("test"), self.poses("test").poses
        try:
            training = self.poses("train").poses
        except UserError:  # a scene without its training part can be tested all the same
            training = None
        return PoseSet(f"{self.name} {self.folder.name}", records, poses, training)

    def validation_split(self, fraction: float) -> tuple[TrainingSet, PoseSet] | None:
        """The training set less the last ``fraction`` of every sequence (at least one image of two), and that part.

        None for 0, and where no sequence has two images. The test part never takes part (the published code chooses the
        epoch by its test error).
        """
        if not 0.0 <= fraction < 1.0:
            raise UserError(f"--val_fraction must be at least 0 and below 1, not {fraction}")
        records, poses = self.records("train"), self.poses("train").poses
        chosen = validation_indices(records, fraction)
        if len(chosen) == 0:
            return None
        kept = np.setdiff1d(np.arange(len(records)), chosen)
        name = f"{self.name} {self.folder.name} validation"
        validation = PoseSet(name, [records[i] for i in chosen], poses[chosen], poses[kept])
        return _items([records[i] for i in kept], poses[kept]), validation

    @property
    def mean_image(self) -> np.ndarray | None:  # type: ignore[override]
        """Float32 [h, w, 3] in 0..255, in the size that ``resize`` gives; None where the view subtracts none."""
        if self.views != "posenet":
            return None
        if self.resize not in self._means:  # by resize, not by size: finding the size can take opening an image
            self._means[self.resize] = self._read_or_compute(self._image_size())
        return self._means[self.resize]

    def _image_size(self) -> tuple[int, int]:
        """Height and width that images have; of the first one, where only their shorter side is set."""
        if self.resize is not None and self.resize.width is not None:
            return self.resize.height, self.resize.width
        width, height = self.image(self.records("train")[0].images[0]).size
        return height, width

    def _read_or_compute(self, size: tuple[int, int]) -> np.ndarray:
        path = mean_image_file(self.folder, size) if self._mean_path is None else self._mean_path
        named = self._mean_path is not None and not path.is_dir()
        if path.is_dir():
            path = mean_image_file(path, size)
        if path.is_file():
            mean, stored = read_mean_image(path, size), origin(path)
            source = self._mean_source() if stored is not None else None
            if stored is None or source is None or stored == source or named:
                LOG.info("mean image read from %s: %s", path, _kind(stored, source))
                return mean
            LOG.info("mean image %s was computed from other images or in another size: computed again", path)
        records = self.records("train")
        mean = compute_mean_image([entry.images[0] for entry in records], self.image)
        failed = store_mean_image(path, mean, self._mean_source())
        LOG.info("mean image computed from %d images -> %s", len(records), failed or path)
        return mean

    def _mean_source(self) -> dict[str, object] | None:
        """What the mean image of the scene is made from; None where its training images are not here."""
        try:
            records = self.records("train")
        except UserError:  # a scene without its training part can be tested all the same
            return None
        return made_from([entry.key for entry in records], [entry.images[0] for entry in records], self.resize)

    def _list_notes(self, part: Part) -> list[str]:
        names, notes = self._lists[part].names, []
        moved = sum(_is_absolute(name) and not Path(name).is_file() for name in names)
        if moved:
            notes.append(f"{part} list: {moved} absolute paths of another machine, looked for in {self.folder}")
        if mismatch := count_mismatch(len(names), part, self.scene):
            notes.append(mismatch)
        return notes


def _kind(stored: dict[str, object] | None, source: dict[str, object] | None) -> str:
    if stored is None:
        return "a given file, not compared with the training images"
    if source is None:
        return "not compared, the training images are not here"
    return "computed before from the same images" if stored == source else "computed from other images, used as named"


def count_mismatch(count: int, part: Part, scene: Scene | None) -> str | None:
    """A line when a known scene's list is not of its published length."""
    if scene is None or scene.count(part) == count:
        return None
    return f"{part} list: {count} images, published are {scene.count(part)}"


def validation_indices(records: Sequence[PlaceRecord], fraction: float) -> np.ndarray:
    """Sorted int64: the last ``fraction`` of each run, by image name; at least one, but never all of a run."""
    runs: dict[str, list[int]] = {}
    for index, entry in enumerate(records):
        runs.setdefault(entry.run, []).append(index)
    chosen: list[int] = []
    for members in runs.values():
        members.sort(key=lambda index: records[index].images[0].name)
        count = min(max(1, round(fraction * len(members))), len(members) - 1) if fraction > 0 else 0
        chosen += members[len(members) - count :]
    return np.array(sorted(chosen), dtype=np.int64)


def inside_scene(folder: Path, name: str) -> PurePosixPath:
    """Where an image of a list lies within the scene's ``folder``.

    Lists may begin paths with the scene's name, or be re-issued with absolute paths of another machine, Windows' too:
    of those counts what follows the scene's name, else the last folder and the file (our reading).
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    scenes = [number for number, part in enumerate(parts[:-1]) if part.casefold() == folder.name.casefold()]
    if _is_absolute(name):
        parts = parts[scenes[-1] + 1 :] if scenes else parts[-2:]
    elif scenes and scenes[0] == 0 and not (folder / parts[0]).is_dir():
        parts = parts[1:]
    return PurePosixPath(*parts)


def _is_absolute(name: str) -> bool:
    return name.startswith(("/", "\\")) or name[1:2] == ":"


def _record(folder: Path, name: str) -> PlaceRecord:
    inside, here = inside_scene(folder, name), Path(name)
    run = "images" if inside.parent == PurePosixPath(".") else str(inside.parent)
    path = here if _is_absolute(name) and here.is_file() else folder / inside
    return record(run, path, inside.name)


def _items(records: list[PlaceRecord], poses: np.ndarray) -> TrainingSet:
    own = [np.array([index], dtype=np.int64) for index in range(len(records))]
    nobody = [np.empty(0, dtype=np.int64) for _ in records]
    return TrainingSet(records, nobody, own, poses=poses, layout="items")
