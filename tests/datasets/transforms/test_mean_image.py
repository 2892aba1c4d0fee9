"""The mean image: computed once in the size images have, stored, read back, refused when it does not fit."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets.io.images import ImageSize
from distilplace.datasets.readers.poses.cambridge import CambridgeData
from distilplace.datasets.transforms.mean_image import mean_image_file, read_mean_image
from tests.miniature_images import write_picture
from tests.miniature_poses import write_cambridge


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_cambridge(tmp_path / "Ring", train={"seq1": 3}, test={"seq2": 1}, size=(48, 27))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Lines of the log."""
    monkeypatch.setattr(logging.getLogger("distilplace"), "propagate", True)
    caplog.set_level(logging.INFO, logger="distilplace")
    return caplog


def slow_mean(folder: Path, size: tuple[int, int]) -> np.ndarray:
    """Over the training images only, pixel by pixel; ``size`` is width, height."""
    total = np.zeros((size[1], size[0], 3))
    paths = sorted(folder.glob("seq1/*.png"))
    for path in paths:
        with Image.open(path) as image:
            total += np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    return total / len(paths)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_computed_once_and_stored_beside_the_lists(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(scene)
    data = CambridgeData(scene)
    assert contents(scene) == before  # nothing is read or written until it is needed
    mean = data.mean_image
    assert mean is not None
    assert (mean.dtype, mean.shape) == (np.float32, (256, 455, 3))
    assert np.abs(mean - slow_mean(scene, (455, 256))).max() < 1e-4
    stored = np.load(scene / "mean_image.npy", allow_pickle=False)
    assert np.array_equal(stored, mean)
    assert {name: data for name, data in contents(scene).items() if name != "mean_image.npy"} == before
    monkeypatch.setattr(
        "distilplace.datasets.readers.poses.data.compute_mean_image", lambda *_: pytest.fail("computed again")
    )
    assert data.mean_image is mean
    again = CambridgeData(scene)
    assert np.array_equal(again.mean_image, mean)  # type: ignore[arg-type]
    assert again.notes == []


def test_follows_the_size_images_are_given(scene: Path) -> None:
    data = CambridgeData(scene)
    for size, shape in (
        (ImageSize(18, 32), (18, 32, 3)),
        (ImageSize(9), (9, 16, 3)),
        (None, (27, 48, 3)),
    ):
        data.resize = size
        mean = data.mean_image
        assert mean is not None
        assert mean.shape == shape
        assert np.abs(mean - slow_mean(scene, (shape[1], shape[0]))).max() < 1e-4
        assert (scene / f"mean_image_{shape[0]}x{shape[1]}.npy").is_file()
    assert not (scene / "mean_image.npy").exists()


def test_no_mean_image_for_other_views(scene: Path) -> None:
    data = CambridgeData(scene)
    data.views = "place"
    assert data.mean_image is None
    assert not list(scene.glob("*.npy"))


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
def test_a_given_file_is_used(scene: Path, tmp_path: Path, dtype: str) -> None:
    given = np.full((256, 455, 3), 117, dtype)
    np.save(tmp_path / "mine.npy", given)
    data = CambridgeData(scene, mean_image_path=str(tmp_path / "mine.npy"))
    assert data.mean_image is not None
    assert data.mean_image.dtype == np.float32
    assert (data.mean_image == 117).all()
    assert not (scene / "mean_image.npy").exists()


def test_a_given_folder_takes_what_is_computed_and_the_log_says_so(scene: Path, tmp_path: Path, log) -> None:
    (tmp_path / "means").mkdir()
    for given, found in ((tmp_path / "means", tmp_path / "means/mean_image_9x16.npy"), (None, scene)):
        data = CambridgeData(scene, mean_image_path=given)
        data.resize = ImageSize(9, 16)
        mean = data.mean_image
        assert mean is not None
        found = mean_image_file(found, (9, 16)) if found.is_dir() else found
        assert np.array_equal(read_mean_image(found, (9, 16)), mean)
        assert log.messages[-1] == f"mean image computed from 3 images -> {found}"
        assert given is None or not list(scene.glob("*.npy"))


@pytest.mark.parametrize("given", ["absent.npy", "absent/mean.npy", "file/mean.npy"])
def test_a_given_name_that_does_not_exist_is_refused_and_nothing_is_written(scene: Path, tmp_path: Path, given) -> None:
    (tmp_path / "file").write_text("")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=f"--mean_image_path .*{given} does not exist: omit it to have one computed"):
        _ = CambridgeData(scene, mean_image_path=tmp_path / given).mean_image
    assert contents(tmp_path) == before


