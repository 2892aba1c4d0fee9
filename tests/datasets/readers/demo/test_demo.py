"""The demo world: Oxford's layout to the byte, the same every time, whole or absent, and worth looking at."""

import csv
import hashlib
import itertools
import json
import pickletools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.datasets.io.pickles import load_pickle
from distilplace.datasets.readers.demo.data import MANIFEST, ORIGIN, VERSION, generate
from distilplace.datasets.readers.oxford.data import OxfordData
from distilplace.datasets.readers.oxford.layout import TEST_FOLDER, TRAINING_FOLDER, WrittenRun, write_lists
from distilplace.demoworld import conditions
from distilplace.demoworld.drive import Drive
from distilplace.demoworld.layout import make_layout
from distilplace.demoworld.town import Town, make_town
from distilplace.demoworld.traversal import PlaceView, Traversal

PLACES, TRAIN_RUNS, TEST_RUNS = 4, 2, 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "world"
    generate(folder, 1, PLACES, TRAIN_RUNS, TEST_RUNS)
    return folder


@pytest.fixture(scope="module")
def town() -> Town:
    return make_town(1)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_folders(world: Path) -> list[tuple[str, str]]:
    training = [(name, TRAINING_FOLDER) for name, _ in conditions.TRAINING[:TRAIN_RUNS]]
    return training + [(name, TEST_FOLDER) for name, _ in conditions.TEST[:TEST_RUNS]]


def locations(world: Path, run: str, folder: str) -> list[dict[str, str]]:
    path = world / "oxford" / run / f"pointcloud_locations{folder.removeprefix('pointcloud')}.csv"
    assert path.read_text().splitlines()[0] == "timestamp,northing,easting"
    return list(csv.DictReader(path.open(newline="")))


