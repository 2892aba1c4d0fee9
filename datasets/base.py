"""What a data set must offer, and the checks every reader shares."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.common.inputs.image_files import require_text_path
from distilplace.datasets.io.cloud_bins import BinWidth
from distilplace.datasets.io.cloud_survey import survey
from distilplace.datasets.io.clouds import Cloud, checked_cloud
from distilplace.datasets.io.images import ImageSize, read_image
from distilplace.datasets.records import Benchmark, CloudSettings, PlaceRecord, TrainingSet
from distilplace.datasets.transforms.views import make_view

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

LOG = logging.getLogger("distilplace.datasets")


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
    """What test queries (``PlaceRecord.as_query``) are resized to; None: the same as every image."""
    sized_queries: bool = False
    """Are test queries images of their own, never retrieved, so that ``query_resize`` can be given?"""
    normalisation: str = "imagenet"
    """How pixels are normalised: a name of :data:`distilplace.datasets.io.images.NORMALISATIONS`."""
    views: str = "place"
    """How images are cropped, augmented and normalised: a name of :data:`datasets.transforms.views.VIEWS`."""
    crop_size: int | None = None
    """Side of the crops of ``views``, pixels; None: the view's own."""
    mean_image: np.ndarray | None = None
    """Float32 [h, w, 3] in 0..255, subtracted by the view "posenet"."""
    upright: bool = False
    """Is the EXIF orientation of images applied? One's own images: yes; published sets keep their protocol's pixels."""
    validation_buffer: float = 50.0
    """Metres that training samples keep from a validation stretch, where they do not read a --negative_radius."""
    metric_positions: bool = True
    """Are positions metres? If not (frame numbers, bare matches), no validation part can be cut by distance."""

    clouds_in_metres: bool = True
    """Are clouds metric? Oxford's are scaled to [-1, 1]."""
    drops_origin: bool = False
    """Are points at the sensor's origin (pulses without a return) left out? Published sets keep theirs."""
    row_width: BinWidth | None = None
    """How wide the rows of ``.bin`` clouds are, where that is an option."""
    clouds_surveyed: bool = False
    """Has :meth:`survey_clouds` looked already?"""
    settings: Mapping[str, Any] = MappingProxyType({})
    """What :func:`datasets.create_dataset` was given."""

    def note(self, *lines: str) -> None:
        """Keep lines for the log, each once."""
        self.notes += [line for line in dict.fromkeys(lines) if line not in self.notes]

    @abstractmethod
    def training_set(self) -> TrainingSet:
        """The training samples with their relations."""

    @abstractmethod
    def evaluation_set(self) -> Benchmark:
        """The test set: database and query runs with their ground truth, or one of ``datasets.benchmarks``."""

    def validation_set(self) -> Benchmark | None:
        """A published validation part, to choose the epoch by; None where the set has none."""
        return None

    def validation_split(self, fraction: float) -> tuple[TrainingSet, Benchmark] | None:
        """The train set less ``fraction`` of it, and that as a benchmark; None where distance cuts it instead."""
        return None

    def whitening_records(self, records: Sequence[PlaceRecord], seed: int) -> Sequence[PlaceRecord]:
        """The images that a whitening may be fitted on, of the training samples ``records``: by default, these."""
        return records

    def reading(self) -> dict[str, Any]:
        """What beside ``settings`` decides how a file is read, such as what was guessed from the others: plain values.

        Computed outputs are not used again where it differs (``distilplace.engine.caches.fingerprint``).
        """
        return {}

    def common_size(self) -> ImageSize | None:
        """The size that :meth:`read_image` brings images of several sizes to; None: it leaves them as they are."""
        return None

    def read_image(self, path: Path) -> "Image":
        """The decoded RGB image of one file."""
        return read_image(path, self.upright)

    def image(
        self, path: Path, crop: tuple[float, float, float, float] | None = None, *, as_query: bool = False
    ) -> "Image":
        """The image of one file, or what lies in ``crop``, in the size that batches, or test queries, have."""
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

    def open_cloud(self, path: Path) -> Cloud:
        """All points of one file, and how many lie at the origin."""
        points = self.read_cloud(path)
        return Cloud(points, int(np.count_nonzero(~points.any(axis=1))))

    def survey_clouds(self, paths: Iterable[Path | None]) -> None:
        """Look at some of the clouds at ``paths``, once per data set: warn of what is odd, with counts.

        Raises:
            UserError: as :meth:`read_cloud`, for one of those looked at.

        """
        if self.clouds_surveyed:
            return
        self.clouds_surveyed = True
        metres, dropped = self.clouds_in_metres, self.drops_origin
        for line in survey(paths, self.open_cloud, metres=metres, dropped=dropped, width=self.row_width):
            self.notes.append(line)
            LOG.warning("data set %s: %s", self.name, line)


def _within(crop: tuple[float, float, float, float], size: tuple[int, int], path: Path) -> tuple[int, int, int, int]:
    """``crop`` in whole pixels, cut to the image."""
    left, top, right, bottom = max(0, math.floor(crop[0])), max(0, math.floor(crop[1])), *map(math.ceil, crop[2:])
    box = (left, top, min(right, size[0]), min(bottom, size[1]))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise UserError(
            f"image {path}: the box {crop} lies outside its {size[0]}x{size[1]} pixels: check the ground truth"
        )
    return box


def checked_points(points: np.ndarray, path: Path) -> np.ndarray:
    """As :func:`distilplace.datasets.io.clouds.checked_cloud`, for what must be ``[N, 3]`` itself."""
    if points.ndim != 2 or points.shape[1] != 3:
        raise UserError(f"cloud file {path}: expected an array of shape (N, 3), found {points.shape}")
    return checked_cloud(points, path)


def existing_folder(path: Path | str | None, flag: str, what: str) -> Path:
    """``path`` as an existing folder, else a :class:`UserError` that names the flag to set."""
    if path is None:
        raise UserError(f"no {what} given: set {flag} (or its entry in paths.yaml)")
    require_text_path(str(path), what)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{what} {folder} does not exist: set {flag_of(folder, flag)} (or its entry in paths.yaml)")
    return folder


def existing_file(path: Path, flag: str, what: str) -> Path:
    """``path`` when it is a file, else a :class:`UserError` that names the flag to set."""
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist: check {flag_of(path, flag)}")
    return path
