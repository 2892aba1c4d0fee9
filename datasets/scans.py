"""What sets of images and metric LiDAR scans share: scans cut to a number of points, images brought to one size."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distilplace.common.decoding import image_size
from distilplace.common.errors import UserError
from distilplace.common.randomness import generator
from distilplace.datasets.base import LOG, PlaceData
from distilplace.datasets.io.cloud_bins import BinWidth
from distilplace.datasets.io.clouds import Cloud, open_cloud
from distilplace.datasets.io.images import ImageSize, read_image
from distilplace.datasets.records import CloudSettings

if TYPE_CHECKING:
    from PIL.Image import Image


def cloud_settings(usual: CloudSettings, size: float | None, points: int | None) -> CloudSettings:
    """``usual`` with the voxel size and the number of points that are given; :class:`UserError` if not positive."""
    size = usual.quantization_size if size is None else float(size)
    points = usual.n_points if points is None else int(points)
    if not (math.isfinite(size) and size > 0):
        raise UserError(f"--quantization_size must be a positive number, not {size}")
    if points < 1:
        raise UserError(f"--n_points must be at least 1, not {points}")
    return CloudSettings(size, points, usual.augmentation)


class ScanData(PlaceData):
    """Base of sets of images and scans, metres in the sensor's frame; subclasses set ``row_width``."""

    cloud = CloudSettings(quantization_size=0.5, n_points=4096, augmentation="boreas")
    drops_origin = True
    row_width: BinWidth
    image_size: tuple[int, int] | None = None
    """Width and height that every image is brought to: the smallest of those met; None: no image."""

    def settle_image_size(self, paths: Iterable[Path]) -> None:
        """Choose ``image_size`` from the headers of these images; note it where they differ."""
        self._sizes = sorted({image_size(path, upright=self.upright) for path in paths})
        self._told = torch.zeros((), dtype=torch.bool).share_memory_()  # by one of the loaders' workers, for all
        if self._sizes:
            self.image_size = min(width for width, _ in self._sizes), min(height for _, height in self._sizes)
        if len(self._sizes) > 1:
            met = ", ".join(f"{width}x{height}" for width, height in self._sizes)
            self.notes.append(f"images of sizes {met} are resized to {self.image_size} (width, height)")

    def reading(self) -> dict[str, Any]:
        """The size that images of several sizes are brought to, and the columns of ``.bin`` files."""
        return {"common size": self.image_size, "columns": self.row_width.columns}

    def common_size(self) -> ImageSize | None:
        """The smallest width and height that were met."""
        return None if self.image_size is None else ImageSize(self.image_size[1], self.image_size[0])

    def read_image(self, path: Path) -> "Image":
        """The RGB image, resized to ``image_size`` where it differs: a batch may mix runs and cameras."""
        image = read_image(path, self.upright)
        if self.image_size is None or image.size == self.image_size:
            return image
        if image.size not in self._sizes and not self._told:
            self._told.fill_(True)
            LOG.warning(
                "data set %s: %s has %dx%d pixels, unlike the first image of any camera: it is resized to %dx%d, as "
                "are others like it",
                *(self.name, path, *image.size, *self.image_size),
            )
        return image.resize(self.image_size)

    def read_cloud(self, path: Path) -> np.ndarray:
        """Float32 [N, 3]; above ``n_points`` points, a subset drawn by the names of the run and the file alone."""
        points = self.open_cloud(path).points
        if len(points) <= self.cloud.n_points:
            return points
        random = generator(f"{self.name} cloud", path.parent.parent.name, path.stem)
        return points[np.sort(random.choice(len(points), self.cloud.n_points, replace=False))]

    def open_cloud(self, path: Path) -> Cloud:
        """All points of one file but those at the origin."""
        return open_cloud(path, self.row_width)
