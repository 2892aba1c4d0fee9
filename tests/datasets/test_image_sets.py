"""Relations from matches, the cut of a sequence, who asks in a pair, and the sizes of images."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets.image_sets import (
    Images,
    carve,
    evaluation_set,
    record,
    training_by_distance,
    training_by_truth,
)
from distilplace.datasets.io.images import evaluation_transform, parse_image_size
from distilplace.datasets.sampling.batches import PairBatchSampler
from distilplace.datasets.sampling.splitting import subset


def made(count: int, truth: list[list[int]]) -> Images:
    database = [record("database", Path(f"d{i}"), str(i), northing=i) for i in range(count)]
    queries = [record("queries", Path(f"q{i}"), str(i), northing=i) for i in range(len(truth))]
    return Images(database, queries, [np.array(sorted(row), dtype=np.int64) for row in truth])


tables = st.integers(2, 6).flatmap(
    lambda count: st.tuples(
        st.just(count), st.lists(st.sets(st.integers(0, count - 1)).map(sorted), min_size=1, max_size=5)
    )
)


@given(tables)
@settings(deadline=None, max_examples=30)
def test_relations_of_matches_are_those_of_explicit_loops(table):
    count, truth = table
    training = training_by_truth(made(count, truth))
    total = count + len(truth)
    matches = {(q + count, d) for q, row in enumerate(truth) for d in row}
    matches |= {(d, q) for q, d in matches}
    for one in range(total):
        assert training.positives[one].tolist() == [other for other in range(total) if (one, other) in matches]
        shared = {other for (a, middle) in matches if a == one for (m, other) in matches if m == middle}
        assert training.non_negatives[one].tolist() == sorted({one, *training.positives[one].tolist(), *shared})
    assert training.queries.tolist() == list(range(count, total))


def test_a_sequence_is_cut_by_its_database():
    images = made(6, [[0, 1], [2, 3], [3], [5], []])
    training, test = carve(images, 0.5)
    assert [r.key for r in training.database] == [f"database/{i}" for i in range(3)]
    assert [r.key for r in training.queries] == ["queries/0"]  # query 1 sees both parts: left out
    assert [r.key for r in test.queries] == ["queries/2", "queries/3", "queries/4"]
    assert [row.tolist() for row in test.truth] == [[0], [2], []]
    with pytest.raises(UserError, match=r"--train_fraction 0\.9 leaves"):
        carve(made(4, [[0], [1]]), 0.9)


def test_two_runs_one_of_which_asks():
    found = evaluation_set("x", made(3, [[1], []]), 2.0)
    assert found.runs == ["database", "queries"]
    assert [len(run) for run in (*found.database, *found.queries)] == [3, 0, 0, 2]
    assert found.query_sets[1][0][0] == [1]
    assert found.query_sets[1][1][0] == []


def test_pairs_join_a_query_with_a_database_image():
    places = [record("database", Path("d"), str(i), northing=10.0 * i) for i in range(8)]
    asking = [record("queries", Path("q"), str(i), northing=10.0 * i + 1) for i in range(8)]
    training = training_by_distance(places, asking, 10.0, 15.0)
    assert any(
        other < 8 for other in training.positives[0].tolist()
    )  # neighbours within the database are positives too
    for epoch in range(4):
        sampler = PairBatchSampler(training, 8, seed=3)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(row for batch in batches for row in batch[::2]) == list(range(8, 16))
        assert all(row < 8 for batch in batches for row in batch[1::2])
    half = subset(training, np.array([0, 1, 2, 8, 9, 12]))
    assert half.queries.tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("text", "size"), [("24", (24, 24)), ("20x30", (30, 20)), ("short20", (40, 20)), ("short40", (80, 40))]
)
def test_sizes_of_images(text, size):
    assert parse_image_size(text).apply(Image.new("RGB", (80, 40))).size == size


def test_pixels_of_0_to_255_less_their_mean():
    pixel = evaluation_transform("caffe")(Image.new("RGB", (1, 1), (255, 0, 104)))
    assert pixel.flatten().tolist() == pytest.approx([255 - 123.68, -116.779, 104 - 103.939], abs=1e-4)


@pytest.mark.parametrize("text", ["0", "x20", "20x", "short20x30", "20X30", "-5", "long20", "1e3", ""])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="image size"):
        parse_image_size(text)
