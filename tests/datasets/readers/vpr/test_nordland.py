"""Nordland: the truth of each variant by counting, on miniatures and published lists; Patch-NetVLAD and .npy lists."""

import pickle
import shutil

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.io.npy_lists import checked_truth, read_index_lists, read_name_array
from distilplace.datasets.readers.vpr.nordland import TOLERANCES, NordlandData, variant_matches
from distilplace.datasets.readers.vpr.patch_netvlad import read_names, read_position_truth
from tests.miniature_images import write_nordland

FRAMES = 40


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every variant in a folder of its own; read only."""
    root = tmp_path_factory.mktemp("nordland")
    return {variant: write_nordland(root / variant, variant, FRAMES) for variant in TOLERANCES}


def truth_of(data):
    tests = data.evaluation_set()
    return [tests.query_sets[1][index][0] for index in range(len(tests.queries[1]))]


def slow_truth(database, queries, tolerance, step=1):
    return [[d for d in range(database) if abs(d - step * q) <= tolerance] for q in range(queries)]


@pytest.mark.parametrize(("variant", "tolerance"), TOLERANCES.items())
def test_each_variant_has_its_own_truth(written, variant, tolerance):
    step = 10 if variant == "vprbench" else 1
    data = NordlandData(written[variant], variant)
    tests = data.evaluation_set()
    tests.require_queries()
    expected = slow_truth(FRAMES, FRAMES // step, tolerance, step)
    assert truth_of(data) == expected
    assert [row.tolist() for row in variant_matches(variant, FRAMES, FRAMES // step)] == expected
    assert len({record.key for record in tests.distinct_records()}) == FRAMES + FRAMES // step
    assert all(record.images[0].is_file() and record.cloud is None for record in tests.distinct_records())
    assert any(f"variant {variant}" in note for note in data.notes)
    wider = NordlandData(written[variant], variant, frame_tolerance=3)
    assert truth_of(wider) == slow_truth(FRAMES, FRAMES // step, 3, step)
    assert wider.evaluation_set().radius == 3


@pytest.mark.parametrize("variant", ["full", "patchnetvlad", "seqnet"])
def test_seasons_can_change_sides(written, variant):
    tests = NordlandData(written[variant], variant).evaluation_set()
    swapped = NordlandData(written[variant], variant, nordland_database="winter", nordland_query="summer")
    swapped = swapped.evaluation_set()
    for sides, seasons in ((tests, ("summer", "winter")), (swapped, ("winter", "summer"))):
        assert {record.images[0].parent.name for record in sides.database[0]} == {seasons[0]}
        assert {record.images[0].parent.name for record in sides.queries[1]} == {seasons[1]}


def test_the_first_part_trains(written):
    data = NordlandData(written["full"], frame_tolerance=2, train_fraction=0.5)
    training, tests = data.training_set(), data.evaluation_set()
    assert (len(training), len(training.queries)) == (20 + 18, 18)
    assert (len(tests.database[0]), len(tests.queries[1])) == (20, 18)
    for row, query in enumerate(training.queries):
        place = training.records[query].images[0].name
        near = [int(training.records[i].images[0].stem[-5:]) - int(place[-9:-4]) for i in training.positives[query]]
        assert near == [offset for offset in range(-2, 3) if 0 <= row + offset < 20]
    with pytest.raises(UserError, match="no training part: --train_fraction is 0: set it"):
        NordlandData(written["full"]).training_set()


def test_counts_of_the_real_lists(real_data):
    """spec-datasets 9: pairs, fewest and most per query, queries without."""
    folder = real_data("samples/vpr_lists/patchnetvlad")
    expected = {
        ("nordland", None): (27592, 27592, 413824, 8, 15, 0),
        ("pitts30k_test", None): (10000, 6816, 968448, 24, 360, 0),
        ("pitts30k_test", 10.0): (10000, 6816, 262272, 0, None, 384),
        ("tokyo247", None): (75984, 315, 37260, 48, 240, 0),
        ("tokyo247", 10.0): (75984, 315, 11448, None, None, 0),
    }
    for (name, radius), (database, queries, pairs, fewest, most, empty) in expected.items():
        truth = read_position_truth(folder / f"{name}.npz")
        rows = [len(row) for row in truth.matches(radius)]
        assert (len(truth.database), len(rows), sum(rows), rows.count(0)) == (database, queries, pairs, empty)
        assert fewest in (None, min(rows))
        assert most in (None, max(rows))
    rows = [len(row) for row in variant_matches("patchnetvlad", 27592, 27592)]
    assert (sum(rows), min(rows), max(rows)) == (413824, 8, 15)


def test_the_real_nordland_lists_load(real_data, tmp_path):
    """Truth file and names as Patch-NetVLAD ships them; no image is opened."""
    folder = real_data("samples/vpr_lists/patchnetvlad")
    for target, name in (
        ("dataset_gt_files", "nordland.npz"),
        ("dataset_imagenames", "nordland_imageNames_index.txt"),
        ("dataset_imagenames", "nordland_imageNames_query.txt"),
    ):
        (tmp_path / target).mkdir(exist_ok=True)
        shutil.copy(folder / name, tmp_path / target / name)
    tests = NordlandData(tmp_path, "patchnetvlad").evaluation_set()
    assert sum(len(entry[0]) for entry in tests.query_sets[1].values()) == 413824
    assert tests.queries[1][-1].images[0] == tmp_path / "nordland" / "winter" / "images-35582.png"


def test_the_real_index_lists_load(real_data, tmp_path):
    lists = real_data("samples/vpr_lists")
    bench = read_index_lists(lists / "vpr_bench" / "Nordland_ground_truth_new.npy")
    expected = [row.tolist() for row in variant_matches("vprbench", 27592, 2760)]
    assert [list(row) for row in bench] == expected
    assert [list(row) for row in read_index_lists(lists / "gsv_cities" / "Nordland_gt.npy")] == expected
    for name in ("dbImages", "qImages", "gt"):
        shutil.copy(lists / "gsv_cities" / f"Nordland_{name}.npy", tmp_path)
    tests = NordlandData(tmp_path, "vprbench").evaluation_set()
    assert [tests.query_sets[1][i][0] for i in range(2760)] == expected
    assert tests.queries[1][0].images[0] == tmp_path / "query" / "0000000.jpg"
    gardens = lists / "vpr_bench" / "GardensPointWalking_ground_truth_new.npy"
    rows = checked_truth(read_index_lists(gardens), 200, 200, gardens)
    assert all(row.tolist() == [i for i in range(q - 2, q + 3) if 0 <= i < 200] for q, row in enumerate(rows))
    with pytest.raises(UserError, match="200 rows, but there are 199 query images"):
        checked_truth(read_index_lists(gardens), 200, 199, gardens)
    with pytest.raises(UserError, match="row 103: index 101, but there are 101 database images"):
        checked_truth(read_index_lists(gardens), 101, 200, gardens)


def test_seqnets_real_list(real_data, tmp_path):
    shutil.copy(real_data("samples/dbstruct") / "nordland_val_d-1_d2-1.db", tmp_path)
    for season in ("summer", "winter"):
        (tmp_path / season).mkdir()
    data = NordlandData(tmp_path, "seqnet")
    assert truth_of(data) == slow_truth(3000, 3000, 1)
    assert data.evaluation_set().database[0][0].images[0] == tmp_path / "summer" / "images-23176.png"


def test_foreign_classes_in_an_object_array_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (shutil.rmtree, (str(tmp_path / "precious"),))

    (tmp_path / "precious").mkdir()
    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    np.save(tmp_path / "trap.npy", trap, allow_pickle=True)
    with pytest.raises(UserError, match=r"names shutil\.rmtree"):
        read_index_lists(tmp_path / "trap.npy")
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[0, [1]], [0, [2]]], "must number the queries"),
        ([[0, ["a"]], [1, [2]]], "no list of image numbers"),
        ([[0, [1], 2]], r"expected an array \[n, 2\] or \[n\]"),
    ],
)
def test_odd_index_lists_are_refused(tmp_path, rows, said):
    array = np.empty((len(rows), len(rows[0])), dtype=object)
    for index, row in enumerate(rows):
        array[index] = row
    np.save(tmp_path / "odd.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=said):
        read_index_lists(tmp_path / "odd.npy")


def test_broken_lists_are_refused(tmp_path):
    whole = np.empty(3, dtype=object)
    whole[:] = [[1], [2], [3]]
    np.save(tmp_path / "whole.npy", whole, allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-9])
    (tmp_path / "junk.npy").write_bytes(pickle.dumps([1, 2]))
    for name in ("cut", "junk"):
        with pytest.raises(UserError, match=rf"{name}\.npy is no readable \.npy file"):
            read_index_lists(tmp_path / f"{name}.npy")
    with pytest.raises(UserError, match="does not exist"):
        read_index_lists(tmp_path / "absent.npy")
    with pytest.raises(UserError, match="no plain"):
        read_name_array(tmp_path / "whole.npy")
    np.savez(tmp_path / "other.npz", utmDb=np.zeros((2, 2)), posDistThr=25)
    np.savez(tmp_path / "shape.npz", utmDb=np.zeros(2), utmQ=np.zeros((2, 2)), posDistThr=25)
    np.savez(tmp_path / "nan.npz", utmDb=np.zeros((2, 2)), utmQ=np.full((2, 2), np.nan), posDistThr=25)
    np.savez(tmp_path / "zero.npz", utmDb=np.zeros((2, 2)), utmQ=np.zeros((2, 2)), posDistThr=0)
    np.savez(tmp_path / "object.npz", utmDb=whole, utmQ=whole, posDistThr=1)
    for name, said in [
        ("other.npz", "utmQ"),
        ("shape.npz", r"utmDb has shape \(2,\)"),
        ("nan.npz", "utmQ holds positions that are not finite"),
        ("zero.npz", "posDistThr must be one positive number"),
        ("object.npz", "no readable"),
        ("whole.npy", "no readable"),
        ("absent.npz", "no readable"),
    ]:
        with pytest.raises(UserError, match=said):
            read_position_truth(tmp_path / name)
    (tmp_path / "empty.txt").write_text("\n \n")
    for name, said in (("empty.txt", "is empty"), ("absent.txt", "does not exist")):
        with pytest.raises(UserError, match=said):
            read_names(tmp_path / name)


def test_wrong_folders_and_settings_are_named(written, tmp_path):
    with pytest.raises(UserError, match=r"--nordland_variant must be one of full, .*, not 'partial'"):
        NordlandData(written["full"], "partial")
    with pytest.raises(UserError, match=r"no season folder spring in .* \(folders: summer, winter\)"):
        NordlandData(written["full"], nordland_query="spring")
    for variant, said in [
        ("patchnetvlad", r"no nordland\.npz and no dataset_gt_files/nordland\.npz"),
        ("downloader", "image folder .*database does not exist"),
        ("vprbench", "database does not exist"),
        ("seqnet", r"holds 0 \.db files"),
    ]:
        with pytest.raises(UserError, match=said):
            NordlandData(tmp_path, variant)
    shutil.copytree(written["full"], tmp_path / "full")
    (tmp_path / "full" / "winter" / "images-00210.png").unlink()
    with pytest.raises(UserError, match=r"summer holds 40 images and .*winter 39"):
        NordlandData(tmp_path / "full")
    (tmp_path / "full" / "summer" / "images-00211.png").unlink()
    assert any("frame numbers of summer and winter differ" in note for note in NordlandData(tmp_path / "full").notes)
    shutil.copytree(written["patchnetvlad"], tmp_path / "lists")
    (tmp_path / "lists" / "nordland_imageNames_query.txt").write_text("./nordland/winter/images-00202.png\n")
    with pytest.raises(UserError, match=r"has 40 query positions, but the list 1 names"):
        NordlandData(tmp_path / "lists", "patchnetvlad")
