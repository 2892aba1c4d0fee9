"""The clouds of ``tools.bench_sparse``: generated streets, the demo world's submaps, real KITTI frames.

All within -1..1 and at most ``points`` points, as the Oxford benchmark's submaps, so that voxels of 0.01 mean the same.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distilplace.common.errors import UserError
from distilplace.common.home import home
from distilplace.common.randomness import generator
from distilplace.datasets.io.clouds import read_cloud
from distilplace.datasets.readers.demo.data import MANIFEST, VERSION
from distilplace.models.sparse import batched_coordinates, quantize
from distilplace.tools.bench.inputs import VOXEL, street


class AbsentClouds(Exception):
    """These clouds are not on this machine; the message says where they were looked for."""


VARIABLE = "DISTILPLACE_SHARED"


def shared_folder() -> Path:
    """Where real data lies: the folder that the environment variable names.

    Raises:
        AbsentClouds: it names none.

    """
    if not os.environ.get(VARIABLE):
        raise AbsentClouds(f"no KITTI frames are known (set {VARIABLE} to a folder with data/kitti_frames)")
    return Path(os.environ[VARIABLE])


def normalised(cloud: np.ndarray, points: int, *names: int | str) -> np.ndarray:
    """``points`` of the points, drawn by ``names`` alone, shifted to zero mean and scaled into -1..1; float32."""
    if len(cloud) > points:
        cloud = cloud[np.sort(generator("bench sparse", *names).choice(len(cloud), points, replace=False))]
    centred = cloud - cloud.mean(0)
    return (centred / max(float(np.abs(centred).max()), 1e-9)).astype(np.float32)


def street_clouds(points: int, count: int) -> list[np.ndarray]:
    """Generated streets."""
    return [street(points, number) for number in range(count)]


def demo_clouds(points: int, count: int) -> list[np.ndarray]:
    """Submaps of the first generated demo world, spread over its traversals."""
    folder = home() / "data" / "demo"
    worlds = sorted(path.parent for path in folder.glob(f"v{VERSION}-*/{MANIFEST}"))
    files = sorted(worlds[0].glob("oxford/*/pointcloud_20m*/*.bin")) if worlds else []
    if not files:
        raise AbsentClouds(f"no demo world under {folder} (python -m tools.demo makes one)")
    chosen = _spread(files, count)
    clouds = [np.fromfile(path, dtype="<f8").reshape(-1, 3) for path in chosen]
    return [_drawn(cloud, points, path.stem) for cloud, path in zip(clouds, chosen, strict=True)]


def _drawn(cloud: np.ndarray, points: int, name: str) -> np.ndarray:
    return normalised(cloud, points, name) if len(cloud) > points else cloud.astype(np.float32)


def real_clouds(points: int, count: int) -> list[np.ndarray]:
    """KITTI frames: those of ``kitti_frames`` (cropped to 50 m) and the whole scan among the samples."""
    folder = shared_folder() / "data"
    files = sorted(folder.glob("kitti_frames/*/cloud/*.bin")) + sorted(folder.glob("samples/kitti/*.bin"))
    if not files:
        raise AbsentClouds(f"no KITTI frames under {folder} (set {VARIABLE})")
    scans = {path for path in files if path.parent.name == "kitti"}  # x, y, z, intensity
    return [
        normalised(read_cloud(path, 4 if path in scans else 3), points, path.parent.parent.name, path.stem)
        for path in _spread(files, count)
    ]


def _spread(files: list[Path], count: int) -> list[Path]:
    """``count`` files at even distances, or all of them where there are fewer."""
    count = min(count, len(files))
    return [files[number * len(files) // count] for number in range(count)]


SOURCES: dict[str, Callable[[int, int], list[np.ndarray]]] = {
    "street": street_clouds,
    "demo": demo_clouds,
    "real": real_clouds,
}


def voxel_clouds(source: str, points: int, count: int) -> list[np.ndarray]:
    """Voxel indices int32 ``[N, 3]`` of up to ``count`` distinct clouds.

    Raises:
        AbsentClouds: there are none on this machine.
        UserError: unknown source.

    """
    if source not in SOURCES:
        raise UserError(f"--clouds {source}: unknown; choose from {', '.join(SOURCES)}")
    return [quantize(cloud, VOXEL)[0] for cloud in SOURCES[source](points, count)]


def batch_of(clouds: list[np.ndarray], size: int) -> torch.Tensor:
    """Coordinates int32 ``[N, 4]`` of ``size`` clouds; they repeat where there are fewer."""
    return torch.from_numpy(batched_coordinates([clouds[number % len(clouds)] for number in range(size)]))
