"""The @-convention: positions in names, and which files are images."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.common.inputs.image_files import find_images
from distilplace.datasets.io.utm_names import parse_utm
from tests.miniature_dbstruct import at_name


def test_fields_of_a_full_name(tmp_path):
    name = "@0584825.96@4476945.61@17@T@040.43978@-080.00016@000829@03@090@12@0@1.5@201204@night@.jpg"
    assert parse_utm(tmp_path / name, tmp_path) == (584825.96, 4476945.61, "000829")
    nordland = "@0@0059.5@@@@@25@@@@@@@@.jpg"  # VPR-datasets-downloader: one coordinate, frame number as panorama
    assert parse_utm(tmp_path / nordland, tmp_path) == (0.0, 59.5, "25")


def test_only_the_name_is_split(tmp_path):
    """Other readers split the whole path and so take "b" for the position's east."""
    path = tmp_path / "a@b@c" / at_name(1.25, 2.5, "p")
    assert parse_utm(path, tmp_path) == (1.25, 2.5, "p")


@settings(deadline=None, max_examples=30)
@given(
    east=st.integers(0, 999_999_999),
    north=st.integers(-99_999_999, 999_999_999),
    pano=st.text("abcXYZ-_019", max_size=22),
)
def test_written_names_are_read_back(tmp_path_factory, east, north, pano):
    root = tmp_path_factory.getbasetemp()
    name = at_name(east / 100, north / 100, pano)
    assert name.count("@") == 15
    found = parse_utm(root / name, root)
    assert math.isclose(found.easting, east / 100, abs_tol=1e-9)
    assert math.isclose(found.northing, north / 100, abs_tol=1e-9)
    assert found.pano_id == pano


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("00010.jpg", "0 found"),
        ("@1@2@.jpg", "15 '@' are expected, the first at the start; 3 found"),
        (at_name(1, 2).replace(".jpg", "@.jpg"), "16 found"),
        ("x" + at_name(1, 2), "the first at the start"),
        (at_name(1, 2).replace("0000001.00", "east"), "east is 'east', expected metres"),
        (at_name(1, 2).replace("0000001.00", ""), "east is '', expected metres"),
        (at_name(1, 2).replace("0000002.00", "nan"), "north is 'nan', expected metres"),
        (at_name(1, 2).replace("0000002.00", "inf"), "north is 'inf', expected metres"),
    ],
)
def test_bad_names_are_refused_in_one_line(tmp_path, name, said):
    with pytest.raises(UserError, match=said) as caught:
        parse_utm(tmp_path / "sub" / name, tmp_path)
    assert f"{tmp_path}: image sub/{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def _touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_of_any_case_sorted_by_path(tmp_path):
    folder = tmp_path / "database"
    names = ["b/2.PNG", "b/1.jpg", "a.JPEG", "b-c/3.Jpg", "c/d/4.jpeg"]
    _touch(*(folder / name for name in names))
    _touch(folder / "b/1.csv", folder / ".hidden.jpg", folder / ".cache/5.jpg", folder / "jpg")
    found = [str(path.relative_to(folder)) for path in find_images(folder).files]
    assert found == sorted(names) == ["a.JPEG", "b-c/3.Jpg", "b/1.jpg", "b/2.PNG", "c/d/4.jpeg"]


def test_a_list_beside_the_folder_is_taken(tmp_path):
    folder = tmp_path / "queries"
    _touch(folder / "b/1.jpg", folder / "a.jpg", folder / "unlisted.jpg")
    listed = tmp_path / "queries_images_paths.txt"
    listed.write_text("b/1.jpg\n\na.jpg\n")
    assert find_images(folder).files == [folder / "a.jpg", folder / "b/1.jpg"]
    listed.write_text("b/1.jpg\nz.jpg\n")
    with pytest.raises(UserError, match=r"queries_images_paths\.txt: .*z\.jpg does not exist: remove the list"):
        find_images(folder)
    listed.write_text("\n")
    with pytest.raises(UserError, match="is empty: remove it"):
        find_images(folder)
    listed.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is UTF-16 text: save it as UTF-8"):
        find_images(folder)


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"image folder .*absent does not exist"):
        find_images(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no image"):
        find_images(tmp_path)
