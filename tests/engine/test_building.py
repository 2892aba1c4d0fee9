"""Messages about folders name the option that gave them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from distilplace.common.errors import UserError
from distilplace.engine.building import build_named_data, build_test_data
from distilplace.engine.options import DataOptions
from tests.miniature import write_oxford
from tests.miniature_dbstruct import write_pittsburgh, write_tokyo247
from tests.miniature_poses import write_cambridge

SETS = ["frames", "images", "roxford5k", "cambridge", "kitti", "pitts30k", "tokyo247", "oxford"]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("given", ["test_folder", "pca_folder", "dataset_folder"])
def test_a_missing_folder_names_the_flag_that_gave_it(tmp_path, name, given):
    folder = str(tmp_path / "D")
    with pytest.raises(UserError) as caught:
        opened(name, given, folder)
    assert f"{folder} does not exist: set --{given} (or" in str(caught.value)


@pytest.mark.parametrize("name", ["frames", "images", "kitti"])
@pytest.mark.parametrize("given", ["test_folder", "pca_folder"])
def test_so_does_a_folder_that_holds_something_else(tmp_path, name, given):
    with pytest.raises(UserError, match=rf"--{given}") as caught:
        opened(name, given, str(tmp_path))
    assert "--dataset_folder" not in str(caught.value)


READ_LATE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cambridge": (write_cambridge, "dataset_test.txt"),
    "pitts30k": (lambda folder: write_pittsburgh(folder, views=2), "pitts30k_test.mat"),
    "tokyo247": (lambda folder: write_tokyo247(folder, panoramas=11), "tokyo247.mat"),
    "oxford": (
        lambda folder: write_oxford(folder, runs=2, submaps=3, image_size=(8, 6))[0],
        "*_query.pickle",
    ),
}


@pytest.mark.parametrize(("name", "write", "gone"), [(name, *each) for name, each in READ_LATE.items()])
def test_so_does_a_file_that_is_read_when_the_data_set_is_open(tmp_path, name, write, gone):
    """Two folders are open at once, each under its own flag, while lists and images are still to be read."""
    messages = []
    for given in ("dataset_folder", "test_folder"):
        folder = write(tmp_path / given)
        data = opened(name, given, str(folder))
        (found,) = folder.rglob(gone)
        found.unlink()
        with pytest.raises(UserError) as caught:
            data.evaluation_set()
        messages.append(str(caught.value))
    assert "--dataset_folder" in messages[0]
    assert "--test_folder" in messages[1]
    assert "--dataset_folder" not in messages[1]


def opened(name, given, folder):
    if given == "test_folder":
        options = DataOptions(dataset="demo", dataset_folder="trained", test_dataset=name, test_folder=folder)
        return build_test_data(options)
    return build_named_data(DataOptions(dataset=name, dataset_folder=folder), name, f"--{given}")