def test_kept_in_memory_where_it_cannot_be_written(scene: Path, log) -> None:
    (scene / "mean_image_9x16.npy" / "in the way").mkdir(parents=True)
    (scene / "mean_image_9x16.npy" / "mean_image_9x16.npy").mkdir()
    data = CambridgeData(scene)
    data.resize = ImageSize(9, 16)
    mean = data.mean_image
    assert mean is not None
    assert np.abs(mean - slow_mean(scene, (16, 9))).max() < 1e-4
    assert data.mean_image is mean
    assert log.messages[-1].startswith("mean image computed from 3 images -> kept in memory: ")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((256, 455), np.float32), r"holds float32 \(256, 455\), but images are 256x455"),
        (np.zeros((455, 256, 3), np.float32), r"\(455, 256, 3\)"),
        (np.full((256, 455, 3), np.nan), "outside 0..255"),
        (np.full((256, 455, 3), 256.0), "outside 0..255"),
        (np.full((256, 455, 3), -0.5), "outside 0..255"),
        (np.zeros((256, 455, 3), complex), "holds complex128"),
        (np.full((1,), {}, dtype=object), r"no plain \.npy array"),
    ],
)
def test_unfit_files_are_refused(scene: Path, array: np.ndarray, message: str) -> None:
    np.save(scene / "mean_image.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        _ = CambridgeData(scene).mean_image


def test_damaged_file_is_refused(scene: Path) -> None:
    (scene / "mean_image.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(UserError, match=r"mean_image.npy is no plain .npy array"):
        _ = CambridgeData(scene).mean_image


def test_images_of_different_size_have_no_mean(scene: Path) -> None:
    write_picture(scene / "seq1" / "frame00003.png", 1, size=(30, 27))
    data = CambridgeData(scene)
    data.resize = ImageSize(9)
    with pytest.raises(UserError, match=r"frame00003.png is 10x9 .* --image_size 256x455"):
        _ = data.mean_image
    assert not list(scene.glob("*.npy"))


def test_an_absent_image_is_named(scene: Path) -> None:
    (scene / "seq1" / "frame00002.png").unlink()
    with pytest.raises(UserError, match=r"frame00002.png does not exist"):
        _ = CambridgeData(scene).mean_image
    assert not list(scene.glob("*.npy"))


def test_one_of_other_images_is_computed_again_and_a_given_one_is_kept(scene: Path, log) -> None:
    small = ImageSize(9, 16)

    def mean() -> np.ndarray:
        data = CambridgeData(scene)
        data.resize = small
        assert data.mean_image is not None
        return data.mean_image

    first = mean()
    assert np.array_equal(mean(), first)
    assert "computed before from the same images" in log.messages[-1]
    write_picture(scene / "seq1" / "frame00002.png", 99, size=(48, 27))
    second = mean()
    assert "computed again" in log.messages[-2]
    assert np.abs(second - slow_mean(scene, (16, 9))).max() < 1e-4
    assert not np.array_equal(second, first)
    np.save(scene / "mean_image_9x16.npy", first)
    assert np.array_equal(mean(), first)
    assert "a given file" in log.messages[-1]


def test_a_computed_one_whose_bytes_changed_is_refused(scene: Path) -> None:
    data = CambridgeData(scene)
    data.resize = ImageSize(9, 16)
    assert data.mean_image is not None
    path = scene / "mean_image_9x16.npy"
    assert np.load(path, allow_pickle=False).shape == (9, 16, 3)  # as everybody else reads it
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(bytes(content))
    again = CambridgeData(scene)
    again.resize = ImageSize(9, 16)
    with pytest.raises(UserError, match="damaged: remove it"):
        _ = again.mean_image
