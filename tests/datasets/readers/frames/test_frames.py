"""The frames format: real KITTI drives and made-up traversals."""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset, dataset_settings
from distilplace.datasets.records import positions
from tests.miniature_frames import straight, write_run

RADII = {"positive_radius": 3.0, "negative_radius": 10.0, "eval_radius": 5.0}


def _distances(records, others):
    return np.linalg.norm(positions(records)[:, None] - positions(others)[None], axis=2)


def _check_relations(data, positive, negative, evaluation, same_map):
    """Every list of the data set against a slow loop over all pairs; ``same_map(run, run)`` says who may be linked."""
    training, tests = data.training_set(), data.evaluation_set()
    records = training.records
    for i, one in enumerate(records):
        near = [j for j, o in enumerate(records) if same_map(one.run, o.run) and _gap(one, o) <= positive and j != i]
        wide = [j for j, o in enumerate(records) if same_map(one.run, o.run) and _gap(one, o) <= negative]
        assert training.positives[i].tolist() == near
        assert training.non_negatives[i].tolist() == wide
    for n, entries in enumerate(tests.query_sets):
        assert len(entries) == len(tests.queries[n])
        for i, entry in entries.items():
            query = tests.queries[n][i]
            assert (entry["northing"], entry["easting"]) == (query.northing, query.easting)
            assert n not in entry
            for m, database in enumerate(tests.database):
                true = [
                    k for k, r in enumerate(database) if same_map(query.run, r.run) and _gap(query, r) <= evaluation
                ]
                assert m == n or entry[m] == true


def _gap(one, other):
    return float(np.hypot(one.northing - other.northing, one.easting - other.easting))


class Drives(NamedTuple):
    """Two drives, each in a map of its own that begins at (0, 0), and what is known of them."""

    folder: Path
    counts: tuple[list[int], int, int]
    """Frames of the training set by drive, of the database, of the queries."""
    alone: list[int]
    """Database, queries and training frames of the first drive read without the other."""
    apart: str
    chosen: str
    """The positive radius that is chosen where none is given."""
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """Sizes of their images."""
    too_wide: str
    """What is said of the shortest at a negative radius of 50 m."""
    widest: float
    """The negative radius that is said to be right."""


@pytest.fixture(scope="module", params=["generated", pytest.param("real", marks=pytest.mark.real_data)])
def drives(request, tmp_path_factory):
    """KITTI's, and two of about their steps and lengths."""
    if request.param == "real":
        folder, sizes = request.getfixturevalue("real_data")("kitti_frames"), ((397, 120), (400, 120))
        known = ([26, 47], 23, 22), [12, 12, 26], "10.3 m", "2.9", sizes
        return Drives(folder, *known, r"drive_0005 \(77 frames, 68.7 m\).*lower --negative_radius below 41\.6 m", 41.5)
    folder, sizes = tmp_path_factory.mktemp("drives"), ((39, 12), (40, 12))
    write_run(folder / "drive_0001", straight(108, 2.0), image_size=sizes[0], points=4201)
    write_run(folder / "drive_0005", straight(69, 0.9), image_size=sizes[1], points=4201, seed=1)
    known = ([30, 39], 24, 22), [10, 9, 30], "10.8 m", "2.5", sizes
    return Drives(folder, *known, r"drive_0005 \(77 frames, 68.4 m\).*lower --negative_radius below 44\.1 m", 44)


@pytest.fixture(scope="module")
def pair(drives):
    return create_dataset("frames", dataset_folder=drives.folder, **RADII)


def test_drives_counts_and_map_rule(drives, pair):
    training, tests = pair.training_set(), pair.evaluation_set()
    per_run = [sum(r.run == run for r in training.records) for run in ("drive_0001", "drive_0005")]
    trained, database, queries = drives.counts
    assert per_run == trained
    assert tests.runs == ["test/database", "test/queries"]
    assert [len(run) for run in tests.database] == [database, 0]
    assert [len(run) for run in tests.queries] == [0, queries]
    assert tests.query_sets[0] == {}
    assert all(entry[0] for entry in tests.query_sets[1].values())
    assert any("each run has a map of its own" in note for note in pair.notes)
    assert any(f"{sum(trained)} training, {database} database, {queries} query" in note for note in pair.notes)
    assert any(f"keep {drives.apart}" in note for note in pair.notes)


def test_drives_training_lies_apart_from_every_test_frame(pair):
    training, tests = pair.training_set(), pair.evaluation_set()
    tested = tests.distinct_records()
    for run in ("drive_0001", "drive_0005"):
        mine = [r for r in training.records if r.run == run]
        theirs = [r for r in tested if r.run == run]
        assert _distances(mine, theirs).min() > RADII["negative_radius"]
    assert not {r.key for r in training.records} & {r.key for r in tested}
    assert not {r.key.split("@")[0] for r in training.records} & {r.key.split("@")[0] for r in tested}


