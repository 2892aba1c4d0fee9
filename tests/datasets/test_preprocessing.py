"""The preprocessing that a weights file carries gives the very pixels that evaluation feeds, for every kind of view."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets.base import PlaceData
from distilplace.datasets.io.images import NORMALISATIONS, ImageSize, parse_image_size
from distilplace.datasets.preprocessing import preprocessing_of
from distilplace.datasets.transforms.views import VIEWS
from distilplace.runtime.preprocessing import Preprocessing

SIZES = ("20", "17x31", "short19", "max23")
PIXEL = 1 / 255


class Pictures(PlaceData):
    """A data set of which only the reading of images matters."""

    name = "pictures"

    def __init__(self, common=None):
        self.notes, self._common = [], common

    def training_set(self):
        raise NotImplementedError

    def evaluation_set(self):
        raise NotImplementedError

    def read_cloud(self, path):
        raise NotImplementedError

    def common_size(self):
        return self._common

    def read_image(self, path):
        image = super().read_image(path)
        return image if self._common is None else self._common.apply(image)


def write_image(folder, width, height, orientation, seed=0, name="a.png"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(folder / name, exif=exif)
    return folder / name


def carried(data, path):
    """Preprocessing as it is read back from the text of a file."""
    found = preprocessing_of(data, path)
    return Preprocessing.from_dict(json.loads(json.dumps(found.to_dict())), "file", found.mean_image)


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(9, 40),
    height=st.integers(9, 40),
    orientation=st.integers(1, 8),
    upright=st.booleans(),
    size=st.sampled_from((None, *SIZES)),
    query=st.sampled_from((None, *SIZES)),
    view=st.sampled_from(VIEWS),
    crop=st.integers(1, 9),
    normalisation=st.sampled_from(sorted(NORMALISATIONS)),
    common=st.sampled_from((None, ImageSize(25, 14))),
)
def test_pixels_are_those_of_evaluation(
    tmp_path_factory, width, height, orientation, upright, size, query, view, crop, normalisation, common
):
    path = write_image(tmp_path_factory.getbasetemp(), width, height, orientation, seed=width)
    data = Pictures(common)
    data.upright, data.views, data.crop_size, data.normalisation = upright, view, crop, normalisation
    data.resize = None if size is None else parse_image_size(size)
    if view == "posenet":
        shape = np.asarray(data.image(path)).shape
        data.crop_size = min(crop, *shape[:2])  # a crop that does not fit is refused, see below
        data.mean_image = np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)
    elif query is not None:
        data.query_resize = parse_image_size(query)
    preprocessing = carried(data, path)
    transform = data.transform(augment=False, rates=(0, 0, 0))
    for as_query in (False, True):
        expected = transform(data.image(path, as_query=as_query)).numpy()
        found = preprocessing.normalise(preprocessing.apply(path, as_query=as_query)[None])[0]
        assert found.shape == expected.shape
        scale = 255 * PIXEL if view == "posenet" else PIXEL / max(NORMALISATIONS[normalisation][1])
        assert np.abs(found - expected).max() < scale * 1e-3  # far below one level of a pixel
    assert preprocessing.trained_size == preprocessing.apply(path).shape[:2]
    assert preprocessing.size in (None, preprocessing.trained_size)


def test_a_file_an_opened_image_and_an_array_are_the_same_image(tmp_path):
    path = write_image(tmp_path, 30, 20, 6)
    data = Pictures()
    data.resize, data.upright = ImageSize(16, 12), True
    preprocessing = carried(data, path)
    upright = np.asarray(data.read_image(path))
    with Image.open(path) as opened:
        results = [preprocessing.apply(each) for each in (path, str(path), opened, upright)]
    assert all(np.array_equal(results[0], each) for each in results)
    assert results[0].shape == (16, 12, 3)
    assert preprocessing.size == (16, 12)


@pytest.mark.parametrize(
    "given",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), None, 3, b"jpg"],
)
def test_what_is_no_image_is_told_in_one_line(given):
    with pytest.raises(UserError, match="no image: give"):
        Preprocessing().apply(given)


def test_an_image_below_the_crop_and_a_damaged_one_are_told(tmp_path):
    data = Pictures()
    data.views, data.mean_image, data.crop_size = "posenet", np.zeros((9, 9, 3), np.float32), 20
    with pytest.raises(UserError, match="9x9 pixels is smaller than the crop of 20x20"):
        preprocessing_of(data).apply(np.zeros((30, 30, 3), np.uint8))
    path = write_image(tmp_path, 30, 20, 1)
    path.write_bytes(path.read_bytes()[:-200])
    with Image.open(path) as opened, pytest.raises(UserError, match=r"a\.png"):
        Preprocessing().apply(opened)


def test_a_view_that_steps_cannot_say_is_refused():
    data = Pictures()
    data.views = "mosaic"
    with pytest.raises(UserError, match="--views mosaic cannot be written"):
        preprocessing_of(data)


def changed(values, place, value):
    values = json.loads(json.dumps(values))
    *parents, last = place
    inner = values
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return values


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("upright",), "yes", "neither true nor false"),
        (("steps",), {"kind": "crop"}, "no list"),
        (("steps",), [{"kind": "crop"}] * 9, "at most 8"),
        (("steps", 0, "kind"), "__class__", "none that is known"),
        (("steps", 0, "kind"), ["crop"], "none that is known"),
        (("steps", 0, "filter"), "lanczos", "none that is known"),
        (("steps", 0, "sides"), [10**12, 4], "from 1 to 99999"),
        (("steps", 0, "sides"), [4], "2 numbers"),
        (("steps", 0, "sides"), [4.5, 4], "whole"),
        (("steps", 0, "sides"), [True, 4], "2 numbers"),
        (("trained_size",), [4, "4"], "2 numbers"),
        (("normalisation",), {"mean": [0, 0, 0], "std": [0, 1, 1]}, "std"),
        (("normalisation",), {"mean": [0, 0, float("nan")], "std": [1, 1, 1]}, "mean"),
        (("normalisation",), {"mean": [0, 0, 0]}, "lacks the entry 'std'"),
        (("normalisation",), {"mean_image": {"shape": [4, 4, 3], "sha256": "0"}}, "absent"),
        (("more",), 1, "unknown entry 'more'"),
    ],
)
def test_damaged_descriptions_are_told_in_one_line(place, value, told):
    data = Pictures()
    data.resize = ImageSize(4, 4)
    values = preprocessing_of(data).to_dict()
    with pytest.raises(UserError, match=told) as raised:
        Preprocessing.from_dict(changed(values, place, value), "weights file x")
    assert str(raised.value).startswith("weights file x: preprocessing")


def test_another_mean_image_than_stated_is_refused():
    data = Pictures()
    data.views, data.mean_image, data.crop_size = "posenet", np.ones((5, 5, 3), np.float32), 4
    found = preprocessing_of(data)
    with pytest.raises(UserError, match="another than the file states"):
        Preprocessing.from_dict(found.to_dict(), "file", found.mean_image + 1)
