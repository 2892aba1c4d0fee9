"""Ground truth that measures little is said once, with counts; distances in words."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.datasets.doubts import doubts
from distilplace.datasets.image_sets import Images, evaluation_set, record
from distilplace.datasets.records import RankingRules, distance_text
from tests.miniature_frames import straight, write_run
from tests.miniature_images import numbered, utm_name, write_images


def about(data, word):
    return [note for note in data.notes if word in note]


@pytest.mark.parametrize(
    ("tolerance", "said"),
    [
        (9, "every database image matches every query (100 pairs)"),
        (8, "a query matches 98% of the database on average (98 of 100 pairs)"),
        (3, "a query matches 58% of the database on average (58 of 100 pairs)"),
        (2, None),
    ],
)
def test_truth_in_which_most_matches_is_told_with_counts(tmp_path, tolerance, said):
    write_images(tmp_path, numbered(range(10)), numbered(range(10)))
    data = create_dataset("images", dataset_folder=tmp_path, frame_tolerance=tolerance)
    slow = sum(abs(i - j) <= tolerance for i in range(10) for j in range(10))
    notes = about(data, "ground truth: ")
    assert len(notes) == (said is not None)
    assert said is None or (said in notes[0] and f"{slow} " in notes[0])


def test_equal_positions_are_told(tmp_path):
    names = {utm_name(500000.0, 4000000.0 + 1e-3 * k, str(k)): k for k in range(4)}
    write_images(tmp_path, names, names)
    data = create_dataset("images", dataset_folder=tmp_path)
    assert about(data, "every database image matches every query (16 pairs)")
    assert about(data, "positions of the 8 tested items are all equal: metres are expected")


def test_excluded_items_are_no_candidates():
    """KITTI's protocol A: what is left of the database is matched completely."""
    database = [record("database", f"{i}.png", f"{i}.png", float(4 * i)) for i in range(4)]
    truth = [np.array([0, 1]), np.array([0, 1])]
    images = Images(database, database[2:], truth)
    rules = RankingRules(excluded={(0, 1): [range(2, 4), range(2, 4)]})
    assert "every database image matches every query (4 pairs)" in doubts(evaluation_set("s", images, 9.0, rules))[0]
    assert doubts(evaluation_set("s", images, 9.0)) == []


def test_a_frames_radius_that_matches_everything_is_told(tmp_path):
    write_run(tmp_path / "run", straight(240, 4.0), cameras=("image_left",), points=3)
    data = create_dataset("frames", dataset_folder=tmp_path, positive_radius=5, negative_radius=12, eval_radius=300)
    assert about(data, "every database image matches every query")


def test_frames_queries_without_a_match_are_counted(tmp_path):
    """The second run leaves the first one's street half-way: its later frames find nobody."""
    write_run(tmp_path / "a", straight(240, 4.0), cameras=("image_left",), cloud=None)
    aside = straight(240, 4.0)
    aside[:, 0] = np.where(aside[:, 1] < 120, 1.0, 6.0)
    write_run(tmp_path / "b", aside, cameras=("image_left",), cloud=None)
    settings = {"positive_radius": 5, "negative_radius": 12, "eval_radius": 5.0, "frames_map": "shared"}
    data = create_dataset("frames", dataset_folder=tmp_path, **settings)
    tests = data.evaluation_set()
    bare = total = 0
    for n, queries in enumerate(tests.queries):
        for query in queries:
            others = [r for m, run in enumerate(tests.database) if m != n for r in run]
            gaps = [np.hypot(query.northing - r.northing, query.easting - r.easting) for r in others]
            bare, total = bare + (min(gaps) > 5.0), total + 1
    found = about(data, "have no match within 5 m: left out of recall")
    assert bare > 0
    assert found == [f"{bare} of {total} queries have no match within 5 m: left out of recall"]


@pytest.mark.parametrize(
    ("distance", "unit", "digits", "text"),
    [
        (0.0, "frames", 1, "exact frame"),
        (1.0, "frames", None, "1 frame"),
        (12.0, "frames", 1, "12 frames"),
        (12.345, "m", 1, "12.3 m"),
        (12.5, "m", None, "12.5 m"),
        (0.0, "m", None, "0 m"),
    ],
)
def test_distances_in_words(distance, unit, digits, text):
    assert distance_text(distance, unit, digits) == text


def test_the_absence_of_matches_is_told_in_frames(tmp_path):
    write_images(tmp_path, numbered(range(3)), numbered(range(10, 13)))
    data = create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0)
    with pytest.raises(UserError, match=r"no query has a true neighbour in another run \(radius: exact frame\)"):
        data.evaluation_set().require_queries()