def test_drives_relations_equal_a_slow_loop_and_never_link_the_drives(pair):
    _check_relations(pair, 3.0, 10.0, 5.0, lambda one, other: one == other)


def test_drives_cameras_and_keys(pair):
    training, tests = pair.training_set(), pair.evaluation_set()
    assert all(r.images[0].parent.name == "image_left" and len(r.images) == 1 for r in training.records)
    assert all(r.images[0].parent.name == "image_left" for r in tests.database[0])
    assert all(r.images[0].parent.name == "image_right" and r.key.endswith("@image_right") for r in tests.queries[1])
    everything = [*training.records, *tests.database[0], *tests.queries[1]]
    assert len({r.key for r in everything}) == len(everything)
    assert all(path.is_file() for r in everything for path in (*r.images, r.cloud))


def test_drives_clouds_are_subsets_drawn_the_same_way_each_time(pair, drives):
    record = pair.training_set().records[0]
    points = pair.read_cloud(record.cloud)
    assert points.shape == (4096, 3)
    assert points.dtype == np.float32
    whole = {tuple(row) for row in np.fromfile(record.cloud, dtype="<f4").reshape(-1, 3)}
    assert len({tuple(row) for row in points} & whole) == len({tuple(row) for row in points})
    alone = create_dataset("frames", dataset_folder=drives.folder / record.run, **RADII)
    assert np.array_equal(alone.read_cloud(record.cloud), points)
    other = pair.read_cloud(pair.training_set().records[1].cloud)
    assert not np.array_equal(other, points)
    everything = create_dataset("frames", dataset_folder=drives.folder, n_points=10**6, **RADII)
    assert len(everything.read_cloud(record.cloud)) == record.cloud.stat().st_size // 12


def test_a_single_drive_names_its_two_sides(drives):
    data = create_dataset("frames", dataset_folder=drives.folder / "drive_0001", **RADII)
    tests = data.evaluation_set()
    assert tests.runs == ["drive_0001/database", "drive_0001/queries"]
    assert [len(tests.database[0]), len(tests.queries[1]), len(data.training_set())] == drives.alone
    first = data.training_set().records[0]
    assert (first.northing, first.easting) == (0.0, 0.0)


def test_drives_without_radii_is_read_at_chosen_ones(drives, pair):
    """The README's command: no radius fits every robot."""
    data = create_dataset("frames", dataset_folder=drives.folder)
    assert sum(map(len, data.training_set().positives)) > 0
    assert len(data.training_set()) > 0.4 * sum(len(run) for run in data._runs)
    data.evaluation_set().require_queries()
    assert any(f"chosen from that: --positive_radius {drives.chosen} " in note for note in data.notes)
    assert not any("chosen from that" in note for note in pair.notes)


