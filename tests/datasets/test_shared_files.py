"""Links that put one picture on both sides of a test: refused with two keys, however the link is made."""

import os
import shutil

import pytest

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.datasets.shared_files import identities
from tests.miniature_frames import straight, write_run
from tests.miniature_images import numbered, write_images, write_nordland

RADII = {"positive_radius": 3.0, "negative_radius": 10.0, "eval_radius": 5.0}
LINKS = {"symlink": os.symlink, "hard": os.link}


@pytest.fixture
def runs(tmp_path):
    for seed, name in enumerate("ab"):
        write_run(tmp_path / name, straight(80, 2.0, seed), cameras=("image_left",), cloud=None, seed=seed)
    return tmp_path


def opened(folder):
    return create_dataset("frames", dataset_folder=folder, **RADII)


def linked(target, source, link):
    target.unlink()
    link(source, target)


def test_a_linked_camera_folder_is_refused(runs):
    shutil.rmtree(runs / "b" / "image_left")
    (runs / "b" / "image_left").symlink_to(runs / "a" / "image_left", target_is_directory=True)
    with pytest.raises(
        UserError, match=r"database image b/(\d+) and query a/\1 are one file, .*more pairs\): every such"
    ):
        opened(runs)


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_one_linked_picture_of_another_run_is_refused(runs, link):
    key = opened(runs).evaluation_set().queries[1][3].key
    frame = key.split("/")[1]
    linked(runs / "b" / "image_left" / f"{frame}.png", runs / "a" / "image_left" / f"{frame}.png", link)
    with pytest.raises(UserError, match=rf"database image b/{frame} and query a/{frame} are one file, \S+: every such"):
        opened(runs)


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_one_run_whose_frames_are_one_picture_is_refused(runs, link):
    tests = opened(runs / "a").evaluation_set()
    one, other = tests.database[0][2].images[0], tests.queries[1][1].images[0]
    linked(other, one, link)
    with pytest.raises(UserError, match=rf"database image a/{one.stem} and query a/{other.stem} are one file"):
        opened(runs / "a")


def test_links_that_share_nothing_are_taken(runs, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("store")
    expected = [record.key for record in opened(runs).evaluation_set().distinct_records()]
    for name in "ab":
        (runs / name / "image_left").rename(elsewhere / name)
        (runs / name / "image_left").mkdir()
        for path in (elsewhere / name).iterdir():
            (runs / name / "image_left" / path.name).symlink_to(path)
    data = opened(runs)
    assert [record.key for record in data.evaluation_set().distinct_records()] == expected
    assert not any("by links" in note for note in data.notes)


def test_a_picture_that_trains_and_is_tested_is_told(runs):
    data = opened(runs)
    trained, tested = data.training_set().records[0], data.evaluation_set().queries[1][0]
    linked(tested.images[0], trained.images[0], os.link)
    told = f"1 tested images train too, by links: {tested.key} and {trained.key} are one file"
    assert told in opened(runs).notes


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize(("name", "sides"), [("images", ("database", "queries")), ("sequences", ("memory", "live"))])
def test_image_sets_are_looked_at_too(tmp_path, name, sides, link):
    write_images(tmp_path, numbered(range(6)), numbered(range(6), "deep/{:04d}.png"), sides)
    create_dataset(name, dataset_folder=tmp_path, frame_tolerance=1)
    linked(tmp_path / sides[1] / "deep/0004.png", tmp_path / sides[0] / "0001.png", link)
    with pytest.raises(UserError, match=r"image database/0001\.png and query queries/deep/0004\.png are one file"):
        create_dataset(name, dataset_folder=tmp_path, frame_tolerance=1)


def test_published_sets_are_taken_as_they_are(tmp_path):
    home = write_nordland(tmp_path, "full", 6)
    for path in (home / "summer").iterdir():
        linked(home / "winter" / path.name, path, os.link)
    create_dataset("nordland", dataset_folder=home, frame_tolerance=1).evaluation_set()


def test_what_folders_tell_is_what_files_are(tmp_path):
    (tmp_path / "file").write_text("a")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dead").symlink_to("gone")
    paths = [tmp_path / name for name in ("file", "link", "dead", "gone", "no/such")]
    status = paths[0].stat()
    assert identities(paths) == dict.fromkeys(map(str, paths[:2]), (status.st_dev, status.st_ino))
