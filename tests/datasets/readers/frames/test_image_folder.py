"""The ``images`` data set: three kinds of truth, real sets, training parts, and what a user can get wrong."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.common.inputs.image_files import natural_order
from distilplace.datasets.matches import frame_numbers, matches_by_number
from distilplace.datasets.readers.frames.image_folder import ImagesData
from tests.miniature_images import (
    numbered,
    utm_name,
    write_images,
    write_kitti,
    write_nordland,
    write_sequences,
    write_truth,
)


def found(data):
    """(query file, [database files]) of every query of the evaluation set, in order."""
    tests = data.evaluation_set()
    names = [record.images[0].name for record in tests.database[0]]
    return [
        (query.images[0].name, [names[i] for i in tests.query_sets[1][index][0]])
        for index, query in enumerate(tests.queries[1])
    ]


def check_training(training, true):
    """Positives: ``true(query, database)`` both ways; non-negatives: also who shares a match. By loops over pairs."""
    asks = set(training.queries.tolist())
    count = len(training)
    match = np.array(
        [
            [(i in asks) != (j in asks) and true(*((i, j) if i in asks else (j, i))) for j in range(count)]
            for i in range(count)
        ]
    )
    for i in range(count):
        assert training.positives[i].tolist() == [j for j in range(count) if match[i, j]]
        near = [
            j
            for j in range(count)
            if i == j
            or match[i, j]
            or ((i in asks) == (j in asks) and any(match[i, k] and match[j, k] for k in range(count)))
        ]
        assert training.non_negatives[i].tolist() == near


@pytest.mark.parametrize(
    ("folder", "tolerance", "counts"),
    [
        ("corridor", None, (111, 111, 549, 0)),
        ("gardens_point_thumbs", 2, (200, 200, 994, 0)),
        ("nordland_sample", 1, (54, 30, 58, 10)),
    ],
)
def test_real_sets_load(real_data, folder, tolerance, counts):
    data = ImagesData(real_data(folder), frame_tolerance=tolerance)
    tests = data.evaluation_set()
    tests.require_queries()
    rows = [entry[0] for entry in tests.query_sets[1].values()]
    bare = sum(not row for row in rows)
    assert (len(tests.database[0]), len(tests.queries[1]), sum(map(len, rows)), bare) == counts
    assert (tests.runs, tests.database[1], tests.queries[0]) == (["database", "queries"], [], [])
    assert tests.rules.unmatched == "skip"
    assert any(f"{bare} of {counts[1]} queries have no match" in note for note in data.notes) == (bare > 0)
    if folder == "nordland_sample":
        assert {q for q, row in found(data) if not row} == {f"{number:06d}.jpg" for number in range(1150, 1160)}
    for query, row in found(data):
        numbers = [int(name[:-4]) for name in row]
        assert all(abs(number - int(query[:-4])) <= (tolerance or 2) for number in numbers)


def test_images_without_truth_name_the_three_ways(tmp_path):
    write_images(tmp_path, {f"db{k}.jpg": k for k in range(1, 18)}, {f"q{k}.jpg": k for k in range(5)})
    data = ImagesData(tmp_path)
    for ask in (data.evaluation_set, data.training_set):
        with pytest.raises(UserError, match=r"truth\.csv .*--frame_tolerance .*@easting"):
            ask()
    tests = ImagesData(tmp_path, frame_tolerance=0).evaluation_set()
    assert [record.images[0].name for record in tests.database[0]][:3] == ["db1.jpg", "db2.jpg", "db3.jpg"]
    assert (len(tests.database[0]), len(tests.queries[1])) == (17, 5)


def test_frame_numbers_at_any_depth_and_in_any_case(tmp_path):
    database = {"a/Cam_12.PNG": 12, "b/x2_0007.jpeg": 7, "0009.JPG": 9, "b/cam-13.png": 13}
    write_images(tmp_path, database, {"q8.png": 8, "deep/er/q12.png": 12, "q99.png": 99})
    for stray in ("database/notes.txt", "database/.hidden.png", "queries/index.csv"):
        (tmp_path / stray).write_text("3")
    data = ImagesData(tmp_path, frame_tolerance=1)
    assert found(data) == [
        ("q12.png", ["Cam_12.PNG", "cam-13.png"]),
        ("q8.png", ["0009.JPG", "x2_0007.jpeg"]),
        ("q99.png", []),
    ]
    assert "1 of 3 queries have no match: left out of recall" in data.notes
    assert len({record.key for record in data.evaluation_set().distinct_records()}) == 7


def test_the_tolerance_wins_over_a_table_and_says_so(tmp_path):
    write_images(tmp_path, numbered(range(6)), numbered(range(6)))
    write_truth(tmp_path, [("0000.png", "0005.png"), ("queries/0003.png", "./0001.png"), ("0003.png", "0002.png")])
    by_table, by_number = ImagesData(tmp_path), ImagesData(tmp_path, frame_tolerance=0)
    assert [row for _, row in found(by_table)] == [["0005.png"], [], [], ["0001.png", "0002.png"], [], []]
    assert all(row == [query] for query, row in found(by_number))
    assert any("truth.csv is left aside" in note for note in by_number.notes)
    assert "4 of 6 queries have no match: left out of recall" in by_table.notes


def test_utm_names_use_metres(tmp_path):
    places = {utm_name(500000.0 + 9 * k, 4000000.0 + 2 * (k % 2), str(k)): k for k in range(9)}
    asked = {utm_name(500001.0 + 20 * k, 4000000.0): 50 + k for k in range(4)} | {utm_name(1.0, 2.0): 99}
    write_images(tmp_path, places, asked)
    write_images(tmp_path / "train", places, asked)
    data = ImagesData(tmp_path, eval_radius=15.0, positive_radius=10.0, negative_radius=30.0)
    tests, training = data.evaluation_set(), data.training_set()
    for index, query in enumerate(tests.queries[1]):
        gaps = [np.hypot(query.northing - r.northing, query.easting - r.easting) for r in tests.database[0]]
        assert tests.query_sets[1][index][0] == [i for i, gap in enumerate(gaps) if gap <= 15.0]
    assert tests.radius == 15.0
    assert training.queries.tolist() == list(range(9, 14))
    for i, one in enumerate(training.records):
        gaps = [np.hypot(one.northing - r.northing, one.easting - r.easting) for r in training.records]
        assert training.positives[i].tolist() == [j for j, gap in enumerate(gaps) if gap <= 10 and j != i]
        assert training.non_negatives[i].tolist() == [j for j, gap in enumerate(gaps) if gap <= 30]


def test_train_fraction_takes_the_first_part(tmp_path):
    write_images(tmp_path, numbered(range(20)), numbered([*range(20), 500]))
    data = ImagesData(tmp_path, frame_tolerance=1, train_fraction=0.5)
    training, tests = data.training_set(), data.evaluation_set()
    shown = [int(record.images[0].stem) for record in training.records]
    assert shown == [*range(10), *range(9)]
    assert [int(r.images[0].stem) for r in tests.database[0]] == list(range(10, 20))
    assert [int(r.images[0].stem) for r in tests.queries[1]] == [*range(11, 20), 500]
    assert all(set(row) <= {f"{n:04d}.png" for n in range(10, 20)} for _, row in found(data))
    assert not {r.key for r in training.records} & {r.key for r in tests.distinct_records()}
    check_training(training, lambda query, database: abs(shown[query] - shown[database]) <= 1)


def test_a_training_folder_wins_over_the_fraction(tmp_path):
    write_images(tmp_path, numbered(range(5)), numbered(range(5)))
    with pytest.raises(
        UserError, match=r"no training part: --train_fraction is 0: set it between 0 and 1 .* or add .*train/database"
    ):
        ImagesData(tmp_path, frame_tolerance=0).training_set()
    write_images(tmp_path / "train", numbered(range(100, 107)), numbered(range(100, 105)))
    write_truth(tmp_path, [("0001.png", "0001.png")])
    with pytest.raises(UserError, match=r"no truth for .*train"):
        ImagesData(tmp_path)
    write_truth(tmp_path / "train", [("0100.png", "0106.png"), ("0100.png", "0101.png"), ("0103.png", "0106.png")])
    data = ImagesData(tmp_path, train_fraction=0.4)
    training = data.training_set()
    true = {(100, 106), (100, 101), (103, 106)}
    shown = [int(record.images[0].stem) for record in training.records]
    check_training(training, lambda query, database: (shown[query], shown[database]) in true)
    assert len(data.evaluation_set().database[0]) == 5
    assert any("--train_fraction is not used" in note for note in data.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "query,database\n0001.png,0099.png\n",
            r"truth\.csv line 2: database image 0099\.png is no image of database/",
        ),
        ("query,database\n\n9.png,0001.png\n", r"truth\.csv line 3: query 9\.png is no image of queries/"),
        ("query,database\n0001.png\n", r"line 2: 1 values for 2 columns"),
        ("query,database\n0001.png,0001.png,0002.png\n", r"line 2: 3 values for 2 columns"),
        ("query,data\n0001.png,0001.png\n", r"line 1: column\(s\) database missing"),
        ("query,query,database\n", r"line 1: column\(s\) query repeated"),
        ("", r"line 1: column\(s\) query, database missing"),
        ("query,database\n", r"names no match"),
        ("query,database\n0001.png,\n", r"names no match"),
        ("query,database\n,0001.png\n", r"line 2: the query's name is empty"),
        ("query,database\n0001.png,same.png\n", r"line 2: database image same\.png occurs in several folders"),
        (b"query,database\n\xff.png,0001.png\n", r"not UTF-8"),
    ],
)
def test_bad_tables_are_named_by_line(tmp_path, text, said):
    write_images(tmp_path, {**numbered(range(3)), "a/same.png": 5, "b/same.png": 6}, numbered(range(3)))
    (tmp_path / "truth.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said) as caught:
        ImagesData(tmp_path)
    assert str(tmp_path / "truth.csv") in str(caught.value)


def test_tables_as_people_write_them(tmp_path):
    write_images(tmp_path, {**numbered(range(3)), "a/same.png": 5, "b/same.png": 6}, numbered(range(3)))
    text = (
        "\ufeff Database , QUERY,note\r\nb\\same.png,0001.png,x\r\n 0002.png , 0001.png ,\r\n,0002.png,none\r\n,,\r\n"
    )
    (tmp_path / "truth.csv").write_bytes((text + "0002.png,0001.png,twice\r\n").encode())
    assert [row for _, row in found(ImagesData(tmp_path))] == [[], ["0002.png", "same.png"], []]


def test_bad_folders_names_and_settings(tmp_path):
    with pytest.raises(UserError, match="--dataset_folder"):
        ImagesData(tmp_path / "absent")
    with pytest.raises(UserError, match=r"database does not exist"):
        ImagesData(tmp_path)
    write_images(tmp_path, {"front.png": 0}, numbered([1]))
    with pytest.raises(UserError, match=r"--frame_tolerance: image name front\.png holds no number"):
        ImagesData(tmp_path, frame_tolerance=1)
    (tmp_path / "queries" / "0001.png").unlink()
    with pytest.raises(UserError, match=r"queries holds no image"):
        ImagesData(tmp_path, frame_tolerance=1)
    with pytest.raises(UserError, match=r"number in image name 9{30}\.png exceeds 4e"):
        frame_numbers(["9" * 30 + ".png"])
    write_images(tmp_path, {}, numbered([1]))
    for setting, said in [
        ({"frame_tolerance": -1}, "--frame_tolerance must be"),
        ({"train_fraction": 1.0}, "--train_fraction must be"),
        ({"train_fraction": float("nan")}, "--train_fraction must be"),
        ({"eval_radius": 0.0}, "--eval_radius must be a positive"),
        ({"positive_radius": 30.0}, "--positive_radius 30 exceeds --negative_radius 25"),
    ]:
        with pytest.raises(UserError, match=said):
            ImagesData(tmp_path, **setting)


def test_a_fraction_that_leaves_nothing_is_refused(tmp_path):
    write_images(tmp_path, numbered(range(4)), numbered(range(4)))
    with pytest.raises(UserError, match=r"--train_fraction 0\.05 leaves 0 queries to train on"):
        ImagesData(tmp_path, frame_tolerance=0, train_fraction=0.05)


NUMBERS = st.lists(st.integers(0, 40) | st.integers(17 * 10**17, 17 * 10**17 + 5), min_size=1, max_size=12)


@given(NUMBERS, NUMBERS, st.integers(0, 6))
@settings(deadline=None, max_examples=30)
def test_matches_by_number_are_exact(database, queries, tolerance):
    """Nanoseconds do not fit float64: a step of one must still be seen."""
    rows = matches_by_number(np.array(database), np.array(queries), tolerance)
    slow = [[i for i, number in enumerate(database) if abs(number - query) <= tolerance] for query in queries]
    assert [row.tolist() for row in rows] == slow


def test_names_are_ordered_by_their_numbers():
    names = ["b10.png", "b2.png", "b02.png", "a/3.png", "a/12.png", "10.png"]
    assert sorted(names, key=natural_order) == [
        "10.png",
        "a/3.png",
        "a/12.png",
        "b02.png",
        "b2.png",
        "b10.png",
    ]


def test_equal_arguments_write_equal_bytes(tmp_path):
    def contents(folder):
        write_sequences(folder / "sequences", 3, 3)
        write_kitti(folder / "kitti", ("00",), points=5)
        for variant in ("full", "patchnetvlad", "downloader", "vprbench", "seqnet"):
            write_nordland(folder / variant, variant, frames=5)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert contents(tmp_path / "one") == contents(tmp_path / "two")
