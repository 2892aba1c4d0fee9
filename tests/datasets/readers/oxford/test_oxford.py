"""Oxford in DistilVPR's layout: the miniature, every kind of damage to it, and the real evaluation pickles."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.datasets.io.pickles import load_pickle
from tests.miniature import Miniature, write_oxford


def opened(mini: Miniature, **settings):
    return create_dataset("oxford", dataset_folder=mini.dataset_folder, image_path=mini.image_path, **settings)


def rewrite(path: Path, change) -> None:
    """Load, change and save a pickle; training tuples become dicts, which the reader takes as well."""
    content = load_pickle(path)
    if isinstance(content, dict):
        content = {
            key: {name: getattr(item, name) for name in item.__slots__ if hasattr(item, name)}
            if hasattr(item, "positives")
            else item
            for key, item in content.items()
        }
    result = change(content)
    path.write_bytes(pickle.dumps(content if result is None else result))


def test_training_set_of_the_miniature(oxford_written):
    training = opened(oxford_written).training_set()
    assert len(training) == 60
    positions = training.positions()
    assert positions.dtype == np.float64
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    for i, record in enumerate(training.records):
        assert record.key.startswith(f"oxford/{record.run}/pointcloud_20m_10overlap/")
        assert record.cloud.is_file()
        assert record.cloud.suffix == ".bin"
        assert len(record.images) == 1
        assert record.images[0].parent == oxford_written.image_path / record.run
        near = np.flatnonzero(distances[i] <= 10.0)
        np.testing.assert_array_equal(training.positives[i], near[near != i])
        np.testing.assert_array_equal(training.non_negatives[i], np.flatnonzero(distances[i] <= 50.0))


def test_evaluation_set_of_the_miniature(oxford_written):
    evaluation = opened(oxford_written).evaluation_set()
    assert evaluation.name == "oxford"
    assert evaluation.radius == 25.0
    assert evaluation.runs == sorted(evaluation.runs)
    assert [len(run) for run in evaluation.database] == [30, 30, 30]
    assert [len(run) for run in evaluation.queries] == [10, 10, 10]
    for n, (queries, entries) in enumerate(zip(evaluation.queries, evaluation.query_sets, strict=True)):
        assert list(entries) == list(range(len(queries)))
        for i, query in enumerate(queries):
            assert n not in entries[i]
            for m, database in enumerate(evaluation.database):
                if m != n:
                    far = [np.hypot(d.northing - query.northing, d.easting - query.easting) for d in database]
                    assert sorted(entries[i][m]) == np.flatnonzero(np.array(far) <= 25.0).tolist()


def test_same_file_has_one_key_in_database_and_queries(oxford_written):
    """Safe replacement of upstream's copied embeddings (oddity 25): by key, whatever the order."""
    evaluation = opened(oxford_written).evaluation_set()
    database_keys = {record.key for run in evaluation.database for record in run}
    assert all(record.key in database_keys for run in evaluation.queries for record in run)
    assert len(evaluation.distinct_records()) == 90
    training_keys = {record.key for record in opened(oxford_written).training_set().records}
    assert not training_keys & database_keys  # same stamps, other folder: other clouds


TINY = {"runs": 2, "submaps": 12, "image_size": (8, 6)}


@pytest.mark.parametrize("layout", ["oxford", "oxfordadafusion"])
def test_original_dicts_give_the_same_training_set(tmp_path, layout):
    tuples = write_oxford(tmp_path / "a", layout=layout, **TINY)
    plain = write_oxford(tmp_path / "b", layout=layout, tuple_module=None, **TINY)
    one, other = (
        create_dataset(layout, dataset_folder=mini.dataset_folder, image_path=mini.image_path).training_set()
        for mini in (tuples, plain)
    )
    assert [record.key for record in one.records] == [record.key for record in other.records]
    np.testing.assert_allclose(one.positions(), other.positions(), atol=1e-3)
    assert any(map(len, one.positives))
    for name in ("positives", "non_negatives"):
        for row, same in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_array_equal(row, same)


def test_original_dicts_without_locations_say_which_file_is_missing(tmp_path):
    mini = write_oxford(tmp_path, tuple_module=None, **TINY)
    for table in mini.dataset_folder.rglob("pointcloud_locations_20m_10overlap.csv"):
        table.unlink()
    with pytest.raises(UserError, match=r"pointcloud_locations_20m_10overlap\.csv"):
        opened(mini).training_set()


def test_adafusion_reads_its_own_file_names(tmp_path):
    mini = write_oxford(tmp_path, layout="oxfordadafusion", **TINY)
    data = create_dataset("oxfordadafusion", dataset_folder=mini.dataset_folder, image_path=mini.image_path)
    assert data.training_set().records[0].key.startswith("oxfordadafusion/")
    assert data.evaluation_set().name == "oxfordadafusion"
    with pytest.raises(UserError, match=r"training_queries_baseline\.pickle does not exist"):
        create_dataset("oxford", dataset_folder=mini.dataset_folder, image_path=mini.image_path).training_set()


