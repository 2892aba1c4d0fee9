"""Pose lists: read what was written, odd but legal forms, every refusal names file and line; the real files."""

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.datasets.readers.poses.cambridge import SCENES as CAMBRIDGE
from distilplace.datasets.readers.poses.lists import HEADER, read_pose_csv, read_pose_list, write_pose_list
from distilplace.datasets.readers.poses.quaternions import angles_between, matrices_from_quaternions
from distilplace.datasets.readers.poses.seven_scenes import SCENES as SEVEN_SCENES

HEAD = "\n".join(HEADER) + "\n"
SAMPLES = "samples/cambridge_7scenes"
UNIT = "1 0 0 0"


def written(folder: Path, body: str, head: str = HEAD) -> Path:
    path = folder / "dataset_train.txt"
    path.write_bytes((head + body).encode())
    return path


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("seq1/a.png 1 2 3 1 0 0 0", "seq1/a.png"),
        ("  seq1/a.png  1 2\t3   1 0 0 0  ", "seq1/a.png"),
        ("my run/a b.png 1 2 3 1 0 0 0", "my run/a b.png"),
        ("my  run/3 4/a.png 1.0e+000 2e0 +3 1 0 0 0", "my  run/3 4/a.png"),
        ("D:\\x\\a.png 1 2 3 1 0 0 0\r", "D:\\x\\a.png"),
        ("12 1 2 3 1 0 0 0", "12"),
    ],
)
def test_one_row_in_any_legal_form(tmp_path: Path, line: str, name: str) -> None:
    listed = read_pose_list(written(tmp_path, line))
    assert listed.names == [name]
    assert listed.poses.dtype == np.float64
    assert listed.poses.tolist() == [[1, 2, 3, 1, 0, 0, 0]]


def test_windows_text_with_mark_and_blank_lines(tmp_path: Path) -> None:
    body = f"\na.png 1 2 3 {UNIT}\n\n \nb.png 4 5 6 {UNIT}\n\n"
    listed = read_pose_list(written(tmp_path, body.replace("\n", "\r\n"), "\ufeff" + HEAD.replace("\n", "\r\n")))
    assert listed.names == ["a.png", "b.png"]
    assert listed.header == HEADER


def test_quaternions_are_normalised_their_sign_kept(tmp_path: Path) -> None:
    listed = read_pose_list(written(tmp_path, "a.png 1 2 3 -2 0 0 0\nb.png 1 2 3 0 0.3 0 0.4\n"))
    assert np.allclose(listed.poses[:, 3:], [[-1, 0, 0, 0], [0, 0.6, 0, 0.8]], atol=1e-15)
    assert listed.norms.tolist() == [2, 0.5]


@pytest.mark.parametrize(
    ("body", "head", "message"),
    [
        (f"a.png 1 2 3 {UNIT}\nb.png 1 2 3 1 0 0\n", HEAD, "line 5: 7 fields, expected a path and 7 numbers"),
        (f"b.png 9 1 2 3 {UNIT}\n", HEAD, "line 4: 9 fields, expected a path and 7 numbers"),
        ("a.png 1 2 x 1 0 0 0\n", HEAD, "line 4: 'x' is no number"),
        ("a.png 1 2 nan 1 0 0 0\n", HEAD, "line 4: nan is not finite"),
        (f"a.png 1 -inf 2 {UNIT}\n", HEAD, "line 4: -inf is not finite"),
        ("a.png 1 2 3 1 0 1e999 0\n", HEAD, "line 4: 1e999 is not finite"),
        (f"a.png 1 2 3 {UNIT}\nb.png 1 2 3 0 0 0 -0\n", HEAD, "line 5: the quaternion is zero"),
        ("\n", HEAD, "holds no pose after its 3 header lines"),
        (f"a.png 1 2 3 {UNIT}\n", "", "line 1 is a pose, but a list begins with 3 header lines"),
        (f"a.png 1 2 3 {UNIT}\n", "title\ncolumns\n", "line 3 is a pose"),
        ("a.png\n", HEAD, "line 4: 1 fields"),
    ],
)
def test_bad_lists_are_refused_with_file_and_line(tmp_path: Path, body: str, head: str, message: str) -> None:
    path = written(tmp_path, body, head)
    with pytest.raises(UserError) as caught:
        read_pose_list(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset_train.txt does not exist"):
        read_pose_list(tmp_path / "dataset_train.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_pose_list(tmp_path)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UserError, match="is UTF-16 text"):
        read_pose_list(tmp_path / "b.txt")


names = st.text(st.sampled_from("ab7. /_-é"), min_size=1, max_size=12)
numbers = st.floats(-1e4, 1e4)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(names, numbers, numbers, st.integers(0, 99)), min_size=1, max_size=4))
def test_written_lists_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple]) -> None:
    path = tmp_path_factory.mktemp("lists") / "sub" / "dataset_test.txt"
    quaternion = np.random.default_rng(rows[0][3]).normal(size=4)
    poses = np.array([[x, y, 0.5, *(quaternion / np.linalg.norm(quaternion))] for _, x, y, _ in rows])
    chosen = [name for name, *_ in rows]
    try:
        write_pose_list(path, chosen, poses)
    except UserError:  # a number after a blank, blanks at the ends
        assert not path.exists()
        assert any(name != name.strip() or " " in name for name in chosen)
        return
    listed = read_pose_list(path)
    assert listed.names == chosen
    assert np.allclose(listed.poses, poses, rtol=0, atol=2e-9)
    assert path.read_text().split("\n")[:3] == list(HEADER)


