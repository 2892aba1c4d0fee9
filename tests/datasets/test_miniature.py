"""The miniature data sets against the validator list of spec-datasets (1.17, 2.6): fixtures must not lie."""

import csv
import filecmp
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.miniature import HALF_WIDTH, P1, write_boreas, write_oxford
from tests.miniature_frames import straight, write_run

OTHER_SQUARES = ((5735611.299219, 620540.270327), (5735237.358209, 620543.094379), (5734749.303802, 619932.693364))


class _Reader(pickle.Unpickler):
    """Records every class the pickle names and stands in for TrainingTuple."""

    def __init__(self, stream):
        super().__init__(stream)
        self.named = set()

    def find_class(self, module, name):
        self.named.add(f"{module}.{name}")
        return SimpleNamespace if name == "TrainingTuple" else super().find_class(module, name)


def _load(path):
    with path.open("rb") as stream:
        reader = _Reader(stream)
        return reader.load(), reader.named


@pytest.fixture(scope="module")
def oxford(tmp_path_factory):
    return write_oxford(tmp_path_factory.mktemp("oxford"), image_size=(64, 48))


@pytest.fixture(scope="module")
def boreas(tmp_path_factory):
    return write_boreas(tmp_path_factory.mktemp("boreas"), image_size=(64, 48))


def _inside(position, centre=P1):
    return np.abs(np.asarray(position, dtype=float) - centre).max() < HALF_WIDTH


def _rows(path):
    with path.open() as stream:
        return [(int(r["timestamp"]), float(r["northing"]), float(r["easting"])) for r in csv.DictReader(stream)]


@pytest.mark.parametrize("kind", ["oxford", "boreas"])
def test_training_tuples(kind, request):
    place = request.getfixturevalue(kind)
    name = {"oxford": "training_queries_baseline", "boreas": "boreas_training_queries_baseline"}[kind]
    tuples, named = _load(place.dataset_folder / f"{name}.pickle")
    assert "datasets.oxford.TrainingTuple" in named
    assert list(tuples) == [item.id for item in tuples.values()] == list(range(len(tuples)))
    assert len(tuples) == {"oxford": 60, "boreas": 90}[kind]
    places = np.array([item.position.astype(float) for item in tuples.values()])
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
    for n, item in tuples.items():
        assert item.position.dtype == object
        assert item.position.shape == (2,)
        assert item.positives.tolist() == [j for j in np.flatnonzero(gaps[n] <= 10.0) if j != n]
        assert item.non_negatives.tolist() == np.flatnonzero(gaps[n] <= 50.0).tolist()
        assert (place.dataset_folder / item.rel_scan_filepath).is_file()
        assert item.timestamp == int(item.rel_scan_filepath.split("/")[-1].split(".")[0])
        assert kind == "boreas" or not any(_inside(item.position, square) for square in (P1, *OTHER_SQUARES))
    assert sum(len(item.positives) > 0 for item in tuples.values()) > 0.9 * len(tuples)
    assert all(len(item.non_negatives) < len(tuples) for item in tuples.values())


@pytest.mark.parametrize("kind", ["oxford", "boreas"])
def test_evaluation_pickles(kind, request):
    place = request.getfixturevalue(kind)
    database, _ = _load(place.dataset_folder / f"{kind}_evaluation_database.pickle")
    queries, _ = _load(place.dataset_folder / f"{kind}_evaluation_query.pickle")
    assert len(database) == len(queries) == 3
    assert [len(run) for run in database] == [30, 30, 30]
    assert all(len(run) == 30 if kind == "boreas" else 8 <= len(run) <= 12 for run in queries)
    empty = set()
    for n, run in enumerate(queries):
        assert list(run) == list(range(len(run)))
        for entry in run.values():
            assert (place.dataset_folder / entry["query"]).is_file()
            assert kind == "boreas" or _inside((entry["northing"], entry["easting"]))
            assert {key for key in entry if isinstance(key, int)} == {0, 1, 2} - {n}
            for m in {0, 1, 2} - {n}:
                there = np.array([(e["northing"], e["easting"]) for e in database[m].values()])
                gaps = np.linalg.norm(there - (entry["northing"], entry["easting"]), axis=1)
                assert entry[m] == np.flatnonzero(gaps <= 25.0).tolist()
                if not entry[m]:
                    empty.add((n, m))
    assert empty == {(2, 0), (2, 1)}  # the last run's detour: no neighbours one way, some the other


