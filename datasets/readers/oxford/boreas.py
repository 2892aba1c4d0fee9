"""Boreas in DistilVPR's layout ("BenchmarkBoreasv3"): metric clouds as ``.npy``, one image per cloud.

``dataset_folder`` holds ``boreas/<run>/lidar_1_4096_interval10/<us>.npy``, the ``boreas_*`` pickles and the image
index; images lie in ``<image_path>/<run>/camera_lidar_interval10/<us>.png``, where ``image_path`` is normally
``<dataset_folder>/boreas``. The projection and extrinsics files of upstream's layout are not needed and not opened.
"""

from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.common.npy import load_npy
from distilplace.datasets.base import checked_points, existing_file, existing_folder
from distilplace.datasets.readers.oxford.data import OxfordData
from distilplace.datasets.records import CloudSettings


class BoreasData(OxfordData):
    """``boreas``: clouds of 4096 points in metres, quantised at 1 m; the augmentation never moves the whole cloud."""

    name = "boreas"
    training_pickle = "boreas_training_queries_baseline.pickle"
    database_pickle = "boreas_evaluation_database.pickle"
    query_pickle = "boreas_evaluation_query.pickle"
    image_index = "boreas_lidar2image_ndx.pickle"
    defaults = CloudSettings(quantization_size=1.0, n_points=4096, augmentation="boreas")
    clouds_in_metres = True

    def _find_images(self, image_path: Path | str | None) -> Path | None:
        if image_path is None:
            beside = self.dataset_folder / "boreas"
            return beside if beside.is_dir() else None
        return existing_folder(image_path, "--image_path", "image folder")

    def _image_index_file(self) -> Path:
        return existing_file(self.dataset_folder / self.image_index, "--dataset_folder", "image index")

    def _image_file(self, run: str, stamp: int) -> Path:
        assert self.image_path is not None
        return self.image_path / run / "camera_lidar_interval10" / f"{stamp}.png"

    def read_cloud(self, path: Path) -> np.ndarray:
        """``(n_points, 3)`` of any float type, metres in the LiDAR frame; returned as float32 ``[N, 3]``."""
        try:
            points = load_npy(path)
        except FileNotFoundError as error:
            raise UserError(f"cloud file {path} does not exist: check {flag_of(path)}") from error
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"cloud file {path} is not a readable .npy of numbers: {error}") from error
        if not isinstance(points, np.ndarray) or points.dtype.kind not in "fiu":
            raise UserError(f"cloud file {path}: holds no plain array of numbers")
        if points.shape != (self.cloud.n_points, 3):
            raise UserError(f"cloud file {path}: shape {points.shape}, expected ({self.cloud.n_points}, 3)")
        return checked_points(points, path)
