"""A flat folder of images, as ASHT-KD's ``--data_dir``: one sequence, or a refusal with a remedy."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from tests.miniature_images import numbered, write_picture


@pytest.fixture
def flat(tmp_path):
    for name, place in numbered(list(range(100, 140)), "kitti_{:06d}.jpg").items():
        write_picture(tmp_path / "D" / name, place)
    return tmp_path / "D"


def numbers(records):
    return [int(record.images[0].stem[-6:]) for record in records]


@pytest.mark.parametrize("name", ["images", "sequences", "vprice"])
def test_a_flat_folder_trains_on_its_first_part_and_is_tested_on_the_rest(flat, name):
    data = create_dataset(name, dataset_folder=flat, frame_tolerance=2, train_fraction=0.5)
    training, tests = data.training_set(), data.evaluation_set()
    trained, database, queries = map(numbers, (training.records, tests.database[0], tests.queries[1]))
    assert trained == list(range(100, 120))
    assert database == list(range(124, 140, 2))  # 120 to 123 may share a positive with training
    assert queries == list(range(125, 140, 2))
    for i, one in enumerate(trained):
        near = [j for j, other in enumerate(trained) if abs(one - other) <= 2]
        assert training.positives[i].tolist() == [j for j in near if j != i]
        assert training.non_negatives[i].tolist() == [j for j, other in enumerate(trained) if abs(one - other) <= 4]
    for i, query in enumerate(queries):
        assert tests.query_sets[1][i][0] == [k for k, other in enumerate(database) if abs(query - other) <= 2]
    assert (tests.radius, tests.unit) == (2.0, "frames")
    tests.require_queries()
    assert any(
        note
        == "flat folder: the first 20 train; then every other image is a query (8) to those between (8); one place: "
        "up to 2 frames apart"
        for note in data.notes
    )
    assert all(record.upright for record in [*training.records, *tests.distinct_records()])


def test_without_a_fraction_all_of_it_is_tested(flat):
    data = create_dataset("images", dataset_folder=flat, frame_tolerance=1)
    tests = data.evaluation_set()
    assert numbers(tests.database[0]) == list(range(100, 140, 2))
    assert numbers(tests.queries[1]) == list(range(101, 140, 2))
    with pytest.raises(UserError, match="no training part: --train_fraction is 0: set it between 0 and 1, the first"):
        data.training_set()


def test_numbers_or_order_decide(tmp_path):
    """``images`` goes by the numbers in the names, ``sequences`` by their order."""
    for name, place in numbered(list(range(0, 400, 10)), "{:06d}.jpg").items():
        write_picture(tmp_path / name, place)
    order = create_dataset("sequences", dataset_folder=tmp_path, frame_tolerance=1, train_fraction=0.5)
    assert len(order.training_set().positives[5]) == 2
    with pytest.raises(UserError, match=r"within --frame_tolerance 1; the smallest step is 10: raise it"):
        create_dataset("images", dataset_folder=tmp_path, frame_tolerance=1, train_fraction=0.5)
    apart = create_dataset("images", dataset_folder=tmp_path, frame_tolerance=10, train_fraction=0.5)
    assert [len(row) for row in apart.training_set().positives][:2] == [1, 2]


@pytest.mark.parametrize("name", ["images", "sequences"])
def test_what_a_flat_folder_needs_is_said(flat, name):
    with pytest.raises(
        UserError, match=r"D is a flat folder of images: set --frame_tolerance N .*, or sort the images"
    ):
        create_dataset(name, dataset_folder=flat)
    with pytest.raises(UserError, match=r"--frame_tolerance 0 leaves no two images"):
        create_dataset(name, dataset_folder=flat, frame_tolerance=0)
    with pytest.raises(UserError, match=r"of 40 images 0 are left to test on"):
        create_dataset(name, dataset_folder=flat, frame_tolerance=2, train_fraction=0.95)
    (flat / "database").mkdir()
    with pytest.raises(UserError, match=r"database holds no image|holds neither memory/ and live/ nor database/"):
        create_dataset(name, dataset_folder=flat, frame_tolerance=2)


def test_positions_are_frames_so_that_a_validation_part_can_be_cut(flat):
    data = create_dataset("images", dataset_folder=flat, frame_tolerance=2, train_fraction=0.5)
    assert np.array_equal(data.training_set().positions()[:, 0], np.arange(20.0))