def test_oxford_files(oxford):
    runs = sorted(path.name for path in (oxford.dataset_folder / "oxford").iterdir())
    assert len(runs) == 3
    index, _ = _load(oxford.image_path / "lidar2image_ndx.pickle")
    for run in runs:
        for folder, table in (("pointcloud_20m", "20m"), ("pointcloud_20m_10overlap", "20m_10overlap")):
            place = oxford.dataset_folder / "oxford" / run
            rows = _rows(place / f"pointcloud_locations_{table}.csv")
            stamps = [row[0] for row in rows]
            assert stamps == sorted(set(stamps)) == sorted(int(path.stem) for path in (place / folder).iterdir())
            for path in (place / folder).iterdir():
                assert path.stat().st_size == 98_304
                points = np.fromfile(path, dtype="<f8").reshape(-1, 3)
                assert np.abs(points).max() <= 1
                assert abs(np.linalg.norm(points, axis=1).mean() - 0.5) < 0.1
                images = index[int(path.stem)]
                assert isinstance(images[0], np.int64)
                assert len(images) == 20
                assert (oxford.image_path / run / f"{images[0]}.png").is_file()
                gaps = [abs(int(stamp) - int(path.stem)) for stamp in images]
                assert gaps == sorted(gaps)
        assert 22 <= len(list((oxford.image_path / run).iterdir())) <= 25
    assert all(isinstance(stamp, np.int64) and len(str(stamp)) == 16 for stamp in index)


def test_boreas_files(boreas):
    index, _ = _load(boreas.dataset_folder / "boreas_lidar2image_ndx.pickle")
    runs = sorted(path for path in boreas.image_path.iterdir() if path.is_dir())
    for run in runs:
        assert len(run.name) == 23
        rows = _rows(run / "pointcloud_locations_interval10.csv")
        for stamp, _, _ in rows:
            points = np.load(run / "lidar_1_4096_interval10" / f"{stamp}.npy")
            assert points.shape == (4096, 3)
            assert np.isfinite(points).all()
            assert 10 < np.abs(points).max() < 300
            transform = np.loadtxt(run / "T_camera_lidar_basedon_pose_interval10" / f"{stamp}.txt")
            np.testing.assert_allclose(transform[:3, :3] @ transform[:3, :3].T, np.eye(3), atol=1e-6)
            assert np.linalg.det(transform[:3, :3]) > 0
            assert len(np.loadtxt(run / "P0_camera_interval10" / f"{stamp}.txt")) in (3, 4)
            assert len(index[stamp]) == 1
            assert (run / "camera_lidar_interval10" / f"{index[stamp][0]}.png").is_file()
        assert {len(list(folder.iterdir())) for folder in run.iterdir() if folder.is_dir()} == {len(rows)} == {30}


def test_upstream_picture_sizes_by_default(tmp_path):
    oxford = write_oxford(tmp_path / "a", runs=2, submaps=6, images_per_run=2)
    boreas = write_boreas(tmp_path / "b", runs=2, submaps=6)
    for place, size in ((oxford, (320, 240)), (boreas, (306, 256))):
        pictures = list(place.image_path.rglob("*.png"))
        assert pictures
        assert {(Image.open(path).size, Image.open(path).mode) for path in pictures} == {(size, "RGB")}


def test_equal_arguments_equal_bytes_and_seeds_differ(tmp_path):
    small = {"runs": 2, "submaps": 6, "images_per_run": 3, "image_size": (32, 24)}
    one, two, other = (write_oxford(tmp_path / name, seed, **small) for name, seed in (("a", 4), ("b", 4), ("c", 5)))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 30
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", [str(f) for f in files], shallow=False)[0] == list(
        map(str, files)
    )
    cloud = next(f for f in files if f.suffix == ".bin")
    assert (tmp_path / "a" / cloud).read_bytes() != (tmp_path / "c" / cloud).read_bytes()
    assert one.dataset_folder != two.dataset_folder != other.dataset_folder


def test_no_stand_in_module_is_left_behind(tmp_path):
    before = sys.modules.get("datasets.base_datasets")
    write_boreas(tmp_path, runs=2, submaps=6, image_size=(16, 12), tuple_module="datasets.base_datasets")
    assert sys.modules.get("datasets.base_datasets") is before
    _, named = _load(tmp_path / "BenchmarkBoreasv3" / "boreas_training_queries_baseline.pickle")
    assert "datasets.base_datasets.TrainingTuple" in named


def test_original_dictionaries_instead_of_tuples(tmp_path):
    place = write_oxford(tmp_path, runs=2, submaps=12, images_per_run=2, image_size=(16, 12), tuple_module=None)
    items, named = _load(place.dataset_folder / "training_queries_baseline.pickle")
    assert named == set()
    assert set(items[0]) == {"query", "positives", "negatives"}
    assert items[0]["negatives"]


def test_adafusion_layout(tmp_path):
    place = write_oxford(tmp_path, runs=2, submaps=6, images_per_run=2, image_size=(16, 12), layout="oxfordadafusion")
    names = {path.name for path in place.dataset_folder.glob("*.pickle")}
    assert {f"oxfordadafusion_{n}.pickle" for n in ("training_queries_baseline", "evaluation_database")} < names
    assert (place.image_path / "oxfordadafusion_lidar2image_ndx.pickle").is_file()
    database, _ = _load(place.dataset_folder / "oxfordadafusion_evaluation_database.pickle")
    assert "/pointcloud_20m_10overlap/" in database[0][0]["query"]


def test_frames_run(tmp_path):
    run = write_run(tmp_path / "run", straight(20, 2.0))
    assert len((run / "poses.csv").read_text().splitlines()) == 11
    assert {len(list((run / name).iterdir())) for name in ("image_left", "image_right", "cloud")} == {10}
