"""What a data set must offer, and the checks every reader shares."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from datasets.images import ImageSize, read_image
from datasets.records import Benchmark, CloudSettings, TrainingSet
from datasets.views import make_view

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class PlaceData(ABC):
    """A place-recognition data set on disk.

    ``name`` is its name on the command line, ``cloud`` how clouds are read and voxelised, ``notes`` lines for the log:
    what was chosen or tolerated. ``training_set`` and ``evaluation_set`` read lists, never clouds or images.
    """

    name: str
    cloud: CloudSettings
    notes: list[str]
    resize: ImageSize | None = None
    """What every image is resized to; None: as it is."""
    query_resize: ImageSize | None = None
    """What tested queries (``PlaceRecord.as_query``) are resized to; None: the same as every image."""
    sized_queries: bool = False
    """Are tested queries images of their own, never retrieved, so that ``query_resize`` can be given?"""
    normalisation: str = "imagenet"
    """How pixels are normalised: a name of :data:`datasets.images.NORMALISATIONS`."""
    views: str = "place"
    """How images are cropped, augmented and normalised: a name of :data:`datasets.views.VIEWS`."""
    crop_size: int | None = None
    """Side of the crops of ``views``, pixels; None: the view's own."""
    mean_image: np.ndarray | None = None
    """Float32 [h, w, 3] in 0..255, subtracted by the view "posenet"."""
    upright: bool = False
    """Is the EXIF orientation of images applied? One's own images: yes; published sets keep their protocol's pixels."""
    validation_buffer: float = 50.0
    """Metres that training places keep from a validation stretch, where no --negative_radius is given."""
    metric_positions: bool = True
    """Are positions metres? If not (frame numbers, bare matches), no validation part can be cut by distance."""

    @abstractmethod
    def training_set(self) -> TrainingSet:
        """The training places with their relations."""

    @abstractmethod
    def evaluation_set(self) -> Benchmark:
        """What is tested: database and query runs with their true neighbours, or one of ``datasets.benchmarks``."""

    def validation_set(self) -> Benchmark | None:
        """A published validation part, to choose the epoch by; None where the set has none."""
        return None

    def held_out(self, fraction: float) -> tuple[TrainingSet, Benchmark] | None:
        """The training part less ``fraction`` of it, and that as a benchmark; None where distance cuts it instead."""
        return None

    def read_image(self, path: Path) -> "Image":
        """The decoded RGB image of one file."""
        return read_image(path, self.upright)

    def image(
        self, path: Path, crop: tuple[float, float, float, float] | None = None, *, as_query: bool = False
    ) -> "Image":
        """The image of one file, or what lies in ``crop``, in the size that batches, or tested queries, have."""
        image = self.read_image(path)
        if crop is not None:
            image = image.crop(_within(crop, image.size, path))
        size = self.query_resize if as_query and self.query_resize is not None else self.resize
        return image if size is None else size.apply(image)

    def transform(
        self, augment: bool, rates: tuple[float, float, float], view: int = 0
    ) -> "Callable[[Image], torch.Tensor]":
        """Image -> float32 [3, H, W]; ``augment``: as training sees it, ``rates`` as in the view "place".

        ``view``: which of an item's two views (layout "views").
        """
        return make_view(
            self.views,
            augment=augment,
            crop_size=self.crop_size,
            rates=rates,
            normalisation=self.normalisation,
            mean_image=self.mean_image,
            view=view,
        )

    @abstractmethod
    def read_cloud(self, path: Path) -> np.ndarray:
        """Float32 ``[N, 3]`` points of one file; :class:`UserError` when truncated, not finite or empty."""


def _within(crop: tuple[float, float, float, float], size: tuple[int, int], path: Path) -> tuple[int, int, int, int]:
    """``crop`` in whole pixels, cut to the image."""
    left, top, right, bottom = max(0, math.floor(crop[0])), max(0, math.floor(crop[1])), *map(math.ceil, crop[2:])
    box = (left, top, min(right, size[0]), min(bottom, size[1]))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise UserError(
            f"image {path}: the box {crop} lies outside its {size[0]}x{size[1]} pixels; check the truth file"
        )
    return box


def checked_points(points: np.ndarray, path: Path) -> np.ndarray:
    """``points`` as float32 ``[N, 3]``, contiguous; a :class:`UserError` naming ``path`` when empty or not finite."""
    if points.ndim != 2 or points.shape[1] != 3:
        raise UserError(f"cloud file {path}: expected an array of shape (N, 3), found {points.shape}")
    if len(points) == 0:
        raise UserError(f"cloud file {path}: holds no point")
    points = np.ascontiguousarray(points, dtype=np.float32)
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points).all(axis=1)).sum())
        raise UserError(f"cloud file {path}: {bad} of {len(points)} points are not finite (NaN or infinite)")
    return points


def existing_folder(path: Path | str | None, flag: str, what: str) -> Path:
    """``path`` as an existing folder, else a :class:`UserError` that names the flag to set."""
    if path is None:
        raise UserError(f"no {what} given: set {flag} (or its entry in paths.yaml)")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{what} {folder} does not exist: set {flag} (or its entry in paths.yaml)")
    return folder


def existing_file(path: Path, flag: str, what: str) -> Path:
    """``path`` when it is a file, else a :class:`UserError` that names the flag to set."""
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist: check {flag}")
    return path