def test_drives_at_radii_of_a_town_say_which_to_lower(drives):
    town = {"positive_radius": 10.0, "negative_radius": 50.0, "eval_radius": 25.0}
    with pytest.raises(UserError, match=drives.too_wide):
        create_dataset("frames", dataset_folder=drives.folder, **town)
    create_dataset(
        "frames", dataset_folder=drives.folder, negative_radius=drives.widest, positive_radius=3, eval_radius=5
    )


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Three traversals of one 300 m street (one of them driven the other way) and one street elsewhere on the map."""
    folder = tmp_path_factory.mktemp("town")
    random = np.random.default_rng(1)
    for run, (length, start) in {"a": (300, 0), "b": (300, 1.3), "c": (300, 0.4)}.items():
        places = straight(length, 4.0, northing=5000.0 + random.uniform(-2, 2), easting=700.0 + start)
        write_run(folder / run, places[::-1] if run == "c" else places, cloud="npy", points=20)
    write_run(folder / "elsewhere", straight(150, 4.0, northing=9000.0), cameras=("image_front",), points=20)
    (folder / "notes").mkdir()
    return folder


def test_traversals_share_one_test_section(town):
    radii = {"positive_radius": 6.0, "negative_radius": 20.0, "eval_radius": 12.0}
    data = create_dataset("frames", dataset_folder=town, **radii)
    training, tests = data.training_set(), data.evaluation_set()
    assert tests.runs == ["a", "b", "c", "elsewhere/database", "elsewhere/queries"]
    assert any("all runs share one map" in note for note in data.notes)
    assert _distances(training.records, tests.distinct_records()).min() > 20.0
    for side in (tests.database, tests.queries):
        for run in side[:3]:
            eastings = [r.easting for r in run]
            assert min(eastings) > 700 + 0.65 * 300 - 12  # the last 35 % of a's path, for every run
            assert len(run) >= 25
    trained = {r.run for r in training.records}
    assert trained == {"a", "b", "c", "elsewhere"}
    assert all(entry[m] for n in range(3) for entry in tests.query_sets[n].values() for m in range(3) if m != n)
    _check_relations(data, 6.0, 20.0, 12.0, lambda one, other: True)
    assert {r.images[0].parent.name for r in tests.queries[4]} == {"image_front"}  # one camera: queries use it too
    assert not {r.key for r in tests.database[3]} & {r.key for r in tests.queries[4]}


def test_local_maps_at_the_same_coordinates_are_never_linked(town):
    radii = {"positive_radius": 6.0, "negative_radius": 20.0, "eval_radius": 12.0}
    data = create_dataset("frames", dataset_folder=town, frames_map="local", **radii)
    _check_relations(data, 6.0, 20.0, 12.0, lambda one, other: one == other)
    assert data.evaluation_set().runs == ["test/database", "test/queries"]
    assert any("as --frames_map says" in note for note in data.notes)


def test_all_cameras_of_a_training_frame_are_kept_when_asked(town):
    radii = {"positive_radius": 6.0, "negative_radius": 20.0, "eval_radius": 12.0}
    data = create_dataset("frames", dataset_folder=town, image_lidar_k=None, **radii)
    cameras = {tuple(path.parent.name for path in r.images) for r in data.training_set().records}
    assert cameras == {("image_left", "image_right"), ("image_front",)}
    assert all(len(r.images) == 1 for r in data.evaluation_set().distinct_records())


def test_settings_and_cloud_options(tmp_path):
    write_run(tmp_path / "run", straight(120, 2.0))
    data = create_dataset("frames", dataset_folder=tmp_path, quantization_size=0.25, n_points=30, **RADII)
    assert (data.cloud.quantization_size, data.cloud.n_points, data.cloud.augmentation) == (0.25, 30, "boreas")
    assert create_dataset("frames", dataset_folder=tmp_path, **RADII).cloud.quantization_size == 0.5
    assert data.read_cloud(data.training_set().records[0].cloud).shape == (30, 3)
    expected = {"dataset_folder", "image_lidar_k", "quantization_size", "n_points", *RADII, "frames_map", "bin_columns"}
    assert set(dataset_settings("frames")) == expected


def test_image_only_and_four_column_folders(tmp_path):
    write_run(tmp_path / "a" / "run", straight(120, 2.0), cloud=None)
    data = create_dataset("frames", dataset_folder=tmp_path / "a", **RADII)
    assert all(r.cloud is None for r in data.training_set().records)
    assert any("no cloud folder in run" in note for note in data.notes)
    run = write_run(tmp_path / "b" / "run", straight(120, 2.0))
    for path in (run / "cloud").iterdir():
        np.arange(28, dtype="<f4").reshape(7, 4).tofile(path)
    data = create_dataset("frames", dataset_folder=tmp_path / "b", **RADII)
    assert data.read_cloud(data.training_set().records[0].cloud).shape == (7, 3)
    assert any(".bin clouds hold 4 columns (guessed" in note for note in data.notes)


def test_reading_the_lists_opens_no_cloud_and_loads_no_open3d(tmp_path, monkeypatch):
    write_run(tmp_path / "run", straight(120, 2.0))
    monkeypatch.setattr("distilplace.datasets.scans.open_cloud", lambda *_: pytest.fail("a cloud was opened"))
    loaded = "open3d" in sys.modules
    data = create_dataset("frames", dataset_folder=tmp_path, **RADII)
    assert len(data.training_set()) > 0
    assert ("open3d" in sys.modules) == loaded


def test_images_of_different_sizes_become_one(drives, pair):
    smaller, larger = drives.sizes
    assert pair.image_size == smaller
    assert any("{}x{}, {}x{}".format(*smaller, *larger) in note for note in pair.notes)
    wide = next(r for r in pair.training_set().records if r.run == "drive_0005").images[0]
    assert Image.open(wide).size == larger
    assert pair.read_image(wide).size == smaller
    untouched = next(r for r in pair.training_set().records if r.run == "drive_0001").images[0]
    assert np.array_equal(np.array(pair.read_image(untouched)), np.array(Image.open(untouched).convert("RGB")))


def test_rows_are_ordered_by_time_and_extra_files_ignored(tmp_path):
    run = write_run(tmp_path / "run", straight(120, 2.0))
    before = create_dataset("frames", dataset_folder=tmp_path, **RADII)
    header, *rows = (run / "poses.csv").read_text().splitlines()
    (run / "poses.csv").write_text("\ufeff" + "\n".join([f" {header} ", *rows[::-1], "", ""]), encoding="utf-8")
    shutil.copy(run / "image_left" / "0000000000.png", run / "image_left" / "extra.png")
    after = create_dataset("frames", dataset_folder=tmp_path, **RADII)
    assert after.training_set().records == before.training_set().records
    assert any("1 files without a row" in note for note in after.notes)
