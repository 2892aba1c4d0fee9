"""Writes miniature image sets and KITTI sequences, the smallest that are real ones. Equal arguments, equal bytes."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (32, 24)  # width, height
NORDLAND_STEP = 25 / 10.5  # metres a frame in VPR-datasets-downloader's names
LOOP, AGAIN, LEG = 40, 12, 20  # KITTI: frames of the loop, of its second lap, of the leg (out, and back)


def write_picture(path: Path, place: int, tint: int = 0, size: tuple[int, int] = SIZE) -> None:
    """The picture of a place: coarse blocks of its own, shifted in colour by ``tint`` (another season or time)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(place).integers(40, 200, (6, 8, 3))
    blocks = np.clip(blocks + tint * np.array([30, 5, -30]), 0, 255).astype(np.uint8)
    picture = Image.fromarray(blocks).resize(size, Image.Resampling.BILINEAR)
    picture.save(path, **({"compress_level": 1} if path.suffix.lower() == ".png" else {"quality": 90}))


def write_images(
    folder: Path, database: dict[str, int], queries: dict[str, int], sides: tuple[str, str] = ("database", "queries")
) -> Path:
    """Image folders ``sides``: relative name -> number of the place that the picture shows."""
    for side, tint, pictures in zip(sides, (0, 1), (database, queries), strict=True):
        for name, place in pictures.items():
            write_picture(folder / side / name, place, tint)
    return folder


def numbered(numbers: range | list[int], pattern: str = "{:04d}.png") -> dict[str, int]:
    """Pictures named by their place's number."""
    return {pattern.format(number): number for number in numbers}


def utm_name(easting: float, northing: float, pano: str = "", suffix: str = ".png") -> str:
    """A name of the @-convention: fifteen ``@``."""
    return "@".join(["", f"{easting:010.2f}", f"{northing:010.2f}", "32", "T", "", "", pano, *[""] * 7, suffix])


def write_truth(folder: Path, rows: list[tuple[str, str]]) -> Path:
    """truth.csv in ``folder``."""
    path = folder / "truth.csv"
    path.write_text("\n".join(["query,database", *(",".join(row) for row in rows)]) + "\n")
    return path


def write_sequences(folder: Path, memory: int, live: int, sides: tuple[str, str] = ("memory", "live")) -> Path:
    """Two ordered sequences; names count in unequal steps and without leading zeros, so that order is not number."""
    return write_images(
        folder,
        {f"m{3 * k + 7}.png": k for k in range(memory)},
        {f"l{5 * k + 96}.png": k for k in range(live)},
        sides,
    )


def write_nordland(folder: Path, variant: str, frames: int = 40) -> Path:
    """The line in one of its variants, ``frames`` a season."""
    names = {f"images-{202 + k:05d}.png": k for k in range(frames)}
    if variant == "full":
        return write_images(folder, names, names, ("summer", "winter"))
    if variant == "patchnetvlad":
        write_images(folder / "nordland", names, names, ("summer", "winter"))
        for side, season in (("index", "summer"), ("query", "winter")):
            lines = [f"./nordland/{season}/{name}" for name in names]
            (folder / f"nordland_imageNames_{side}.txt").write_text("\n".join(lines) + "\n")
        places = np.repeat(np.arange(frames)[:, None], 2, axis=1)
        np.savez(folder / "nordland.npz", utmQ=places, utmDb=places, posDistThr=np.array(10))
    elif variant == "downloader":
        pictures = {f"@0@{k * NORDLAND_STEP:07.1f}@@@@@{k}@@@@@@@@.jpg": k for k in range(frames)}
        write_images(folder / "images" / "test", pictures, pictures)
    elif variant == "vprbench":
        refs, queries = range(frames), range(0, frames, 10)
        write_images(folder, numbered(refs, "{:07d}.jpg"), {f"{q // 10:07d}.jpg": q for q in queries}, ("ref", "query"))
        truth = np.empty((len(queries), 2), dtype=object)
        for row, query in enumerate(queries):
            truth[row] = row, [max(query - 1, 0), query, query + 1] if query else [0, 1]
        np.save(folder / "ground_truth_new.npy", truth, allow_pickle=True)
    elif variant == "seqnet":
        _write_seqnet(folder, names, frames)
    return folder


