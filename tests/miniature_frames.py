"""Writes runs in the ``frames`` layout: the smallest files that are real ones."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_run(
    folder: Path,
    places: np.ndarray,
    *,
    cameras: tuple[str, ...] = ("image_left", "image_right"),
    cloud: str | None = "bin",
    points: int = 61,  # 183 numbers: no row width but 3 fits
    image_size: tuple[int, int] = (32, 24),
    seed: int = 0,
) -> Path:
    """One run at ``places`` [n,2] (northing, easting): poses.csv, per frame pictures and a cloud (.bin, .npy)."""
    random = np.random.default_rng(seed)
    frames = [f"{2 * index:010d}" for index in range(len(places))]
    for camera in cameras:
        (folder / camera).mkdir(parents=True)
        for frame in frames:
            pixels = random.integers(0, 255, (image_size[1], image_size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / camera / f"{frame}.png", compress_level=1)
    if cloud is not None:
        (folder / "cloud").mkdir(parents=True)
        for frame in frames:
            values = random.uniform(-20, 20, (points, 3)).astype("<f4")
            if cloud == "npy":
                np.save(folder / "cloud" / f"{frame}.npy", values)
            else:
                values.tofile(folder / "cloud" / f"{frame}.bin")
    rows = [
        f"{frame},{1317042145.9 + 0.2 * index:.3f},{east:.6f},{north:.6f},0.0,0.01,0.02,0.5"
        for index, (frame, (north, east)) in enumerate(zip(frames, places, strict=True))
    ]
    header = "frame,timestamp,easting,northing,altitude,roll,pitch,yaw"
    (folder / "poses.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def straight(length: float, step: float, northing: float = 0.0, easting: float = 0.0) -> np.ndarray:
    """Places [n,2] every ``step`` metres eastwards from (northing, easting)."""
    along = np.arange(0.0, length, step)
    return np.column_stack([np.full(len(along), northing), easting + along])
