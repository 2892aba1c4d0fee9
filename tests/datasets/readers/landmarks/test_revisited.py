"""Revisited Oxford and Paris: the real ground truth's totals, the miniature against its own lists, refusals."""

import copy
import pickle
import shutil

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.readers.landmarks.revisited import (
    ROxford5kData,
    RParis6kData,
    read_distractors,
    read_revisited_truth,
)
from tests.miniature_landmarks import GRADES, revisited_truth, write_revisited, write_truth


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Both sets and the distractors, written once: read only."""
    folder = write_revisited(tmp_path_factory.mktemp("revisited"), distractors=True)
    return write_revisited(folder, "rparis6k")


def test_the_real_ground_truth(real_data):
    """spec-datasets 6.2; the sample's file is called oxford5k_gnd_roxford5k.pkl."""
    data = ROxford5kData(real_data("samples/roxford_rparis"))
    tests = data.evaluation_set()
    graded = tests.easy, tests.hard, tests.junk
    assert (len(tests.database), len(tests.queries)) == (4993, 70)
    assert [sum(map(len, rows)) for rows in graded] == [3029, 2497, 1356]
    assert [i for i, row in enumerate(tests.easy) if len(row) == 0] == [11, 66]
    for easy, hard, junk in zip(*graded, strict=True):
        assert len({*easy.tolist(), *hard.tolist(), *junk.tolist()}) == len(easy) + len(hard) + len(junk)
    assert not {r.images[0] for r in tests.database} & {r.images[0] for r in tests.queries}
    assert any(note.endswith("1356 junk (as published)") for note in data.notes)
    assert tests.queries[0].images[0].name == "all_souls_000013.jpg"
    cropped = ROxford5kData(real_data("samples/roxford_rparis"), query_crop=True).evaluation_set()
    assert cropped.queries[0].crop == (136.5, 34.1, 648.5, 955.7)


@pytest.mark.parametrize(("kind", "name"), [(ROxford5kData, "roxford5k"), (RParis6kData, "rparis6k")])
def test_miniature(written, kind, name):
    content = revisited_truth()
    for folder in (written, written / name):
        data = kind(folder)
        tests = data.evaluation_set()
        tests.require_queries()
        assert [r.images[0] for r in tests.database] == [written / name / "jpg" / f"{n}.jpg" for n in content["imlist"]]
        assert [r.images[0] for r in tests.queries] == [written / name / "jpg" / f"{n}.jpg" for n in content["qimlist"]]
        assert all(r.images[0].is_file() and r.crop is None for r in tests.distinct_records())
        for i, row in enumerate(GRADES):
            for grade, found in zip(("easy", "hard", "junk"), (tests.easy, tests.hard, tests.junk), strict=True):
                assert found[i].dtype == np.int64
                assert found[i].tolist() == sorted(row[grade])
        assert (data.views, data.metric_positions, tests.name) == ("landmarks", False, name)
        published = ", ".join(map(str, kind.published))
        assert data.notes[0].startswith("10 database images, 3 queries, 3 easy, 4 hard, 3 junk (published: ")
        assert published in data.notes[0]
        with pytest.raises(UserError, match=f"data set {name} has no training part"):
            data.training_set()


def test_query_boxes_only_on_request(written):
    whole, cropped = ROxford5kData(written), ROxford5kData(written, query_crop=True)
    boxes = [tuple(entry["bbx"]) for entry in revisited_truth()["gnd"]]
    one, other = whole.evaluation_set(), cropped.evaluation_set()
    assert [r.crop for r in one.queries] == [None] * 3
    assert [r.crop for r in other.queries] == boxes
    assert all(r.crop is None for r in other.database)
    assert not {r.key for r in one.queries} & {r.key for r in other.queries}  # other inputs, other keys
    assert [r.key for r in one.database] == [r.key for r in other.database]
    assert cropped.image(other.queries[0].images[0], other.queries[0].crop).size == (36, 28)
    assert "whole images" in whole.notes[1]
    assert "cut to their boxes" in cropped.notes[1]


@pytest.mark.parametrize("layout", ["jpg", "revisitop1m", "."])
def test_distractors_are_wrong_for_every_query(written, tmp_path, layout):
    home = tmp_path / "revisitop1m"
    shutil.copytree(written / "revisitop1m" / "jpg", home / layout, dirs_exist_ok=True)
    shutil.copy(written / "revisitop1m" / "revisitop1m.txt", home)
    for given in (tmp_path, home):
        data = ROxford5kData(written, distractors_folder=given)
        tests, plain = data.evaluation_set(), ROxford5kData(written).evaluation_set()
        assert tests.database[:10] == plain.database
        names = (home / "revisitop1m.txt").read_text().split()
        assert [r.images[0] for r in tests.database[10:]] == [home / layout / name for name in names]
        assert all(r.images[0].is_file() for r in tests.database)
        assert all((np.concatenate(rows) < 10).all() for rows in (tests.easy, tests.hard, tests.junk))
        assert any("4 distractors (published: 1001001)" in note for note in data.notes)
        assert len(tests.distinct_records()) == 17