def _write_seqnet(folder: Path, names: dict[str, int], frames: int) -> None:
    from scipy.io import savemat

    write_images(folder, names, names, ("summer", "winter"))
    cell = np.empty((frames, 1), dtype=object)
    cell[:, 0] = list(names)
    numbers = 18200 + np.arange(frames, dtype=np.float64)[None]
    struct = {"whichSet": "val", "dbImageFns": cell, "qImageFns": cell, "numImages": frames, "numQueries": frames}
    struct |= {"posDistThr": 1, "posDistSqThr": 1, "dataset": "nordland", "nonTrivPosDistSqThr": 1}
    path = folder / "nordland_val.db"
    savemat(path, {"dbStruct": {**struct, "utmDb": numbers, "utmQ": numbers}}, appendmat=False)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + path.read_bytes()[116:])  # scipy writes the time there


def write_kitti(
    folder: Path,
    sequences: tuple[str, ...] = ("00", "01"),
    *,
    seconds: float = 1.0,
    images: bool = True,
    clouds: bool = True,
    points: int = 500,
) -> Path:
    """KITTI odometry: a loop of 40 m, twelve frames of a second lap, a leg of 20 m out and back; a frame a metre.

    ``seconds`` from frame to frame: at 1.0 the second lap comes 40 s after the first.
    """
    (folder / "poses").mkdir(parents=True)
    for number, name in enumerate(sequences):
        poses = _kitti_poses(number)
        home = folder / "sequences" / name
        home.mkdir(parents=True)
        lines = [" ".join(f"{value:.6e}" for value in pose.ravel()) for pose in poses]
        (folder / "poses" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        (home / "times.txt").write_text("".join(f"{seconds * frame:e}\n" for frame in range(len(poses))))
        for frame, pose in enumerate(poses):
            if images:
                place = round(100 * abs(pose[0, 3])) + 7919 * round(100 * abs(pose[2, 3]))
                write_picture(home / "image_2" / f"{frame:06d}.png", place, size=(124 - 2 * number, 37))
            if clouds:
                scan = np.random.default_rng(1000 * number + frame).uniform(-20, 20, (points, 4)).astype("<f4")
                (home / "velodyne").mkdir(exist_ok=True)
                scan.tofile(home / "velodyne" / f"{frame:06d}.bin")
    return folder


def _kitti_poses(number: int) -> list[np.ndarray]:
    """3 x 4 poses (x right, y down, z ahead); ``number`` shifts the second lap and what follows to the side."""
    radius, aside = LOOP / (2 * np.pi), 0.2 * (number + 1)
    angles = 2 * np.pi / LOOP * np.arange(LOOP + AGAIN)
    lap = np.arange(LOOP + AGAIN) >= LOOP
    rows = [
        (angle, radius * (1 - np.cos(angle)) + aside * late, radius * np.sin(angle))
        for angle, late in zip(angles, lap, strict=True)
    ]
    heading, x, z = rows[-1]
    out = [(heading, x - k, z) for k in range(1, LEG + 1)]
    rows += out + [(heading + np.pi, x - k, z + 0.5) for k in range(LEG, 0, -1)]
    poses = []
    for heading, x, z in rows:
        c, s = np.cos(heading), np.sin(heading)
        poses.append(np.array([[c, 0, s, x], [0, 1, 0, 0], [-s, 0, c, z]]) + 1e-11)
    return poses


def write_kitti_lists(folder: Path, database: range, queries: range, matches: dict[int, list[int]]) -> None:
    """MinkLoc3D-SI's two pickles of sequence 00: frames, and per query the database indices (in the order given)."""

    def entry(frame: int) -> dict:
        name = f"sequences/00/{{}}/{frame:06d}"
        return {"query_velo": name.format("velodyne") + ".bin", "query_img": name.format("image_2") + ".png"}

    sides = {
        "database": {number: entry(frame) for number, frame in enumerate(database)},
        "query": {
            number: {**entry(frame), 0: [np.int64(index) for index in matches.get(number, [])]}
            for number, frame in enumerate(queries)
        },
    }
    for side, places in sides.items():
        with (folder / f"KITTI_00_{side}_samp10.pickle").open("wb") as stream:
            pickle.dump([places], stream, protocol=4)
