"""Google Landmarks v2 in miniature: groups against the list read again, what is left out, what is refused."""

import os
import shutil

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.readers.landmarks.google_landmarks import (
    GoogleLandmarksData,
    present_images,
    read_clean_list,
)
from tests.miniature_landmarks import LANDMARKS, image_file, image_id, write_gldv2


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The miniature, written once: read only."""
    return write_gldv2(tmp_path_factory.mktemp("gldv2"))


@pytest.fixture
def folder(written, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(written, tmp_path / "gldv2")


def _listed(folder):
    """(landmark, image id) of every listed image: the list read the slow way."""
    lines = (folder / "meta" / "train_clean.csv").read_text().splitlines()[1:]
    return [(int(line.split(",")[0]), name) for line in lines for name in line.split(",")[1].split(" ")]


def _check(training, folder, expected):
    """Records, groups and relations against loops over all pairs."""
    assert [record.images[0] for record in training.records] == [image_file(folder, name) for _, name in expected]
    assert all(record.images[0].is_file() for record in training.records)
    assert len({record.key for record in training.records}) == len(expected)
    landmarks = [landmark for landmark, _ in expected]
    assert training.groups.dtype == np.int64
    assert training.groups.tolist() == landmarks
    for i in range(len(expected)):
        same = [j for j in range(len(expected)) if landmarks[j] == landmarks[i]]
        assert training.non_negatives[i].tolist() == same
        assert training.positives[i].tolist() == [j for j in same if j != i]
        assert training.positives[i].dtype == training.non_negatives[i].dtype == np.int64


def test_groups_and_relations(written):
    data = GoogleLandmarksData(written)
    training = data.training_set()
    _check(training, written, [(landmark, name) for landmark, name in _listed(written) if LANDMARKS[landmark] > 1])
    assert (training.layout, data.views, data.metric_positions) == ("groups", "landmarks", False)
    bases = {id(row.base) for row in training.non_negatives}
    assert len(bases) == 1  # views of one array, not an array an image
    assert data.notes == ["14 images of 5 landmarks", "1 of 6 landmarks have fewer than two images: left out"]
    assert data.image(training.records[0].images[0]).size == (48, 36)


def test_absent_images_are_left_out(folder):
    gone = {image_id(17, 1), image_id(4, 0), image_id(81, 0)}
    for name in gone:
        image_file(folder, name).unlink()
    shutil.rmtree(image_file(folder, image_id(81, 0)).parent)
    data = GoogleLandmarksData(folder)
    left = [(landmark, name) for landmark, name in _listed(folder) if name not in gone and landmark not in (4, 81)]
    _check(data.training_set(), folder, left)
    assert data.notes[0] == "11 images of 4 landmarks"
    assert data.notes[1].startswith("3 of 15 images in ")
    assert data.notes[2].startswith("2 of 6 landmarks have fewer than two")


def test_each_folder_is_listed_once(folder, monkeypatch):
    """1.58 million images: a question of the file system for every folder, none for every image."""
    names = [name for _, name in _listed(folder)]
    asked = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: asked.append(path) or scandir(path))
    monkeypatch.setattr(os, "stat", lambda *_, **__: pytest.fail("a file was asked for"))
    found = present_images(folder / "train", [*names, "abcdef"])
    monkeypatch.undo()
    assert found == set(names)
    assert len(asked) == len(set(asked)) == len({name[:3] for name in [*names, "abc"]})


def test_no_test_part_says_where_to_go(written):
    with pytest.raises(UserError, match=r"--test_dataset roxford5k --test_folder D"):
        GoogleLandmarksData(written).evaluation_set()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x,00aa", "line 3: expected a landmark's number"),
        ("12 00aa 00bb", "line 3: expected a landmark's number"),
        ("12,", "line 3: expected a landmark's number"),
        ("12,00aa ../bb", "line 3: '../bb' is no image id"),
        ("12,00aa 00aa", "line 3: names images named before"),
        ("12,00cc", "line 3: names images named before"),
        ("11,00aa", "line 3: names landmarks named before"),
    ],
)
def test_damaged_lists_name_the_line(folder, line, message):
    path = folder / "meta" / "train_clean.csv"
    path.write_text(f"landmark_id,images\n11,00cc 00dd\n{line}\n")
    with pytest.raises(UserError, match=message) as caught:
        GoogleLandmarksData(folder).training_set()
    assert str(path) in str(caught.value)


def test_another_list_empty_lists_and_no_images(folder):
    path = folder / "meta" / "train_clean.csv"
    for text, message in (
        ("id,url,landmark_id\n00aa,x,1\n", "instead of the header landmark_id,images"),
        ("landmark_id,images\n", "names no landmark"),
        ("landmark_id,images\n1,00aa 00ab\n", "holds 0 of the 2 images"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            GoogleLandmarksData(folder).training_set()
    path.unlink()
    with pytest.raises(UserError, match=r"train_clean\.csv does not exist"):
        GoogleLandmarksData(folder)
    with pytest.raises(UserError, match="set --dataset_folder"):
        GoogleLandmarksData(folder / "nowhere")


def test_landmarks_of_any_size(tmp_path):
    """The csv module would refuse this field: it holds more than 128 KiB."""
    names = [f"{number:016x}" for number in range(9000)]
    path = tmp_path / "train_clean.csv"
    path.write_text(f"landmark_id,images\r\n7,{' '.join(names)}\r\n\r\n")
    assert read_clean_list(path) == {7: names}