def test_distractor_lists_are_checked(tmp_path):
    with pytest.raises(UserError, match=r"no revisitop1m\.txt"):
        read_distractors(tmp_path)
    (tmp_path / "revisitop1m.txt").write_text("a.jpg\n../b.jpg\n")
    with pytest.raises(UserError, match="points out of the image folder"):
        read_distractors(tmp_path)
    with pytest.raises(UserError, match="set --distractors_folder"):
        ROxford5kData(write_revisited(tmp_path), distractors_folder=tmp_path / "nowhere")


def _changed(change):
    content = copy.deepcopy(revisited_truth())
    return change(content) or content


FAULTS = {
    "no dict": (lambda c: [c], "expected a dict with gnd, imlist and qimlist"),
    "no imlist": (lambda c: {k: v for k, v in c.items() if k != "imlist"}, "expected a dict with gnd"),
    "unrevised": (lambda c: c["gnd"][1].update(ok=[1]), "query 1 .*before the revision"),
    "no junk": (lambda c: c["gnd"][2].pop("junk") and None, "query 2 .*expected a dict with bbx"),
    "too few": (lambda c: c["gnd"].pop() and None, "one entry for each of the 3 queries"),
    "in both": (lambda c: c["imlist"].__setitem__(3, c["qimlist"][1]), "1 queries are in imlist too"),
    "twice": (lambda c: c["imlist"].__setitem__(3, c["imlist"][1]), "imlist names an image twice"),
    "no name": (lambda c: c["imlist"].__setitem__(3, 7), "imlist must be a list of image names"),
    "outside": (lambda c: c["imlist"].__setitem__(3, "a/../../b"), "points out of the image folder"),
    "overlap": (lambda c: c["gnd"][0]["hard"].append(3), "query 0 .*must not share or repeat"),
    "repeated": (lambda c: c["gnd"][0]["easy"].append(1), "query 0 .*must not share or repeat"),
    "range": (lambda c: c["gnd"][0]["easy"].append(10), "easy must list indices from 0 to 9"),
    "negative": (lambda c: c["gnd"][0]["junk"].append(-1), "junk must list indices"),
    "fraction": (lambda c: c["gnd"][0]["junk"].append(4.5), "junk must list indices"),
    "ragged": (lambda c: c["gnd"][0].update(easy=[[1], [1, 2]]), "easy must list indices"),
    "truth values": (lambda c: c["gnd"][0].update(easy=[True]), "easy must list indices"),
    "number": (lambda c: c["gnd"][0].update(easy=3), "easy must list indices"),
    "box": (lambda c: c["gnd"][2].update(bbx=[1, 2, 3]), "query 2 .*bbx must be four numbers"),
    "ragged box": (lambda c: c["gnd"][2].update(bbx=[[1], [1, 2]]), "bbx must be four numbers"),
    "endless box": (lambda c: c["gnd"][2].update(bbx=[0, 0, float("nan"), 1]), "bbx must be four numbers"),
    "empty box": (lambda c: c["gnd"][2].update(bbx=[5, 0, 5, 9]), "bbx 5 0 5 9 is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_truth_is_refused(tmp_path, fault):
    change, message = FAULTS[fault]
    path = tmp_path / "gnd_roxford5k.pkl"
    write_truth(path, _changed(change))
    with pytest.raises(UserError, match=message) as caught:
        read_revisited_truth(path)
    assert str(path) in str(caught.value)


def test_arrays_serve_as_lists(tmp_path):
    """Other writers of the same file save arrays."""
    content = revisited_truth()
    expected = read_written(tmp_path / "lists.pkl", content)
    content["imlist"] = np.array(content["imlist"])
    for entry in content["gnd"]:
        entry.update({k: np.array(v, dtype=np.float64 if k == "bbx" else np.int32) for k, v in entry.items()})
    found = read_written(tmp_path / "arrays.pkl", content)
    assert (found.database, found.queries, found.boxes) == (expected.database, expected.queries, expected.boxes)
    assert found.totals() == expected.totals() == (10, 3, 3, 4, 3)


def read_written(path, content):
    write_truth(path, content)
    return read_revisited_truth(path)


class _Trap:
    def __reduce__(self):
        return print, ("the pickle ran code",)


def test_nothing_in_the_pickle_is_run(tmp_path, capsys):
    path = tmp_path / "gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps({**revisited_truth(), "extra": _Trap()}))
    with pytest.raises(UserError, match="none of the plain types"):
        ROxford5kData(tmp_path).evaluation_set()
    assert capsys.readouterr().out == ""


def test_a_folder_without_truth(tmp_path):
    with pytest.raises(UserError, match=r"no ground truth gnd_rparis6k\.pkl"):
        RParis6kData(tmp_path)
    with pytest.raises(UserError, match="set --dataset_folder"):
        RParis6kData(None)
