"""Folders that look like runs are read, named, or refused, since runs decide what is tested; images of odd sizes."""

import os

import pytest
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from tests.miniature_frames import straight, write_run
from tests.miniature_images import numbered, write_images

RADII = {"positive_radius": 3.0, "negative_radius": 10.0, "eval_radius": 5.0}
NO_TEXT = os.fsdecode(b"caf\xe9")


@pytest.fixture
def runs(tmp_path):
    for name, north in (("a", 0.0), ("b", 1.0)):
        write_run(tmp_path / name, straight(120, 2.0, north), cameras=("image_left",), cloud=None)
    return tmp_path


def opened(folder):
    return create_dataset("frames", dataset_folder=folder, **RADII)


def left_out(folder):
    return [note for note in opened(folder).notes if "left out" in note]


def test_a_run_without_its_table_is_named(runs):
    assert left_out(runs) == []
    (runs / "b" / "poses.csv").rename(runs / "b" / "Poses.CSV")
    (runs / "notes").mkdir()
    assert left_out(runs) == ["b is left out: it holds image_left, but no poses.csv (Poses.CSV is not read: rename it)"]
    (runs / "b" / "Poses.CSV").rename(runs / "b" / "table.csv")
    (runs / "c" / "cloud").mkdir(parents=True)
    (runs / "d").symlink_to("elsewhere")
    assert left_out(runs) == [
        "b is left out: it holds image_left, but no poses.csv",
        "c is left out: it holds cloud, but no poses.csv",
        "d is left out: it is a link that leads nowhere",
    ]


def test_a_table_of_another_name_is_named_where_no_run_is_left(runs):
    for name in "ab":
        (runs / name / "poses.csv").rename(runs / name / "POSES.csv")
    with pytest.raises(
        UserError, match=r"one of its 2 folders has a poses\.csv: .*; a is left out: .*POSES\.csv is not"
    ):
        opened(runs)
    with pytest.raises(
        UserError, match=r"one of its 1 folders has a poses\.csv: .*; a is left out: .*POSES\.csv is not"
    ):
        opened(runs / "a")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.symlink_to("gone.csv"), r"poses\.csv is a link to gone\.csv, which does not exist: mend"),
        (os.mkfifo, r"poses\.csv is a named pipe \(FIFO\), not a text file"),
        (os.mkdir, r"poses\.csv is a folder|poses\.csv cannot be read: Is a directory"),
    ],
)
def test_a_table_that_is_no_file_is_refused(runs, make, said):
    (runs / "b" / "poses.csv").unlink()
    make(runs / "b" / "poses.csv")
    for folder in (runs, runs / "b"):
        with pytest.raises(UserError, match=said):
            opened(folder)


@pytest.mark.parametrize("moved", ["b", "b/image_left"])
def test_folders_whose_names_are_no_text_are_refused_on_opening(runs, moved):
    (runs / moved).rename((runs / moved).with_name("image_" + NO_TEXT))
    with pytest.raises(UserError, match=r"image_caf\\udce9 has a name that is no UTF-8: rename it") as caught:
        opened(runs)
    str(caught.value).encode()


@pytest.mark.parametrize("moved", ["queries/deep", "."])
def test_so_are_those_of_image_sets(tmp_path, moved):
    folder = tmp_path / "D"
    write_images(folder, numbered(range(3)), numbered(range(3), "deep/{}.png"))
    (folder / moved).resolve().rename((folder / moved).resolve().with_name(NO_TEXT))
    home = tmp_path / NO_TEXT if moved == "." else folder
    with pytest.raises(UserError, match=r"caf\\udce9.* has a name that is no UTF-8: rename it") as caught:
        create_dataset("images", dataset_folder=home, frame_tolerance=0)
    str(caught.value).encode()


def test_an_image_of_another_size_within_a_run_is_told_once(runs, caplog):
    for frame in ("0000000020", "0000000024"):
        Image.new("RGB", (64, 48)).save(runs / "a" / "image_left" / f"{frame}.png")
    data = opened(runs)
    for frame in ("0000000020", "0000000022", "0000000024"):
        assert data.read_image(runs / "a" / "image_left" / f"{frame}.png").size == (32, 24)
    (told,) = caplog.messages
    assert "0000000020.png has 64x48 pixels, unlike the first image of any camera: it is resized to 32x24" in told


def test_sizes_that_were_announced_are_not_told_again(runs, caplog):
    first = runs / "b" / "image_left" / "0000000000.png"
    Image.new("RGB", (64, 48)).save(first)
    data = opened(runs)
    assert any("32x24, 64x48 are resized" in note for note in data.notes)
    assert data.read_image(first).size == (32, 24)
    assert caplog.messages == []