def test_cloud_is_4096_points_of_float64(oxford_written):
    data = opened(oxford_written)
    path = data.training_set().records[0].cloud
    assert path.stat().st_size == 98_304
    points = data.read_cloud(path)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, np.fromfile(path, dtype="<f8").reshape(4096, 3).astype(np.float32))
    assert data.cloud.quantization_size == 0.01
    assert data.cloud.augmentation == "oxford"


CLOUD_DAMAGE = {
    "truncated": lambda raw: raw[:-8],
    "too long": lambda raw: raw + raw[:24],
    "expected 98304": lambda raw: b"",
    "not finite": lambda raw: np.where(np.arange(4096 * 3) == 7, np.nan, np.frombuffer(raw)).tobytes(),
    "1 of 4096": lambda raw: np.where(np.arange(4096 * 3) == 7, np.inf, np.frombuffer(raw)).tobytes(),
}


@pytest.mark.parametrize("damage", CLOUD_DAMAGE)
def test_damaged_cloud_is_named(oxford_copy, damage):
    data = opened(oxford_copy)
    path = data.training_set().records[0].cloud
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(CLOUD_DAMAGE[damage](content))
    with pytest.raises(UserError, match=str(path)) as caught:
        data.read_cloud(path)
    assert {"too long": "98328"}.get(damage, damage) in str(caught.value)


def test_missing_cloud_is_named(oxford_written, tmp_path):
    with pytest.raises(UserError, match=r"absent\.bin"):
        opened(oxford_written).read_cloud(tmp_path / "absent.bin")


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("training_queries_baseline.pickle", "--dataset_folder"),
        ("oxford_evaluation_database.pickle", "--dataset_folder"),
        ("oxford_evaluation_query.pickle", "--dataset_folder"),
        ("lidar2image_ndx.pickle", "--image_path"),
    ],
)
def test_missing_file_names_path_and_flag(oxford_copy, name, flag):
    (path,) = oxford_copy.dataset_folder.parent.rglob(name)
    path.unlink()
    data = opened(oxford_copy)
    with pytest.raises(UserError, match=flag) as caught:
        (data.training_set(), data.evaluation_set())
    assert str(path) in str(caught.value)


def test_missing_folders_name_the_flag(oxford_written, tmp_path):
    with pytest.raises(UserError, match="--dataset_folder"):
        create_dataset("oxford", dataset_folder=tmp_path / "absent")
    with pytest.raises(UserError, match="--dataset_folder"):
        create_dataset("oxford")
    with pytest.raises(UserError, match="--image_path"):
        create_dataset("oxford", dataset_folder=oxford_written.dataset_folder, image_path=tmp_path / "absent")


def test_without_image_path_records_have_no_images(oxford_written):
    data = create_dataset("oxford", dataset_folder=oxford_written.dataset_folder)
    assert data.training_set().records[0].images == ()
    assert "--image_path" in data.notes[0]


TRAINING = "training_queries_baseline.pickle"


def _set(index: int, **values):
    def change(table):
        table[index].update(values)

    return change


def _without(index: int, name: str):
    def change(table):
        del table[index][name]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {key + 1: item for key, item in t.items()}, "keys are not 0"),
        (lambda t: {}, "non-empty dict"),
        (lambda t: list(t.values()), "non-empty dict"),
        (_set(3, id=4), "item 3 carries the id 4"),
        (_set(3, positives=[999]), "item 3 has positives outside"),
        (_set(3, positives=[-1]), "item 3 has positives outside"),
        (_set(3, positives=[0.5]), "item 3 has positives that are not"),
        (_set(3, non_negatives=[]), "item 3 has non_negatives that lack"),
        (_set(3, non_negatives=[0, 1]), "item 3 has non_negatives that lack"),
        (_set(3, position=np.zeros(3)), "item 3 has a position of shape"),
        (_set(3, position=np.array([np.nan, 0])), "item 3 has a position that is not finite"),
        (_set(3, rel_scan_filepath="cloud.bin"), "is not of the form"),
        (_set(3, rel_scan_filepath="oxford/run/folder/name.bin"), "is not of the form"),
        (_without(3, "positives"), "item 3 lacks 'positives'"),
        (lambda t: t[3].update(rel_scan_filepath=t[4]["rel_scan_filepath"]), "occurs 2 times"),
        (lambda t: t.update({3: "text"}), "item 3 is a str"),
        (_set(3, rel_scan_filepath="oxford/2014-11-14-16-34-33/p/77.bin"), "lists no image for LiDAR stamp 77"),
    ],
)
def test_inconsistent_training_pickle(oxford_copy, change, message):
    rewrite(oxford_copy.dataset_folder / TRAINING, change)
    with pytest.raises(UserError, match=message):
        opened(oxford_copy).training_set()


