"""Oxford's settings: which images belong to a cloud, and what is made of the cloud; the table of data sets."""

import pickle

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset, dataset_settings, list_datasets
from distilplace.datasets.io.pickles import load_pickle
from tests.miniature import Miniature


def opened(mini: Miniature, **settings):
    return create_dataset("oxford", dataset_folder=mini.dataset_folder, image_path=mini.image_path, **settings)


def test_k_nearest_images(oxford_copy):
    index = load_pickle(oxford_copy.image_path / "lidar2image_ndx.pickle")
    for k, expected in ((1, 1), (3, 3), (None, 20), (50, 20)):
        record = opened(oxford_copy, image_lidar_k=k).training_set().records[5]
        assert [int(path.stem) for path in record.images] == index[int(record.cloud.stem)][:expected]
    with pytest.raises(UserError, match="image_lidar_k"):
        opened(oxford_copy, image_lidar_k=0)


def test_images_of_another_traversal_are_left_out(oxford_copy):
    """The published index may name images that lie in another run's folder."""
    record = opened(oxford_copy, image_lidar_k=3).training_set().records[5]
    record.images[0].unlink()
    again = opened(oxford_copy, image_lidar_k=3).training_set().records[5]
    assert again.images == record.images[1:]
    for path in again.images:
        path.unlink()
    alone = opened(oxford_copy, image_lidar_k=3).training_set().records[5]
    assert alone.images == record.images[:1]  # reading it says which file is missing


@pytest.mark.parametrize("content", [["a"], {"a": [1]}, {1: 5}, {1: ["x"]}])
def test_malformed_image_index(oxford_copy, content):
    (oxford_copy.image_path / "lidar2image_ndx.pickle").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="image index"):
        opened(oxford_copy).training_set()


def test_table_of_data_sets():
    assert list_datasets()[:5] == ["oxford", "oxfordadafusion", "boreas", "frames", "demo"]
    assert set(list_datasets()[5:]) == {
        *("images", "sequences", "vprice", "nordland", "kitti", "pitts30k", "pitts250k", "tokyo247", "tokyotm"),
        *("cambridge", "7scenes", "gldv2", "roxford5k", "rparis6k", "svd"),
        *("demo_poses", "demo_landmarks", "demo_videos"),
    }
    assert {"dataset_folder", "image_path", "image_lidar_k", "quantization_size", "n_points"} <= set(
        dataset_settings("oxford")
    )
    assert dataset_settings("oxford") == dataset_settings("boreas") == dataset_settings("oxfordadafusion")
    with pytest.raises(UserError, match="did you mean 'oxford'"):
        create_dataset("oxfrod")
    with pytest.raises(UserError, match="did you mean 'image_path'"):
        create_dataset("oxford", image_pth="x")


@pytest.mark.parametrize(("setting", "value"), [("quantization_size", 0.0), ("quantization_size", -1), ("n_points", 0)])
def test_useless_cloud_settings(oxford_written, setting, value):
    with pytest.raises(UserError, match=r"must be (a positive|at least 1)"):
        opened(oxford_written, **{setting: value})


def test_settings_change_the_cloud(oxford_written, tmp_path):
    data = opened(oxford_written, quantization_size=0.02, n_points=8)
    assert (data.cloud.quantization_size, data.cloud.n_points) == (0.02, 8)
    (tmp_path / "1.bin").write_bytes(np.arange(24.0).reshape(8, 3).tobytes())
    assert data.read_cloud(tmp_path / "1.bin").shape == (8, 3)
