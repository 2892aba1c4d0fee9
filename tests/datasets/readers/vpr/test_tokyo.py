"""Tokyo 24/7 and Time Machine in miniature: panoramas, suppression, time stamps, all against loops over all pairs."""

import math
import shutil

import numpy as np
import pytest
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets.image_sets import matches_by_distance
from distilplace.datasets.readers.vpr.dbstruct import read_dbstruct
from distilplace.datasets.readers.vpr.tokyo import TOKYO, Tokyo247Data, TokyoTMData
from distilplace.datasets.records import PlaceRecord
from tests.miniature_dbstruct import DECOY_PANORAMA, QUERY_PANORAMA, write_struct, write_tokyo247, write_tokyotm


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Both forms of Tokyo 24/7, written once: read only."""
    root = tmp_path_factory.mktemp("tokyo")
    return {flavour: write_tokyo247(root / flavour, flavour) for flavour in ("mat", "at")}


@pytest.fixture(scope="module")
def time_machine(tmp_path_factory):
    """Time Machine, written once: read only."""
    return write_tokyotm(tmp_path_factory.mktemp("tokyotm"))


def _gap(one, other):
    return math.hypot(one.northing - other.northing, one.easting - other.easting)


def _rankings(tests):
    """Per query the database indices by falling correlation of the pictures: an embedding simple enough to foresee."""

    def embedded(records):
        pictures = [np.asarray(Image.open(r.images[0]).convert("RGB").resize((32, 24)), float) for r in records]
        rows = np.array([picture.ravel() - picture.mean() for picture in pictures])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return np.argsort(-embedded(tests.queries[1]) @ embedded(tests.database[0]).T, axis=1, kind="stable")


def _first_hit(ranking, true, groups):
    """One-based rank of the first right answer; with ``groups``, of each panorama only the first view counts."""
    seen, rank = set(), 0
    for index in ranking.tolist():
        if groups is not None and groups[index] in seen:
            continue
        seen.add(None if groups is None else groups[index])
        rank += 1
        if index in true:
            return rank
    raise AssertionError("no right answer")


@pytest.mark.parametrize("flavour", ["mat", "at"])
def test_truth_and_panoramas_by_loops(written, flavour):
    data = Tokyo247Data(written[flavour])
    tests = data.evaluation_set()
    database, queries = tests.database[0], tests.queries[1]
    assert (len(database), len(queries), tests.radius, tests.rules.unmatched) == (240, 3, 25.0, "miss")
    for i, query in enumerate(queries):
        assert tests.query_sets[1][i][0] == [j for j, r in enumerate(database) if _gap(query, r) <= 25]
        assert len(tests.query_sets[1][i][0]) == 36
    groups = tests.rules.groups[0]
    assert (groups.dtype, groups.shape) == (np.int64, (240,))
    for i, one in enumerate(database):
        assert [j for j, o in enumerate(database) if groups[j] == groups[i]] == [
            j for j, o in enumerate(database) if o.easting == one.easting
        ]
    assert any("EXIF orientation is not applied" in note for note in data.notes)
    assert any("240 database images, but the published split has 75984" in note for note in data.notes)
    assert any("3 queries, but the published split has 315" in note for note in data.notes)


@pytest.mark.parametrize("flavour", ["mat", "at"])
def test_suppression_changes_the_answer_to_one_query(written, flavour):
    data = Tokyo247Data(written[flavour])
    tests = data.evaluation_set()
    groups, rankings = tests.rules.groups[0], _rankings(tests)
    night = rankings[2]
    decoys = {tests.database[0][index].easting for index in night[:12].tolist()}
    assert decoys == {tests.database[0][DECOY_PANORAMA * 12].easting}
    true = [set(tests.query_sets[1][i][0]) for i in range(3)]
    assert [_first_hit(rankings[i], true[i], None) for i in range(3)] == [1, 1, 13]
    assert [_first_hit(rankings[i], true[i], groups) for i in range(3)] == [1, 1, 2]
    assert tests.database[0][night[12]].easting == tests.database[0][QUERY_PANORAMA * 12].easting


def test_names_in_jpg_find_files_in_png(written):
    database = Tokyo247Data(written["mat"]).evaluation_set().database[0]
    assert read_dbstruct(written["mat"] / "tokyo247.mat").database[0].endswith("_012_0.jpg")
    assert all(r.key.endswith(".jpg") and r.images[0].suffix == ".png" for r in database)
    assert all(r.images[0].is_file() for r in database)


def test_photographs_are_of_three_lights_and_sizes(written):
    data = Tokyo247Data(written["mat"])
    pictures = [data.read_image(r.images[0]) for r in data.evaluation_set().queries[1]]
    assert [picture.size for picture in pictures] == [(40, 32), (32, 40), (32, 24)]
    light = [np.asarray(picture).mean() for picture in pictures]
    assert light == sorted(light, reverse=True)


def test_suppression_may_be_left_out(written):
    data = Tokyo247Data(written["mat"], spatial_nms=False)
    assert data.evaluation_set().rules.groups == {}
    assert any("--spatial_nms False" in note for note in data.notes)
    for spatial_nms in (None, True):
        assert set(Tokyo247Data(written["mat"], spatial_nms=spatial_nms).evaluation_set().rules.groups) == {0}


def test_there_is_no_training_part(written):
    with pytest.raises(UserError, match="tokyo247 has no training part: train on tokyotm or pitts30k"):
        Tokyo247Data(written["mat"]).training_set()
    assert Tokyo247Data(written["mat"]).validation_set() is None


@pytest.mark.parametrize(
    ("database", "queries", "struct"),
    [
        ("images", "query", "."),  # NetVLAD
        ("raw/Tokyo247/images", "raw/Tokyo247/query", "raw"),  # OpenIBL, WAKD
        ("tokyo247", "tokyo247/247query_v3", "datasets"),  # deep-visual-geo-localization-benchmark, raw
        ("database_gsv_vga", "queries", "."),
        ("247_Tokyo_GSV_Perspective", "247_Tokyo_GSV_Perspective/247query_v3", "."),  # Patch-NetVLAD
    ],
)
def test_layouts_in_use(written, tmp_path, database, queries, struct):
    for source, target in (
        ("03814", f"{database}/03814"),
        ("03815", f"{database}/03815"),
        ("247query_subset_v2", queries),
    ):
        shutil.copytree(written["mat"] / source, tmp_path / target)
    (tmp_path / struct).mkdir(exist_ok=True)
    shutil.copy(written["mat"] / "tokyo247.mat", tmp_path / struct)
    tests = Tokyo247Data(tmp_path).evaluation_set()
    assert tests.database[0][0].images[0].is_relative_to(tmp_path / database)
    assert tests.queries[1][0].images[0].parent == tmp_path / queries
    assert all(r.images[0].is_file() for r in tests.distinct_records())


def test_cut_and_nameless_panoramas_are_noted(written, tmp_path):
    shutil.copytree(written["mat"], tmp_path / "mat")
    whole = read_dbstruct(tmp_path / "mat/tokyo247.mat")
    places = (whole.database_positions[:-2], whole.query_positions)
    write_struct(tmp_path / "mat/tokyo247.mat", whole.database[:-2], whole.queries, *places)
    data = Tokyo247Data(tmp_path / "mat")
    assert data.evaluation_set().rules.groups[0][[0, 11, 12, 237]].tolist() == [0, 0, 1, 19]
    assert any("238 database images are no multiple of 12" in note for note in data.notes)
    folder = shutil.copytree(written["at"], tmp_path / "at")
    for path in sorted((folder / "images/test/database").iterdir())[:12]:
        path.rename(path.with_name(path.name.replace("PanoramaOfTokyo0000000", "")))
    data = Tokyo247Data(folder)
    groups = data.evaluation_set().rules.groups[0]
    assert len(set(groups[:12].tolist())) == 12
    assert len(set(groups.tolist())) == 12 + 19
    assert any("12 of 240 database images name no panorama" in note for note in data.notes)


def test_missing_parts_are_named(written, tmp_path):
    with pytest.raises(UserError, match=r"no tokyo247\.mat in it, in its datasets/ or in its raw/, nor images/test"):
        Tokyo247Data(tmp_path).evaluation_set()
    shutil.copytree(written["mat"], tmp_path / "a")
    shutil.rmtree(tmp_path / "a/03815")
    with pytest.raises(UserError, match=r"1 of 2 image folders below .* such as 03815/.*: is a part of the download"):
        Tokyo247Data(tmp_path / "a").evaluation_set()
    shutil.rmtree(tmp_path / "a/247query_subset_v2")
    with pytest.raises(UserError, match=r"for query image 00010\.jpg in query/, queries/, 247query_subset_v2/"):
        Tokyo247Data(tmp_path / "a").evaluation_set()


def test_real_positions_give_the_published_pairs(real_data):
    stored = np.load(real_data("samples/vpr_lists/patchnetvlad") / "tokyo247.npz")
    sides = [
        [PlaceRecord("", "run", None, (), north, east) for east, north in stored[name].tolist()]
        for name in ("utmDb", "utmQ")
    ]
    assert tuple(map(len, sides)) == Tokyo247Data.published["test"]
    counts = [len(row) for row in matches_by_distance(*sides, 25.0)]
    assert (sum(counts), min(counts), max(counts)) == (37_260, 48, 240)
    assert sum(len(row) for row in matches_by_distance(*sides, 10.0)) == 11_448
    assert TOKYO.outside(stored["utmDb"][:, ::-1]) == 0
    assert TOKYO.outside(stored["utmDb"]) == len(sides[0])
    panoramas = stored["utmDb"].reshape(-1, 12, 2)
    assert (panoramas == panoramas[:, :1]).all()  # the .mat order: twelve views of a panorama follow each other


def _time(record):
    return record.images[0].parent.name


def test_time_machine_training_by_loops(time_machine):
    data = TokyoTMData(time_machine)
    training = data.training_set()
    records = training.records
    assert [sum(r.run == run for r in records) for run in ("database", "queries")] == [60, 16]
    assert training.queries.tolist() == list(range(60, 76))
    own = {r.images[0]: i for i, r in enumerate(records[:60])}
    near_copies = 0
    for i, one in enumerate(records):
        gaps = [_gap(one, other) for other in records]
        expected = [j for j, o in enumerate(records) if 1 < gaps[j] <= 10 and _time(o) != _time(one)]
        assert training.positives[i].tolist() == expected
        assert training.non_negatives[i].tolist() == [j for j in range(len(records)) if gaps[j] <= 25]
        near_copies += sum(gap <= 1 and _time(o) != _time(one) for gap, o in zip(gaps, records, strict=True))
    assert near_copies
    for i in training.queries:
        assert training.positives[i].min() < 60
        itself = own[records[i].images[0]]
        assert itself not in training.positives[i]
        assert itself in training.non_negatives[i]
    assert any("4 of 20 training queries have no positive and are dropped" in note for note in data.notes)


def test_time_machine_validation_by_loops(time_machine):
    data = TokyoTMData(time_machine)
    tests = data.evaluation_set()
    database, queries = tests.database[0], tests.queries[1]
    assert (len(database), len(queries), tests.rules.unmatched) == (60, 20, "miss")
    excluded = tests.rules.excluded[0, 1]
    for i, query in enumerate(queries):
        assert list(excluded[i]) == [j for j, r in enumerate(database) if _time(r) == _time(query)]
        itself = next(j for j, r in enumerate(database) if r.images == query.images)
        assert itself in excluded[i]
        true = [j for j, r in enumerate(database) if _gap(query, r) <= 25 and _time(r) != _time(query)]
        assert tests.query_sets[1][i][0] == true
    assert data.validation_set().query_sets == tests.query_sets
    assert any("0 of 20 queries have no match within 25 m" in note for note in data.notes)


def test_time_machine_without_val_or_positives(tmp_path, time_machine):
    alone = TokyoTMData(write_tokyotm(tmp_path / "a", splits=["train"]))
    assert alone.validation_set() is None
    with pytest.raises(UserError, match=r"no tokyoTM_val\.mat in it, in its datasets/ or in its raw/: check"):
        alone.evaluation_set()
    with pytest.raises(UserError, match="no query has a positive of another time within --positive_radius 1 m"):
        TokyoTMData(time_machine, positive_radius=1.0).training_set()


@pytest.mark.parametrize(
    ("stamps", "said"),
    [
        (None, "lacks dbTimeStamp or qTimeStamp: not a Tokyo Time Machine file"),
        ((np.array(["2009"] * 60, object), np.full(20, 2009.0)), "one of dbTimeStamp, qTimeStamp is text"),
    ],
)
def test_time_stamps_are_needed(tmp_path, time_machine, stamps, said):
    shutil.copytree(time_machine, tmp_path, dirs_exist_ok=True)
    for split in ("train", "val"):
        path = tmp_path / f"tokyoTM_{split}.mat"
        whole = read_dbstruct(path)
        places = (whole.database_positions, whole.query_positions)
        write_struct(path, whole.database, whole.queries, *places, times=stamps)
    for method in (TokyoTMData(tmp_path).training_set, TokyoTMData(tmp_path).evaluation_set):
        with pytest.raises(UserError, match=said):
            method()


def test_equal_arguments_write_equal_bytes(tmp_path, written, time_machine):
    copies = [
        (written["mat"], write_tokyo247(tmp_path / "mat")),
        (written["at"], write_tokyo247(tmp_path / "at", "at")),
        (time_machine, write_tokyotm(tmp_path / "tm")),
    ]
    for one, other in copies:
        files = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
        assert len(files) > 100
        assert all((one / path).read_bytes() == (other / path).read_bytes() for path in files)
