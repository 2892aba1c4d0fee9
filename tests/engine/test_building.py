"""Messages about folders name the option that gave them."""

import pytest

from distilplace.common.errors import UserError
from distilplace.engine.building import build_named_data, build_test_data
from distilplace.engine.options import DataOptions

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


def opened(name, given, folder):
    if given == "test_folder":
        options = DataOptions(dataset="demo", dataset_folder="trained", test_dataset=name, test_folder=folder)
        return build_test_data(options)
    return build_named_data(DataOptions(dataset=name, dataset_folder=folder), name, f"--{given}")