def test_csv_needs_its_columns_by_name(tmp_path: Path) -> None:
    path = tmp_path / "poses.csv"
    path.write_text("q1,q2,q3,q4,extra,img_path,t3,t2,t1\n2,0,0,0,x,s/a.png,3,2,1\n")
    listed = read_pose_csv(path)
    assert listed.names == ["s/a.png"]
    assert listed.poses.tolist() == [[1, 2, 3, 1, 0, 0, 0]]
    path.write_text("img_path,t1,t2,t3,q1,q2,q3\n")
    with pytest.raises(UserError, match=r"column\(s\) q4 missing"):
        read_pose_csv(path)
    path.write_text("img_path,t1,t2,t3,q1,q2,q3,q4\na,1,2,3,1,0,0,0\nb,1,2,3,1,0,0\n")
    with pytest.raises(UserError, match="line 3: 7 values for 8 columns"):
        read_pose_csv(path)


def real_csv(folder: Path, scene: str, part: str) -> Path | None:
    """A published table; None where this copy of the samples keeps it back."""
    return next(iter(folder.glob(f"transposenet/*/*csv_{scene}_{part}.csv")), None)


def test_real_scenes_have_the_stated_counts(real_data: Callable[[str], Path]) -> None:
    read = 0
    for (name, scene), part in product({**CAMBRIDGE, **SEVEN_SCENES}.items(), ("train", "test")):
        if (path := real_csv(real_data(SAMPLES), name, part)) is None:
            continue
        listed = read_pose_csv(path)
        assert len(listed.names) == scene.count("train" if part == "train" else "test"), path
        assert len(set(listed.names)) == len(listed.names), path
        assert np.abs(np.linalg.norm(listed.poses[:, 3:], axis=1) - 1).max() < 1e-14, path
        assert (np.abs(listed.norms - 1).max() > 1e-3) == (name in ("StMarysChurch", "Street")), path
        read += 1
    assert read


def test_real_known_rows(real_data: Callable[[str], Path]) -> None:
    for scene, part in (("KingsCollege", "test"), ("ShopFacade", "test"), ("chess", "train")):
        if (path := real_csv(real_data(SAMPLES), scene, part)) is None:
            continue
        listed = read_pose_csv(path)
        ((name, row),) = ({**CAMBRIDGE, **SEVEN_SCENES}[scene].rows or {}).items()
        pose = listed.poses[listed.names.index(f"{scene}/{name}")]
        assert np.abs(pose[:3] - row[:3]).max() < 1e-6, scene
        assert float(angles_between(pose[3:], np.array(row[3:]))) < 1e-3, scene


def test_real_kings_college_turns_from_the_world_into_the_camera(real_data: Callable[[str], Path]) -> None:
    poses = read_pose_csv(
        real_data(f"{SAMPLES}/transposenet/CambridgeLandmarks/abs_cambridge_pose_sorted.csv_KingsCollege_test.csv")
    ).poses
    matrices = matrices_from_quaternions(poses[:, 3:])
    assert np.linalg.norm(matrices[:, 1, :].mean(0)) > 0.98
    assert np.linalg.norm(matrices[:, :, 1].mean(0)) < 0.8
    assert matrices[:, 1, 2].mean() < -0.97  # down is against the world's z


def test_real_text_list(real_data: Callable[[str], Path]) -> None:
    folder = real_data(SAMPLES) / "v77pt" / "ShopFacade"
    train, test = (read_pose_list(folder / f"dataset_{part}.txt") for part in ("train", "test"))
    assert (len(train.names), len(test.names)) == (231, 103)
    assert test.names[0].endswith("ShopFacade/seq3/frame00008.png")
    assert np.allclose(test.poses[0, :3], (236.9956, -1.865558, 204.774))
    assert math.isclose(test.poses[0, 3], 0.920050, abs_tol=1e-5)
