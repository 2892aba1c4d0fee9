"""Everything a user can get wrong in a folder of frames, and in the settings for it, is named in one line."""

import shutil

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from tests.miniature_frames import straight, write_run

RADII = {"positive_radius": 3.0, "negative_radius": 10.0, "eval_radius": 5.0}


def test_an_image_that_is_none_is_named(tmp_path):
    run = write_run(tmp_path / "run", straight(120, 2.0))
    (run / "image_left" / "0000000000.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"image_left/0000000000\.png cannot be decoded"):
        create_dataset("frames", dataset_folder=tmp_path, **RADII)


def _edited(run, change):
    path = run / "poses.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def _cell(line, column, value):
    def change(lines):
        words = lines[line - 1].split(",")
        words[column] = value
        return [*lines[: line - 1], ",".join(words), *lines[line:]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0].replace("easting", "east"), *lines[1:]], r"line 1: column\(s\) easting missing"),
        (_cell(5, 2, "nan"), "line 5: easting of frame 0000000006 is 'nan'"),
        (_cell(5, 3, "1,5"), "line 5: 9 values for 8 columns"),
        (_cell(6, 1, "soon"), "line 6: timestamp of frame 0000000008 is 'soon'"),
        (_cell(6, 7, ""), "line 6: yaw of frame 0000000008 is ''"),
        (_cell(4, 0, "0000000002"), "line 4: frame 0000000002 is already on line 3"),
        (_cell(4, 0, "9999"), r"line 4: frame 9999 has no file image_left/9999\(\.jpg, \.jpeg, \.png, "),
        (_cell(4, 0, "../0000000004"), "line 4: frame '../0000000004' is no file name"),
        (lambda lines: lines[:1], "a header but no row"),
        (lambda lines: [], "column"),
    ],
)
def test_bad_poses_are_named_by_file_and_line(tmp_path, change, said):
    run = write_run(tmp_path / "run", straight(120, 2.0))
    _edited(run, change)
    with pytest.raises(UserError, match=said) as caught:
        create_dataset("frames", dataset_folder=tmp_path, **RADII)
    assert str(run / "poses.csv") in str(caught.value)


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="--dataset_folder"):
        create_dataset("frames", dataset_folder=tmp_path / "absent")
    with pytest.raises(UserError, match="neither it nor one of its 0 folders"):
        create_dataset("frames", dataset_folder=tmp_path)
    run = write_run(tmp_path / "run", straight(120, 2.0))
    (run / "poses.csv").write_bytes(b"\xff\xfe\x00frame")
    with pytest.raises(UserError, match="UTF-8"):
        create_dataset("frames", dataset_folder=tmp_path, **RADII)
    run = write_run(tmp_path / "other" / "run", straight(120, 2.0))
    (run / "cloud" / "0000000004.bin").unlink()
    with pytest.raises(UserError, match=r"line 4: frame 0000000004 has no file cloud/0000000004"):
        create_dataset("frames", dataset_folder=tmp_path / "other", **RADII)
    np.save(run / "cloud" / "0000000004.npy", np.ones((3, 3)))
    create_dataset("frames", dataset_folder=tmp_path / "other", **RADII)
    np.save(run / "cloud" / "0000000006.npy", np.ones((3, 3)))
    with pytest.raises(UserError, match=r"two files for frame 0000000006: 0000000006\.bin and 0000000006\.npy"):
        create_dataset("frames", dataset_folder=tmp_path / "other", **RADII)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "poses.csv", bare)
    with pytest.raises(UserError, match="neither an image_<camera> nor a cloud folder"):
        create_dataset("frames", dataset_folder=bare, **RADII)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"positive_radius": 12.0}, "--positive_radius 12 exceeds --negative_radius 10"),
        ({"eval_radius": 0.0}, "--eval_radius must be a positive number"),
        ({"negative_radius": float("inf")}, "--negative_radius must be a positive number"),
        ({"positive_radius": 1.0}, r"--positive_radius 1 m of each other: raise it above 2\.0 m"),
        ({"eval_radius": 1.5}, r"--eval_radius 1\.5 m: raise it above 2\.0 m"),
        ({"frames_map": "global"}, "--frames_map must be one of auto, shared, local"),
        ({"image_lidar_k": 0}, "--image_lidar_k must be at least 1"),
        ({"quantization_size": 0.0}, "--quantization_size must be a positive"),
        ({"n_points": 0}, "--n_points must be at least 1"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, said):
    write_run(tmp_path / "run", straight(120, 2.0), points=5)
    with pytest.raises(UserError, match=said):
        create_dataset("frames", dataset_folder=tmp_path, **(RADII | settings))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_frames_is_refused_with_the_numbers(tmp_path, count):
    write_run(tmp_path / "run", straight(2.0 * count, 2.0), points=5)
    with pytest.raises(UserError, match=rf"run run \({count} frames, {2.0 * (count - 1):.1f} m\) leaves"):
        create_dataset("frames", dataset_folder=tmp_path, **RADII)


def test_a_standing_robot_is_refused(tmp_path):
    write_run(tmp_path / "run", np.zeros((40, 2)), points=5)
    with pytest.raises(UserError, match=r"40 frames, 0\.0 m.*record a longer run"):
        create_dataset("frames", dataset_folder=tmp_path, **RADII)
