"""Boreas in DistilVPR's layout."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset


def opened(mini, **settings):
    return create_dataset("boreas", dataset_folder=mini.dataset_folder, image_path=mini.image_path, **settings)


def test_layout(boreas_written):
    data = opened(boreas_written)
    training, evaluation = data.training_set(), data.evaluation_set()
    assert (data.cloud.quantization_size, data.cloud.n_points, data.cloud.augmentation) == (1.0, 4096, "boreas")
    assert len(training) == 90
    record = training.records[0]
    assert len(record.run) == 23
    assert record.cloud.parent.name == "lidar_1_4096_interval10"
    assert record.images[0].parent == boreas_written.image_path / record.run / "camera_lidar_interval10"
    assert record.images[0].is_file()
    assert [len(run) for run in evaluation.database] == [len(run) for run in evaluation.queries] == [30, 30, 30]
    assert len(evaluation.distinct_records()) == 90  # whole runs are both: embedded once, by key


def test_cloud_is_metric_float32(boreas_written):
    data = opened(boreas_written)
    path = data.training_set().records[0].cloud
    points = data.read_cloud(path)
    assert points.dtype == np.float32
    assert points.shape == (4096, 3)
    np.testing.assert_array_equal(points, np.load(path).astype(np.float32))
    assert np.abs(points).max() > 5


def test_projection_files_are_not_needed(boreas_copy):
    """Oddity 26: upstream reads two text files per item and drops them."""
    for path in boreas_copy.dataset_folder.rglob("*.txt"):
        path.unlink()
    data = opened(boreas_copy)
    assert data.read_cloud(data.evaluation_set().queries[0][0].cloud).shape == (4096, 3)


def test_images_beside_the_clouds_are_found_without_image_path(boreas_written):
    data = create_dataset("boreas", dataset_folder=boreas_written.dataset_folder)
    assert data.training_set().records[0].images[0].is_file()


def _array(array: np.ndarray):
    return lambda path, content: np.save(path, array, allow_pickle=True)


DAMAGE = {
    "expected \\(4096, 3\\)": _array(np.zeros((4095, 3), dtype=np.float32)),
    "shape \\(4096, 4\\)": _array(np.zeros((4096, 4), dtype=np.float32)),
    "shape \\(0, 3\\)": _array(np.zeros((0, 3))),
    "not finite": _array(np.full((4096, 3), np.nan)),
    "not a readable .npy of numbers": _array(np.full((4096, 3), {"a": 1}, dtype=object)),
    "plain array of numbers": _array(np.full((4096, 3), "text")),
    "not a readable .npy": lambda path, content: path.write_bytes(content[:1000]),
    "not a readable": lambda path, content: path.write_bytes(b""),
    "does not exist": lambda path, content: None,
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_cloud_is_named(boreas_copy, message):
    data = opened(boreas_copy)
    path = data.training_set().records[0].cloud
    content = path.read_bytes()
    path.unlink()
    DAMAGE[message](path, content)
    with pytest.raises(UserError, match=message) as caught:
        data.read_cloud(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "boreas_training_queries_baseline.pickle",
        "boreas_evaluation_database.pickle",
        "boreas_evaluation_query.pickle",
        "boreas_lidar2image_ndx.pickle",
    ],
)
def test_missing_pickle_names_path_and_flag(boreas_copy, name):
    path = boreas_copy.dataset_folder / name
    path.unlink()
    data = opened(boreas_copy)
    with pytest.raises(UserError, match="--dataset_folder") as caught:
        (data.training_set(), data.evaluation_set())
    assert str(path) in str(caught.value)
