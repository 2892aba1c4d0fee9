"""What a data set must offer, and the checks every reader shares."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from datasets.images import ImageSize, read_image
from datasets.records import CloudSettings, EvaluationSet, TrainingSet

if TYPE_CHECKING:
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
    normalisation: str = "imagenet"
    """How pixels are normalised: a name of :data:`datasets.images.NORMALISATIONS`."""
    metric_positions: bool = True
    """Are positions metres? If not (frame numbers, bare matches), no validation part can be cut by distance."""

    @abstractmethod
    def training_set(self) -> TrainingSet:
        """The training places with their relations."""

    @abstractmethod
    def evaluation_set(self) -> EvaluationSet:
        """Database and query runs with their true neighbours."""

    def validation_set(self) -> EvaluationSet | None:
        """A published validation part, to choose the epoch by; None where the set has none."""
        return None

    def read_image(self, path: Path) -> "Image":
        """The decoded RGB image of one file."""
        return read_image(path)

    def image(self, path: Path) -> "Image":
        """The image of one file in the size that batches have."""
        image = self.read_image(path)
        return image if self.resize is None else self.resize.apply(image)

    @abstractmethod
    def read_cloud(self, path: Path) -> np.ndarray:
        """Float32 ``[N, 3]`` points of one file; :class:`UserError` when truncated, not finite or empty."""


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