@pytest.mark.slow
def test_same_seed_same_bytes_other_seed_another_town(world: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", 1, PLACES, TRAIN_RUNS, TEST_RUNS)
    generate(tmp_path / "other", 2, 2, 1, 2)
    first = digests(world)
    assert digests(tmp_path / "again") == first
    other = digests(tmp_path / "other")
    shared = [name for name in other if name in first and name.endswith((".bin", ".png"))]
    assert all(other[name] != first[name] for name in shared)
    assert not np.allclose(make_layout(1).crossings, make_layout(2).crossings)


def test_submaps_are_as_oxfords(world: Path) -> None:
    files = sorted(world.glob("oxford/*/*/*.bin"))
    assert len(files) == PLACES * (TRAIN_RUNS + TEST_RUNS)
    for path in files:
        assert path.stat().st_size == 98_304
        points = np.fromfile(path, "<f8").reshape(-1, 3)
        assert np.isfinite(points).all()
        assert np.abs(points).max() <= 1
        assert np.abs(points.mean(0)).max() < 0.15
        assert 0.3 < np.linalg.norm(points, axis=1).mean() < 0.6  # 0.5 before far points are dropped
        assert len(np.unique(points, axis=0)) > 2500


def test_locations_name_every_cloud_in_order_near_oxford(world: Path) -> None:
    for run, folder in run_folders(world):
        rows = locations(world, run, folder)
        stems = sorted(path.stem for path in (world / "oxford" / run / folder).iterdir())
        assert [row["timestamp"] for row in rows] == stems
        assert all(len(stem) == 16 for stem in stems)
        assert int(stems[0]) - conditions.start_stamp(run) < 600_000_000
        where = np.array([[float(row["northing"]), float(row["easting"])] for row in rows])
        assert np.abs(where - ORIGIN).max() < 150


def test_every_submap_has_an_image_taken_within_a_second(world: Path) -> None:
    index = load_pickle(world / "images" / "lidar2image_ndx.pickle")
    stamps = [
        (run, int(row["timestamp"])) for run, folder in run_folders(world) for row in locations(world, run, folder)
    ]
    assert set(index) == {stamp for _, stamp in stamps}
    for run, stamp in stamps:
        assert len(index[stamp]) >= 1
        for image in index[stamp]:
            assert 0 < abs(image - stamp) < 1_000_000
            with Image.open(world / "images" / run / f"{image}.png") as picture:
                assert (picture.size, picture.mode) == ((160, 120), "RGB")


def test_training_pickle_carries_upstreams_class_and_radii(world: Path) -> None:
    raw = (world / "training_queries_baseline.pickle").read_bytes()
    strings = [argument for code, argument, _ in pickletools.genops(raw) if code.name.endswith("UNICODE")]
    assert "datasets.oxford" in strings
    assert "TrainingTuple" in strings
    tuples = load_pickle(world / "training_queries_baseline.pickle")
    assert sorted(tuples) == list(range(PLACES * TRAIN_RUNS))
    where = np.array([tuples[i].position for i in sorted(tuples)], float)
    apart = np.linalg.norm(where[:, None] - where[None], axis=2)
    for i, row in tuples.items():
        assert row.id == i
        assert (world / row.rel_scan_filepath).is_file()
        assert Path(row.rel_scan_filepath).stem == str(row.timestamp)
        assert list(row.positives) == [j for j in range(len(where)) if j != i and apart[i, j] <= 10]
        assert list(row.non_negatives) == [j for j in range(len(where)) if apart[i, j] <= 50]


def test_evaluation_pickles_list_true_neighbours_of_other_runs_only(world: Path) -> None:
    database = load_pickle(world / "oxford_evaluation_database.pickle")
    queries = load_pickle(world / "oxford_evaluation_query.pickle")
    assert len(database) == len(queries) == TEST_RUNS
    for n, m in itertools.product(range(TEST_RUNS), repeat=2):
        for i, query in queries[n].items():
            assert (world / query["query"]).is_file()
            if n == m:
                assert n not in query
                continue
            own = np.array([query["northing"], query["easting"]])
            near = [j for j, e in database[m].items() if np.hypot(*(own - [e["northing"], e["easting"]])) <= 25]
            assert query[m] == near
            assert query == {**database[n][i], **{k: v for k, v in query.items() if isinstance(k, int)}}


class NobodysDatasets:
    """An installed package without a folder called ``datasets`` beside it."""

    def find_spec(self, name: str, *_: object) -> None:
        assert name.partition(".")[0] != "datasets"


def test_radii_of_the_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places on a line, just inside and just outside 10, 25 and 50 m; no module called datasets is imported."""
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NobodysDatasets(), *sys.meta_path])
    runs = [WrittenRun(f"run{n}", TRAINING_FOLDER if n < 2 else TEST_FOLDER) for n in range(4)]
    for run, norths in zip(runs, [[0.0, 200], [9.9, 10.1, 49.9, 50.1], [0, 200], [24.9, 25.1, 176]], strict=True):
        run.positions = [(5e6 + north, 6e5) for north in norths]
        run.stamps = [10**15 + int(north * 1000) for north in norths]
        run.images = [[stamp + 1] for stamp in run.stamps]
    for run in runs:
        (tmp_path / "oxford" / run.name).mkdir(parents=True)
    write_lists(tmp_path, runs[:2], runs[2:])
    tuples = load_pickle(tmp_path / "training_queries_baseline.pickle")
    assert [list(tuples[i].positives) for i in range(6)] == [[2], [], [0, 3], [2], [5], [4]]
    assert list(tuples[0].non_negatives) == [0, 2, 3, 4]
    assert list(tuples[1].non_negatives) == [1]
    queries = load_pickle(tmp_path / "oxford_evaluation_query.pickle")
    assert [queries[0][i][1] for i in range(2)] == [[0], [2]]
    assert [queries[1][i][0] for i in range(3)] == [[0], [], [1]]
    assert 0 not in queries[0][0]


def test_missing_open3d_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise UserError("Open3D cannot be imported")

    monkeypatch.setattr("distilplace.common.open3d_loader.import_open3d", absent)
    with pytest.raises(UserError, match="Open3D"):
        create_dataset("demo", dataset_folder=tmp_path / "worlds", places=2, train_runs=1, test_runs=2)
    assert not (tmp_path / "worlds").exists()


def test_read_through_the_data_sets_door(world: Path) -> None:
    data = OxfordData(world, world / "images", image_lidar_k=None)
    training, evaluation = data.training_set(), data.evaluation_set()
    assert len(training.records) == PLACES * TRAIN_RUNS
    assert evaluation.runs == [name for name, _ in conditions.TEST[:TEST_RUNS]]
    record = training.records[0]
    assert data.read_cloud(record.cloud).shape == (4096, 3)
    assert record.images[0].is_file()
    assert not {r.run for r in training.records} & set(evaluation.runs)


def test_images_are_varied_and_conditions_differ(world: Path) -> None:
    tones = {}
    for run, _ in run_folders(world):
        frames = np.stack([np.asarray(Image.open(path), float) for path in sorted((world / "images" / run).iterdir())])
        assert frames.std((1, 2, 3)).min() > 15
        detail = np.abs(np.diff(frames.mean(3), axis=2)).mean((1, 2))
        assert detail.min() > 2
        assert all(np.abs(a - b).mean() > 8 for a, b in itertools.combinations(frames, 2))
        tones[run] = np.concatenate(
            [np.histogram(frames[..., c], 8, (0, 256))[0] / frames[..., c].size for c in range(3)]
        )
    assert all(np.abs(a - b).sum() > 0.3 for a, b in itertools.combinations(tones.values(), 2))


@pytest.mark.slow
def test_interrupted_generation_leaves_nothing_and_the_next_one_is_whole(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilplace.demoworld.town.make_town", lambda _: town)
    seen = []
    whole = Traversal.place

    def stopped(self: Traversal, index: int):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(index)
        return whole(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Traversal, "place", stopped)
        with pytest.raises(KeyboardInterrupt):
            create_dataset("demo", dataset_folder=tmp_path, places=2, train_runs=1, test_runs=2)
    assert len(seen) == 3
    assert list(tmp_path.iterdir()) == []
    data = create_dataset("demo", dataset_folder=tmp_path, places=2, train_runs=1, test_runs=2)
    assert len(data.training_set().records) == 2
    (made,) = tmp_path.iterdir()
    assert json.loads((made / MANIFEST).read_text()) == {"version": VERSION, "seed": 1, "places": 2}


def test_a_folder_that_is_no_world_is_refused_and_kept(tmp_path: Path) -> None:
    mine = tmp_path / f"v{VERSION}-seed1-2x1+2"
    mine.mkdir()
    (mine / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="no finished demo world"):
        create_dataset("demo", dataset_folder=tmp_path, places=2, train_runs=1, test_runs=2)
    assert [path.name for path in tmp_path.rglob("*")] == [mine.name, "diary.txt"]


def test_a_world_itself_is_refused_and_gets_no_other_one_inside(tmp_path: Path) -> None:
    world = tmp_path / f"v{VERSION}-seed1-2x1+2"
    world.mkdir()
    (world / MANIFEST).write_text("{}")
    with pytest.raises(UserError) as refused:
        create_dataset("demo", dataset_folder=world, places=2, train_runs=1, test_runs=2)
    told = f"--dataset_folder {world} is a demo world itself: give the folder that it lies in, {tmp_path}"
    assert str(refused.value) == told
    assert [path.name for path in tmp_path.rglob("*")] == [world.name, MANIFEST]


class Parked(Drive):
    """A traversal that sees the same everywhere: to build what it passes takes seconds."""

    def __init__(self, town: Town, run: str, base: conditions.Condition, places: int, images: int) -> None:
        super().__init__(town.route, town.seed, run, places)
        self.seen = [np.zeros((120, 160, 3), np.uint8)] * images

    def place(self, index: int) -> PlaceView:
        stamp = self.stamp_at(self.start_of(index))
        return PlaceView(stamp, 5.0 * index, 0.0, np.zeros((4096, 3)), [(stamp, image) for image in self.seen])


def test_losing_a_race_to_the_same_world_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = SimpleNamespace(route=make_layout(1).route, seed=1)
    monkeypatch.setattr("distilplace.demoworld.town.make_town", lambda _: empty)
    monkeypatch.setattr("distilplace.demoworld.traversal.Traversal", Parked)
    world = tmp_path / "world"

    def overtaken(self: Path, target: Path) -> Path:
        target.mkdir()
        (target / MANIFEST).write_text("{}")
        raise OSError("Directory not empty")

    monkeypatch.setattr(Path, "rename", overtaken)
    generate(world, 1, 2, 1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


@pytest.mark.parametrize("settings", [{"places": 1}, {"train_runs": 0}, {"train_runs": 6}, {"test_runs": 1}])
def test_impossible_sizes_are_refused_before_anything_is_written(tmp_path: Path, settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="demo world"):
        create_dataset("demo", dataset_folder=tmp_path / "worlds", **settings)
    assert not (tmp_path / "worlds").exists()


def test_a_finished_world_is_read_without_open3d(world: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / f"v{VERSION}-seed1-{PLACES}x{TRAIN_RUNS}+{TEST_RUNS}").symlink_to(world)
    code = (
        "import sys; from distilplace.datasets import create_dataset; "
        f"d = create_dataset('demo', dataset_folder={str(tmp_path)!r}, places={PLACES}, "
        f"train_runs={TRAIN_RUNS}, test_runs={TEST_RUNS}); "
        "print(len(d.training_set().records), 'open3d' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(PLACES * TRAIN_RUNS), "False"]
