"""Miniature data sets in the exact upstream layouts (spec-datasets 1.3-1.18, 2.3, 2.6), written by the tests.

``write_oxford`` and ``write_boreas`` write a few runs of one loop: clouds, pictures, CSVs and pickles whose training
tuples carry the class path ``datasets.oxford.TrainingTuple``, as the published files do.
Equal arguments, equal bytes.
"""

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tests.miniature_scene import Loop, Scene, normalised, picture, scene_around, submap

P1 = (5735712.768124, 620084.402381)
HALF_WIDTH = 150.0
SPACING = 20.0
DETOUR = 40.0
OXFORD_RUNS = ("2014-11-14-16-34-33", "2014-11-18-13-20-12", "2014-12-02-15-30-08", "2014-12-09-13-21-02")
BOREAS_RUNS = (
    "boreas-2020-11-26-13-58",
    "boreas-2021-01-26-11-22",
    "boreas-2021-04-29-15-55",
    "boreas-2021-09-14-20-00",
)


class Miniature(NamedTuple):
    """Where a miniature data set lies: what ``--dataset_folder`` and ``--image_path`` take."""

    dataset_folder: Path
    image_path: Path


@dataclass(frozen=True)
class Drive:
    """One run: stamps (microseconds), positions [n,2] (northing, easting), headings (radians from east)."""

    name: str
    stamps: np.ndarray
    positions: np.ndarray
    headings: np.ndarray
    light: float


def write_oxford(
    folder: Path,
    seed: int = 0,
    *,
    runs: int = 3,
    submaps: int = 30,
    image_size: tuple[int, int] = (320, 240),
    images_per_run: int = 24,
    layout: str = "oxford",
    tuple_module: str | None = "datasets.oxford",
    protocol: int = 4,
) -> Miniature:
    """A RobotCar benchmark of a loop of which a third lies inside the P1 square; ``layout`` oxford or oxfordadafusion.

    ``tuple_module=None`` writes PointNetVLAD's original training dictionaries instead of pickled tuples.
    """
    adafusion = layout == "oxfordadafusion"
    data = folder / "benchmark_datasets"
    images = folder / ("RobotCar_checked_image_adafusion" if adafusion else "RobotCar_checked_image")
    radius = _radius(submaps)
    loop = Loop(P1[0], P1[1] - HALF_WIDTH - radius / 2, radius)
    scene = scene_around(loop, seed)
    drives = _drives(loop, OXFORD_RUNS, runs, submaps, seed)
    train_folder, test_folder = (
        "pointcloud_20m_10overlap",
        "pointcloud_20m_10overlap" if adafusion else "pointcloud_20m",
    )
    for number, drive in enumerate(drives):
        for pass_, name in enumerate(dict.fromkeys((train_folder, test_folder))):
            place = data / layout / drive.name
            random = np.random.default_rng([seed, 2, number, pass_])
            for stamp, position, heading in zip(drive.stamps, drive.positions, drive.headings, strict=True):
                points = normalised(submap(scene, position, heading, random), random)
                _write(place / name / f"{stamp}.bin", points.astype("<f8").tobytes())
            _write_csv(place / f"pointcloud_locations_{name.removeprefix('pointcloud_')}.csv", drive)
    pool = {drive.name: _oxford_pictures(images, scene, loop, drive, image_size, images_per_run) for drive in drives}
    inside = [np.abs(d.positions - P1).max(axis=1) < HALF_WIDTH for d in drives]
    paths = {kind: [_paths(layout, d, kind, "bin") for d in drives] for kind in {train_folder, test_folder}}
    prefix = f"{layout}_" if adafusion else ""
    for name, keep in (("training", [~i for i in inside]), ("test", inside)):
        target = data / f"{prefix}{name}_queries_baseline.pickle"
        _write_tuples(target, drives, paths[train_folder], keep, tuple_module, protocol)
    _write_evaluation(data, layout, drives, paths[test_folder], inside, protocol)
    nearest = {stamp: _nearest(pool[d.name], stamp, 20) for d in drives for stamp in d.stamps}
    _write_pickle(images / f"{prefix}lidar2image_ndx.pickle", nearest, protocol)
    return Miniature(data, images)


