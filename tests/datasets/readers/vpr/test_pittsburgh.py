"""Pittsburgh in miniature: every layout against loops over all pairs; the published positions; what users get wrong."""

import math
import shutil

import numpy as np
import pytest
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets.image_sets import matches_by_distance
from distilplace.datasets.readers.vpr.pittsburgh import PITTSBURGH, Pitts30kData, Pitts250kData
from distilplace.datasets.records import PlaceRecord
from tests.miniature_dbstruct import write_pittsburgh, write_struct

FLAVOURS = ["matlab", "pytorch", "openibl", "at"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every layout, written once: read only."""
    root = tmp_path_factory.mktemp("pittsburgh")
    return {flavour: write_pittsburgh(root / flavour, flavour) for flavour in FLAVOURS}


def _gap(one, other):
    return math.hypot(one.northing - other.northing, one.easting - other.easting)


def _view(record):
    """What a record shows, in words that all layouts share: its panorama and its view."""
    name = record.images[0].name
    if name.startswith("@"):
        pano, tile = name.split("@")[7:9]
        return f"{pano} {int(tile)}"
    pano, pitch, yaw = name.removesuffix(".jpg").replace("pitch", "").replace("yaw", "").split("_")
    return f"{pano} {12 * (int(pitch) - 1) + int(yaw) - 1}"


def _by_view(data):
    """Relations and truth as {view: views}, whatever the order of the files."""
    training, tests = data.training_set(), data.evaluation_set()
    names = [f"{record.run} {_view(record)}" for record in training.records]
    relations = [
        {names[i]: {names[j] for j in row} for i, row in enumerate(rows)}
        for rows in (training.positives, training.non_negatives)
    ]
    truth = {
        _view(tests.queries[1][i]): {_view(tests.database[0][j]) for j in entry[0]}
        for i, entry in tests.query_sets[1].items()
    }
    return relations, truth


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_relations_and_truth_by_loops(written, flavour):
    data = Pitts30kData(written[flavour])
    training, tests, validation = data.training_set(), data.evaluation_set(), data.validation_set()
    records = training.records
    assert [sum(r.run == run for r in records) for run in ("database", "queries")] == [72, 24]
    assert training.queries.tolist() == [i for i, r in enumerate(records) if r.run == "queries"]
    assert len({r.key for r in records}) == len(records)
    for i, one in enumerate(records):
        assert training.positives[i].tolist() == [j for j, o in enumerate(records) if _gap(one, o) <= 10 and j != i]
        assert training.non_negatives[i].tolist() == [j for j, o in enumerate(records) if _gap(one, o) <= 25]
    for made, name in ((tests, "pitts30k"), (validation, "pitts30k_val")):
        assert (made.name, made.runs, made.radius) == (name, ["database", "queries"], 25.0)
        assert (made.rules.unmatched, made.rules.groups, made.rules.excluded) == ("miss", {}, {})
        assert [len(side) for side in (*made.database, *made.queries)] == [72, 0, 0, 48]
        made.require_queries()
        for i, query in enumerate(made.queries[1]):
            near = [j for j, o in enumerate(made.database[0]) if _gap(query, o) <= 25]
            assert made.query_sets[1][i][0] == near
            assert near
    assert not {r.images[0] for r in records} & {r.images[0] for r in tests.distinct_records()}


def test_every_layout_gives_the_same_relations(written):
    expected, *others = (_by_view(Pitts30kData(written[flavour])) for flavour in FLAVOURS)
    assert len(expected[1]) == 48
    assert all(other == expected for other in others)


def test_keys_and_positions_are_stable(written):
    """East is the first row: exchanged rows would put the city elsewhere."""
    data = Pitts30kData(written["pytorch"])
    first = data.evaluation_set().database[0][0]
    assert first.key == "database/001/001029_pitch1_yaw1.jpg"
    assert (first.easting, first.northing) == (584825.96, 4476945.61)
    image = data.read_image(first.images[0])
    assert (image.size, image.mode) == ((32, 24), "RGB")
    assert not any("lie outside" in note for note in data.notes)


def test_matlab_keys_equal_those_of_other_layouts_with_a_struct(written):
    """A teacher store made with one copy of the images serves the other copies."""
    one, *others = (Pitts30kData(written[flavour]).evaluation_set() for flavour in FLAVOURS[:3])
    for other in others:
        assert [r.key for r in one.distinct_records()] == [r.key for r in other.distinct_records()]


def test_queries_without_a_positive_are_dropped_in_training_and_missed_in_tests(written):
    data = Pitts30kData(written["matlab"], eval_radius=20.0)
    data.training_set()
    data.training_set()
    tests = data.evaluation_set()
    assert [len(entry[0]) > 0 for entry in tests.query_sets[1].values()] == [True] * 24 + [False] * 24
    assert sum("24 of 48 training queries have no positive within 10 m" in note for note in data.notes) == 1
    assert any("24 of 48 queries have no match within 20 m and are misses" in note for note in data.notes)
    assert any("states 25 m for a match; 20 m is used" in note for note in data.notes)
    assert any("72 database images, but the published split has 10000" in note for note in data.notes)
    everybody = Pitts30kData(written["matlab"], positive_radius=22.0).training_set()
    assert len(everybody.queries) == 48
    with pytest.raises(UserError, match=r"pitts30k_train\.mat: no query has a database image .* --positive_radius 4 m"):
        Pitts30kData(written["matlab"], positive_radius=4.0).training_set()


def test_the_val_split_may_be_evaluated_or_absent(written, tmp_path):
    data = Pitts30kData(written["openibl"], split="val")
    assert data.evaluation_set().query_sets == data.validation_set().query_sets
    assert data.evaluation_set().name == "pitts30k_val"
    for flavour in ("pytorch", "at"):
        alone = Pitts30kData(write_pittsburgh(tmp_path / flavour, flavour, splits=["test"]))
        assert alone.validation_set() is None
        assert len(alone.evaluation_set().queries[1]) == 48
    with pytest.raises(UserError, match=r"no pitts30k_train\.mat in it, .* nor images/train/database and queries"):
        alone.training_set()


def test_250k_has_files_of_its_own(tmp_path):
    folder = write_pittsburgh(tmp_path, "pytorch", size="250k", splits=["test"])
    data = Pitts250kData(folder)
    assert (data.name, len(data.evaluation_set().database[0])) == ("pitts250k", 72)
    assert [note for note in data.notes if "published" in note] == [
        f"{folder}/datasets/pitts250k_test.mat: 48 queries, but the published split has 8280"
    ]
    with pytest.raises(UserError, match=r"no pitts30k_test\.mat"):
        Pitts30kData(folder).evaluation_set()


def test_equal_arguments_write_equal_bytes(tmp_path, written):
    other = write_pittsburgh(tmp_path / "again", "pytorch")
    files = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert len(files) == 3 * 120 + 3
    assert all((other / path).read_bytes() == (written["pytorch"] / path).read_bytes() for path in files)


def _struct(folder, **changes):
    """A lone pair of images, listed by pitts30k_test.mat; ``changes`` replace the lists."""
    lists = {"database": ["000/a.jpg"], "queries": ["./000/q.jpg"], "east_north": (584800.0, 4476900.0)} | changes
    place = np.array([lists["east_north"]])
    (folder / "000").mkdir(parents=True)
    (folder / "queries_real/000").mkdir(parents=True)
    for path in (folder / "000/a.jpg", folder / "queries_real/000/q.jpg"):
        Image.new("RGB", (8, 6)).save(path)
    write_struct(
        folder / "pitts30k_test.mat",
        lists["database"],
        lists["queries"],
        np.repeat(place, len(lists["database"]), axis=0),
        place,
    )
    return Pitts30kData(folder)


def test_listed_names_are_cleaned_or_refused(tmp_path):
    query = _struct(tmp_path / "a").evaluation_set().queries[1][0]
    assert (query.key, query.images) == ("queries/000/q.jpg", (tmp_path / "a/queries_real/000/q.jpg",))
    for number, name in enumerate(("/etc/a.jpg", "../000/a.jpg", "000/../../a.jpg")):
        with pytest.raises(UserError, match="does not lie below the image folder"):
            _struct(tmp_path / str(number), database=["000/a.jpg", name]).evaluation_set()


def test_positions_outside_the_city_are_noted(tmp_path):
    data = _struct(tmp_path, east_north=(4476900.0, 584800.0))
    data.evaluation_set()
    assert any("2 of 2 positions lie outside Pittsburgh (UTM zone 17T): east and north exch" in n for n in data.notes)


def test_missing_images_are_named(tmp_path):
    data = _struct(tmp_path / "a", database=["000/none.jpg"])
    said = r"looked for database image 000/none\.jpg in Pittsburgh/images/, images/, \./, raw/Pittsburgh/images/ and"
    with pytest.raises(UserError, match=said):
        data.evaluation_set()
    folder = write_pittsburgh(tmp_path / "b", "pytorch", splits=["test"])
    shutil.rmtree(folder / "001")
    with pytest.raises(UserError, match=r"1 of 3 image folders .* such as 001/001829_pitch1_yaw1\.jpg: is a part"):
        Pitts30kData(folder).evaluation_set()
    folder = write_pittsburgh(tmp_path / "c", "at", splits=["test"])
    shutil.rmtree(folder / "images/test/queries")
    with pytest.raises(UserError, match=r"image folder .*images/test/queries does not exist"):
        Pitts30kData(folder).evaluation_set()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": "train"}, "--split must be one of test, val, not 'train'"),
        ({"eval_radius": 0.0}, "--eval_radius must be a positive number"),
        ({"positive_radius": math.nan}, "--positive_radius must be a positive number"),
        ({"negative_radius": 9.0}, "--positive_radius 10 exceeds --negative_radius 9"),
        ({"dataset_folder": None}, "--dataset_folder"),
        ({"dataset_folder": "/absent"}, "--dataset_folder"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, said):
    with pytest.raises(UserError, match=said):
        Pitts30kData(**({"dataset_folder": tmp_path} | settings))


def _places(rows):
    return [PlaceRecord(str(i), "run", None, (), north, east) for i, (east, north) in enumerate(rows.tolist())]


@pytest.mark.parametrize(
    ("radius", "pairs", "fewest", "most", "without"), [(25.0, 968_448, 24, 360, 0), (10.0, 262_272, 0, None, 384)]
)
def test_real_positions_give_the_published_pairs(real_data, radius, pairs, fewest, most, without):
    stored = np.load(real_data("samples/vpr_lists/patchnetvlad") / "pitts30k_test.npz")
    database, queries = _places(stored["utmDb"]), _places(stored["utmQ"])
    assert (len(database), len(queries)) == Pitts30kData.published["test"]
    counts = np.array([len(row) for row in matches_by_distance(database, queries, radius)])
    assert (counts.sum(), counts.min(), (counts == 0).sum()) == (pairs, fewest, without)
    assert most is None or counts.max() == most
    assert PITTSBURGH.outside(np.concatenate([stored["utmDb"], stored["utmQ"]])[:, ::-1]) == 0
    assert PITTSBURGH.outside(stored["utmDb"]) == len(database)