def test_unsorted_relations_are_sorted_and_reported(oxford_copy):
    """Upstream's masks search these arrays by bisection: unsorted, they silently break training."""
    before = opened(oxford_copy).training_set()

    def reverse(table):
        for item in table.values():
            item["positives"], item["non_negatives"] = item["positives"][::-1], item["non_negatives"][::-1]

    rewrite(oxford_copy.dataset_folder / TRAINING, reverse)
    data = opened(oxford_copy)
    after = data.training_set()
    for name in ("positives", "non_negatives"):
        for row, same in zip(getattr(before, name), getattr(after, name), strict=True):
            np.testing.assert_array_equal(row, same)
    assert "not sorted" in data.notes[0]


def test_self_in_positives_is_taken_out(oxford_copy):
    rewrite(oxford_copy.dataset_folder / TRAINING, lambda t: t[3].update(positives=np.append(t[3]["positives"], 3)))
    assert 3 not in opened(oxford_copy).training_set().positives[3]


def test_egonn_pose_gives_the_position(oxford_copy):
    pose = np.eye(4)
    pose[:2, 3] = 620084.0, 5735712.0  # x east, y north

    def change(table):
        del table[0]["position"]
        table[0]["pose"] = pose

    rewrite(oxford_copy.dataset_folder / TRAINING, change)
    record = opened(oxford_copy).training_set().records[0]
    assert (record.northing, record.easting) == (5735712.0, 620084.0)


DATABASE, QUERY = "oxford_evaluation_database.pickle", "oxford_evaluation_query.pickle"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (DATABASE, lambda runs: [{} for _ in runs], "no run has any database item"),
        (QUERY, lambda runs: [{} for _ in runs], "no run has any query"),
        (QUERY, lambda runs: runs[:-1], "3 runs, .* has 2"),
        (QUERY, lambda runs: {0: runs}, "list of dicts"),
        (DATABASE, lambda runs: runs[0].update({99: runs[0].pop(0)}), "not numbered"),
        (DATABASE, lambda runs: runs[1][0].pop("northing") and None, "item 0 of run 1 lacks"),
        (DATABASE, lambda runs: runs[1][0].update(northing=float("nan")), "item 0 of run 1 has northing"),
        (DATABASE, lambda runs: runs[1][0].update(easting="east"), "item 0 of run 1 has easting"),
        (QUERY, lambda runs: runs[1][2].pop(0) and None, "query 2 of run 1 lacks the list"),
        (QUERY, lambda runs: runs[1][2].update({0: [30]}), "query 2 of run 1 has neighbours in run 0 outside"),
        (QUERY, lambda runs: runs[1][2].update({0: 5}), "not a list of integers"),
    ],
)
def test_inconsistent_evaluation_pickle(oxford_copy, file, change, message):
    rewrite(oxford_copy.dataset_folder / file, change)
    with pytest.raises(UserError, match=message):
        opened(oxford_copy).evaluation_set()


def test_empty_run_and_own_run_key_are_tolerated(oxford_copy):
    def change(runs):
        runs[2].clear()
        for entry in runs[0].values():
            entry[0] = [1, 2]

    rewrite(oxford_copy.dataset_folder / QUERY, change)
    evaluation = opened(oxford_copy).evaluation_set()
    assert evaluation.queries[2] == []
    assert len(evaluation.runs) == 3
    assert all(0 not in entry for entry in evaluation.query_sets[0].values())


def test_real_evaluation_pickles(real_data, tmp_path):
    for name in (DATABASE, QUERY):
        shutil.copy(real_data("pointnetvlad_pickles") / name, tmp_path / name)
    evaluation = create_dataset("oxford", dataset_folder=tmp_path).evaluation_set()
    assert len(evaluation.runs) == len(set(evaluation.runs)) == 23
    assert evaluation.runs[0] == "2014-11-14-16-34-33"
    assert evaluation.runs[-1] == "2015-11-13-10-28-08"
    assert sum(len(run) for run in evaluation.database) == 9492
    assert sum(len(run) for run in evaluation.queries) == 3030
    assert evaluation.queries[0][0].key == "oxford/2014-11-14-16-34-33/pointcloud_20m/1415985057262127"
    assert len(evaluation.distinct_records()) == 9492
    for n, run in enumerate(evaluation.query_sets):
        assert all(set(entry) == {"query", "northing", "easting", *range(23)} - {n} for entry in run.values())


def test_real_training_pickle_of_another_set_is_refused_in_one_line(real_data, tmp_path):
    source = real_data("pointnetvlad_pickles") / "gpr_training_queries_baseline.pickle"
    shutil.copy(source, tmp_path / TRAINING)
    with pytest.raises(UserError, match="carries no positions"):
        create_dataset("oxford", dataset_folder=tmp_path).training_set()
