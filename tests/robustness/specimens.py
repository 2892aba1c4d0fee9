"""Small whole files of every kind that DistilPlace reads, each with its reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests import miniature_dbstruct, miniature_frames, miniature_images, miniature_landmarks, miniature_poses

Value = Any


class Specimen(NamedTuple):
    """A kind of file.

    ``build(folder)`` writes a whole one and returns its path; ``read(path)`` reads it. ``checked``: the file carries
    a hash of its own, so whatever is read must equal the original. ``tolerates``: mutations that may leave a file of
    this kind that is right in itself (a table of fewer rows, pixels of another colour).
    """

    build: Callable[[Path], Path]
    read: Callable[[Path], Value]
    checked: bool = False
    tolerates: tuple[str, ...] = ()


PAYLOAD = ("flipped", "scrambled", "head_changed")
"""What raw numbers without a checksum cannot show."""
WORDS = (*PAYLOAD, "numbers_grown", "words_inside")
"""What may leave a readable table of names."""


def saved(folder: Path, name: str, write: Callable[[Path], object]) -> Path:
    """``folder/name`` as ``write(path)`` makes it."""
    write(folder / name)
    return folder / name


def points() -> np.ndarray:
    """A cloud float32 [97, 3] of some metres: 97 is prime, so that few row widths fit."""
    return np.random.default_rng(1).uniform(-30, 30, (97, 3)).astype("<f4")


def cloud(path: Path) -> np.ndarray:
    from distilplace.datasets.io.clouds import read_cloud

    return read_cloud(path, 3)


def pcd(path: Path, data: str) -> None:
    head = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 97\nHEIGHT 1\n"
        f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 97\nDATA {data}\n"
    )
    path.write_bytes(head.encode() + body(data == "ascii"))


def ply(path: Path, form: str) -> None:
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    head = f"ply\nformat {form} 1.0\nelement vertex 97\n{properties}end_header\n"
    path.write_bytes(head.encode() + body(form == "ascii"))


def body(as_text: bool) -> bytes:
    if not as_text:
        return points().tobytes()
    return "".join(" ".join(f"{value:.6f}" for value in point) + "\n" for point in points()).encode()


CLOUDS = {
    "cloud.bin": Specimen(
        lambda folder: saved(folder, "cloud.bin", points().tofile),
        cloud,
        tolerates=(*PAYLOAD, "numbers_grown", "zeroed"),
    ),
    "cloud.npy": Specimen(
        lambda folder: saved(folder, "cloud.npy", lambda path: np.save(path, points())),
        cloud,
        tolerates=(*PAYLOAD, "numbers_grown", "zeroed"),
    ),
    "ascii.pcd": Specimen(
        lambda folder: saved(folder, "ascii.pcd", lambda path: pcd(path, "ascii")), cloud, tolerates=WORDS
    ),
    "binary.pcd": Specimen(
        lambda folder: saved(folder, "binary.pcd", lambda path: pcd(path, "binary")),
        cloud,
        tolerates=(*PAYLOAD, "numbers_grown", "zeroed", "appended"),
    ),
    "ascii.ply": Specimen(
        lambda folder: saved(folder, "ascii.ply", lambda path: ply(path, "ascii")), cloud, tolerates=WORDS
    ),
    "binary.ply": Specimen(
        lambda folder: saved(folder, "binary.ply", lambda path: ply(path, "binary_little_endian")),
        cloud,
        tolerates=(*PAYLOAD, "numbers_grown", "zeroed", "appended"),
    ),
}


def picture(path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def image(path: Path) -> np.ndarray:
    from distilplace.datasets.io.images import read_image

    return np.asarray(read_image(path, upright=True))


IMAGES = {
    name: Specimen(
        lambda folder, name=name: saved(folder, name, picture),
        image,
        tolerates=(*WORDS, "appended", *(("zeroed",) if suffix != "png" else ())),
    )
    for suffix in ("jpg", "png", "webp", "bmp", "tif")
    for name in (f"picture.{suffix}",)
}


def poses(path: Path) -> Value:
    from distilplace.datasets.readers.frames.layout import read_runs

    return [(run.name, run.frames, run.positions.tolist()) for run in read_runs(path.parent, [])]


def run_folder(folder: Path) -> Path:
    return miniature_frames.write_run(folder / "run", miniature_frames.straight(40, 2)) / "poses.csv"


NAMES = [f"{number:04d}.png" for number in range(12)]


def truth(path: Path) -> Value:
    from distilplace.datasets.matches import read_truth

    return [row.tolist() for row in read_truth(path, NAMES, NAMES, ("database", "queries"))]


def struct(path: Path) -> Value:
    from distilplace.datasets.readers.vpr.dbstruct import read_dbstruct

    found = read_dbstruct(path)
    return [found.database, found.queries]


def write_struct(path: Path) -> None:
    places = np.random.default_rng(3).uniform(0, 900, (len(NAMES), 2)) + np.array([584000, 4476000])
    miniature_dbstruct.write_struct(path, NAMES, NAMES, places, places + 1)


def scene(path: Path) -> Value:
    from distilplace.datasets.readers.poses.lists import read_pose_list

    found = read_pose_list(path)
    return [found.names, found.poses.tolist()]


def landmarks(path: Path) -> Value:
    from distilplace.datasets.readers.landmarks.revisited import read_revisited_truth

    return [read_revisited_truth(path).database, read_revisited_truth(path).queries]


def clean(path: Path) -> Value:
    from distilplace.datasets.readers.landmarks.google_landmarks import read_clean_list

    return read_clean_list(path)


def videos(path: Path) -> Value:
    from distilplace.datasets.readers.landmarks.svd_lists import read_ground_truth

    return repr(read_ground_truth(path))


def mean_image(path: Path) -> np.ndarray:
    from distilplace.datasets.transforms.mean_image import read_mean_image

    return read_mean_image(path, (9, 16))


def positions(path: Path) -> Value:
    from distilplace.datasets.readers.vpr.patch_netvlad import read_position_truth

    found = read_position_truth(path)
    return [found.database, found.queries, found.radius]


def write_positions(path: Path) -> None:
    places = np.random.default_rng(3).uniform(0, 900, (len(NAMES), 2))
    np.savez(path, utmDb=places, utmQ=places + 1, posDistThr=25)


def name_array(path: Path) -> Value:
    from distilplace.datasets.io.npy_lists import read_name_array

    return read_name_array(path)


def training_rows(path: Path) -> Value:
    from distilplace.datasets.readers.oxford.tables import read_training

    rows = read_training(path)
    return [rows.paths, rows.positions.tolist(), [row.tolist() for row in rows.positives]]


def write_training(path: Path) -> None:
    import pickle

    positions = np.stack([5.0 * np.arange(12), np.zeros(12)], axis=1)
    table = {
        index: {
            "id": index,
            "timestamp": 1_400_000_000_000_000 + index,
            "rel_scan_filepath": f"oxford/2014-05-19/pointcloud_20m_10overlap/{1_400_000_000_000_000 + index}.bin",
            "positives": np.array([j for j in range(12) if abs(j - index) == 1]),
            "non_negatives": np.array([j for j in range(12) if abs(j - index) <= 3]),
            "position": positions[index],
        }
        for index in range(12)
    }
    path.write_bytes(pickle.dumps(table, protocol=4))


TABLES = {
    "poses.csv": Specimen(run_folder, poses, tolerates=(*WORDS, "truncated")),
    "truth.csv": Specimen(
        lambda folder: miniature_images.write_truth(folder, [(name, name) for name in NAMES]),
        truth,
        tolerates=(*WORDS, "truncated"),
    ),
    "struct.mat": Specimen(
        lambda folder: saved(folder, "struct.mat", write_struct),
        struct,
        tolerates=(*WORDS, "zeroed", "appended", "truncated"),
    ),
    "dataset_train.txt": Specimen(
        lambda folder: miniature_poses.write_cambridge(folder / "scene") / "dataset_train.txt",
        scene,
        tolerates=(*WORDS, "truncated"),
    ),
    "gnd_roxford5k.pkl": Specimen(
        lambda folder: saved(
            folder,
            "gnd_roxford5k.pkl",
            lambda path: miniature_landmarks.write_truth(path, miniature_landmarks.revisited_truth()),
        ),
        landmarks,
        tolerates=WORDS,
    ),
    "training.pickle": Specimen(
        lambda folder: saved(folder, "training.pickle", write_training),
        training_rows,
        tolerates=WORDS,
    ),
    "train_clean.csv": Specimen(
        lambda folder: miniature_landmarks.write_gldv2(folder / "landmarks") / "meta" / "train_clean.csv",
        clean,
        tolerates=(*WORDS, "truncated"),
    ),
    "test_groundtruth": Specimen(
        lambda folder: miniature_landmarks.write_svd(folder / "svd") / "metadata-release" / "test_groundtruth",
        videos,
        tolerates=(*WORDS, "truncated"),
    ),
    "mean_image.npy": Specimen(
        lambda folder: saved(folder, "mean_image.npy", lambda path: np.save(path, np.full((9, 16, 3), 99.0, "f4"))),
        mean_image,
        tolerates=(*WORDS, "zeroed"),
    ),
    "pitts30k_test.npz": Specimen(
        lambda folder: saved(folder, "pitts30k_test.npz", write_positions), positions, checked=True
    ),
    "names.npy": Specimen(
        lambda folder: saved(folder, "names.npy", lambda path: np.save(path, np.array(NAMES))),
        name_array,
        tolerates=WORDS,
    ),
}


GROUPS: dict[str, dict[str, Specimen]] = {"clouds": CLOUDS, "images": IMAGES, "tables": TABLES}
