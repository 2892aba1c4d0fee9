"""Two ordered sequences: truth by order or by table, training part, messages."""

import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.readers.frames.sequences import SequencesData
from tests.miniature_images import numbered, write_images, write_sequences, write_truth


def truth_of(data):
    tests = data.evaluation_set()
    return [tests.query_sets[1][index][0] for index in range(len(tests.queries[1]))]


@pytest.mark.parametrize("sides", [("memory", "live"), ("database", "queries")])
@pytest.mark.parametrize(("memory", "live", "tolerance"), [(12, 12, 0), (12, 9, 2), (5, 13, 1)])
def test_the_tolerance_counts_images_not_numbers(tmp_path, sides, memory, live, tolerance):
    data = SequencesData(write_sequences(tmp_path, memory, live, sides), frame_tolerance=tolerance)
    tests = data.evaluation_set()
    tests.require_queries()
    expected = [[d for d in range(memory) if abs(d - q) <= tolerance] for q in range(live)]
    assert truth_of(data) == expected
    assert [record.images[0].name for record in tests.queries[1]] == [f"l{5 * k + 96}.png" for k in range(live)]
    assert tests.database[0][0].images[0].parent.name == sides[0]
    bare = sum(not row for row in expected)
    assert any(f"{bare} of {live} queries have no match" in note for note in data.notes) == (bare > 0)
    assert tests.radius == tolerance
    # Every query stands at its number, the first and last too, whose matches lie on one side.
    assert [record.northing for record in tests.queries[1]] == list(range(live))


def test_a_table_may_say_that_nothing_matches(tmp_path):
    write_sequences(tmp_path, 6, 4)
    write_truth(tmp_path, [("l96.png", "m7.png"), ("live/l101.png", "memory/m13.png"), ("l106.png", "")])
    data = SequencesData(tmp_path)
    assert truth_of(data) == [[0], [2], [], []]
    assert "2 of 4 queries have no match: left out of recall" in data.notes
    by_order = SequencesData(tmp_path, frame_tolerance=0)
    assert truth_of(by_order) == [[0], [1], [2], [3]]
    assert any("truth.csv is left aside" in note for note in by_order.notes)


def test_without_truth_everything_but_the_truth_is_there(tmp_path):
    data = SequencesData(write_sequences(tmp_path, 3, 4))
    assert data.notes == ["3 remembered, 4 live images, in the names' order"]
    for ask in (data.evaluation_set, data.training_set):
        with pytest.raises(UserError, match=r"no truth for the sequences in .*truth\.csv .*--frame_tolerance"):
            ask()


def test_the_first_part_trains(tmp_path):
    write_sequences(tmp_path, 20, 20)
    with pytest.raises(UserError, match="no training part: --train_fraction is 0: set it"):
        SequencesData(tmp_path, frame_tolerance=1).training_set()
    data = SequencesData(tmp_path, frame_tolerance=1, train_fraction=0.6)
    training, tests = data.training_set(), data.evaluation_set()
    assert (len(training), training.queries.tolist()) == (12 + 11, list(range(12, 23)))
    assert (len(tests.database[0]), len(tests.queries[1])) == (8, 7)
    for query in range(11):
        near = [d for d in range(12) if abs(d - query) <= 1]
        assert training.positives[12 + query].tolist() == near
        assert [i for i in training.non_negatives[12 + query] if i < 12] == near
    for i, row in enumerate(truth_of(data)):
        assert row == [d for d in range(8) if abs(d - (i + 1)) <= 1]


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="--dataset_folder"):
        SequencesData(None)
    with pytest.raises(UserError, match="neither memory/ and live/ nor database/ and queries/"):
        SequencesData(tmp_path)
    write_images(tmp_path, numbered(range(2)), {}, ("memory", "live"))
    (tmp_path / "live").mkdir()
    with pytest.raises(UserError, match="live holds no image"):
        SequencesData(tmp_path)