def write_boreas(
    folder: Path,
    seed: int = 0,
    *,
    runs: int = 3,
    submaps: int = 30,
    image_size: tuple[int, int] = (306, 256),
    tuple_module: str | None = "datasets.oxford",
    protocol: int = 4,
) -> Miniature:
    """DistilVPR's Boreas layout: metric clouds (4096,3) .npy, one picture a cloud, whole runs as database and query."""
    data = folder / "BenchmarkBoreasv3"
    images = data / "boreas"
    loop = Loop(4848860.0, 623440.0, _radius(submaps))
    scene = scene_around(loop, seed)
    drives = _drives(loop, BOREAS_RUNS, runs, submaps, seed)
    nearest: dict[np.int64, list[np.int64]] = {}
    for number, drive in enumerate(drives):
        place = images / drive.name
        random = np.random.default_rng([seed, 3, number])
        for name in ("P0_camera_interval10", "T_camera_lidar_basedon_pose_interval10", "camera_lidar_interval10"):
            (place / name).mkdir(parents=True)
        for stamp, position, heading in zip(drive.stamps, drive.positions, drive.headings, strict=True):
            cloud = place / "lidar_1_4096_interval10" / f"{stamp}.npy"
            cloud.parent.mkdir(exist_ok=True)
            np.save(cloud, submap(scene, position, heading, random).astype(np.float32))
            shot = np.int64(stamp + 25_000)
            view = picture(scene, position, heading, image_size, drive.light)
            view.save(place / "camera_lidar_interval10" / f"{shot}.png", compress_level=1)
            nearest[stamp] = [shot]
            scale = image_size[0] / 2448
            projection = np.diag([1460.98 * scale, 1460.93 * scale, 1.0, 1.0])
            projection[:2, 2] = 1230.0 * scale, 1035.08 * scale
            np.savetxt(place / "P0_camera_interval10" / f"{stamp}.txt", projection)
            _save_extrinsics(place / "T_camera_lidar_basedon_pose_interval10" / f"{stamp}.txt")
        _write_csv(place / "pointcloud_locations_interval10.csv", drive)
    paths = [_paths("boreas", d, "lidar_1_4096_interval10", "npy") for d in drives]
    everything = [np.ones(len(d.stamps), dtype=bool) for d in drives]
    _write_tuples(data / "boreas_training_queries_baseline.pickle", drives, paths, everything, tuple_module, protocol)
    _write_evaluation(data, "boreas", drives, paths, everything, protocol)
    _write_pickle(data / "boreas_lidar2image_ndx.pickle", nearest, protocol)
    return Miniature(data, images)


def _radius(submaps: int) -> float:
    """A loop with the submaps 20 m apart, but never so small that no pair lies beyond the 50 m of non-negatives."""
    return max(SPACING * submaps / (2 * np.pi), 70.0)


def _drives(loop: Loop, names: tuple[str, ...], runs: int, submaps: int, seed: int) -> list[Drive]:
    """``runs`` traversals 1-3 m off the loop; the last one's first submap lies 40 m off: no neighbours."""
    if not 2 <= runs <= len(names):
        raise ValueError(f"a miniature has 2 to {len(names)} runs, not {runs}")
    drives = []
    for number, name in enumerate(names[:runs]):
        random = np.random.default_rng([seed, 4, number])
        angles = 2 * np.pi * (np.arange(submaps) + 0.5) / submaps
        outwards = random.uniform(1.0, 3.0, submaps) * random.choice([-1.0, 1.0], submaps)
        if number == runs - 1:
            outwards[0] += DETOUR
        start = datetime.strptime(name[-19:], "%Y-%m-%d-%H-%M-%S") if name[0] != "b" else _boreas_start(name)
        first = int(start.replace(tzinfo=UTC).timestamp()) * 1_000_000 + 123_457
        stamps = first + np.arange(submaps, dtype=np.int64) * 4_000_000
        light = 1.0 - 0.25 * number
        drives.append(Drive(name, stamps, loop.at(angles, outwards), angles + np.pi / 2, light))
    return drives


def _boreas_start(name: str) -> datetime:
    return datetime.strptime(name, "boreas-%Y-%m-%d-%H-%M")


def _oxford_pictures(
    images: Path, scene: Scene, loop: Loop, drive: Drive, size: tuple[int, int], count: int
) -> np.ndarray:
    """``count`` pictures spread over the drive, between the submaps' stamps; returns their stamps."""
    (images / drive.name).mkdir(parents=True)
    share = np.arange(count) / count
    stamps = drive.stamps[0] + 31_003 + (share * (drive.stamps[-1] - drive.stamps[0])).astype(np.int64)
    angles = np.interp(stamps, drive.stamps, drive.headings) - np.pi / 2
    for stamp, angle in zip(stamps, angles, strict=True):
        view = picture(scene, loop.at(np.array(angle)), angle + np.pi / 2, size, drive.light)
        view.save(images / drive.name / f"{stamp}.png", compress_level=1)
    return stamps


def _nearest(pool: np.ndarray, stamp: np.int64, k: int) -> list[np.int64]:
    """The k image stamps nearest to a LiDAR stamp, nearest first, later ones first among equals; NumPy int64."""
    return list(pool[np.lexsort((-pool, np.abs(pool - stamp)))][:k])


def _paths(layout: str, drive: Drive, folder: str, suffix: str) -> list[str]:
    return [f"{layout}/{drive.name}/{folder}/{stamp}.{suffix}" for stamp in drive.stamps]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_csv(path: Path, drive: Drive) -> None:
    rows = [f"{s},{n:.6f},{e:.6f}" for s, (n, e) in zip(drive.stamps, drive.positions, strict=True)]
    _write(path, ("timestamp,northing,easting\n" + "\n".join(rows) + "\n").encode())


def _save_extrinsics(path: Path) -> None:
    """Boreas' stationary camera-from-LiDAR transform, its rotation made exactly orthonormal."""
    turn = np.array([[0.7293, -0.6842, -0.0005], [-0.0129, -0.0130, -0.9998], [0.6841, 0.7292, -0.0183]])
    u, _, vt = np.linalg.svd(turn)
    transform = np.eye(4)
    transform[:3, :3] = u @ vt
    transform[:3, 3] = -0.0231, -0.2294, -0.6353
    np.savetxt(path, transform)


def _within(one: np.ndarray, other: np.ndarray, radius: float) -> np.ndarray:
    return np.linalg.norm(one[:, None] - other[None], axis=2) <= radius


def _write_tuples(
    path: Path, drives: list[Drive], paths: list[list[str]], keep: list[np.ndarray], module: str | None, protocol: int
) -> None:
    """dict 0..n-1 -> TrainingTuple of the kept items: positives within 10 m (no self), non-negatives within 50 m."""
    chosen = [(d, i, paths[r][i]) for r, d in enumerate(drives) for i in np.flatnonzero(keep[r])]
    positions = np.array([d.positions[i] for d, i, _ in chosen])
    near, wide = _within(positions, positions, 10.0), _within(positions, positions, 50.0)
    np.fill_diagonal(near, False)
    with _tuple_class(module) as kind:
        content: dict[int, Any] = {}
        for n, (drive, i, file) in enumerate(chosen):
            positives, non_negatives = np.flatnonzero(near[n]), np.flatnonzero(wide[n])
            if module is None:
                negatives = np.setdiff1d(np.arange(len(chosen)), non_negatives)
                content[n] = {"query": file, "positives": positives.tolist(), "negatives": negatives.tolist()}
                continue
            item = kind()
            item.id, item.timestamp, item.rel_scan_filepath = n, int(drive.stamps[i]), file
            item.positives, item.non_negatives = positives, non_negatives
            item.position = drive.positions[i].astype(object)
            content[n] = item
        _write_pickle(path, content, protocol)


@contextmanager
def _tuple_class(module: str | None) -> Iterator[type]:
    """A class that pickles as ``<module>.TrainingTuple`` in a module that exists only here."""
    kind = type("TrainingTuple", (), {"__module__": module or __name__})
    if module is None:
        yield kind
        return
    stand_in = ModuleType(module)
    stand_in.TrainingTuple = kind  # type: ignore[attr-defined]
    before = sys.modules.get(module)
    sys.modules[module] = stand_in
    try:
        yield kind
    finally:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before


def _write_evaluation(
    data: Path, layout: str, drives: list[Drive], paths: list[list[str]], asked: list[np.ndarray], protocol: int
) -> None:
    """Database: every submap. Queries: the asked ones, renumbered, with the other runs' true neighbours (25 m)."""
    database, queries = [], []
    for r, drive in enumerate(drives):
        entries = [
            {"query": file, "northing": float(n), "easting": float(e)}
            for file, (n, e) in zip(paths[r], drive.positions, strict=True)
        ]
        database.append(dict(enumerate(entries)))
        kept = [dict(entries[i]) for i in np.flatnonzero(asked[r])]
        for m, other in enumerate(drives):
            if m != r:
                true = _within(drive.positions[asked[r]], other.positions, 25.0)
                for entry, row in zip(kept, true, strict=True):
                    entry[m] = np.flatnonzero(row).tolist()  # type: ignore[index]
        queries.append(dict(enumerate(kept)))
    _write_pickle(data / f"{layout}_evaluation_database.pickle", database, protocol)
    _write_pickle(data / f"{layout}_evaluation_query.pickle", queries, protocol)


def _write_pickle(path: Path, content: object, protocol: int) -> None:
    _write(path, pickle.dumps(content, protocol=protocol))
