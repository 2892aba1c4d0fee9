"""Every check finds its fault in a scene that has it, and none in a good one; real scenes pass."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distilplace.datasets.readers.poses.cambridge import SCENES as CAMBRIDGE
from distilplace.datasets.readers.poses.cambridge import CambridgeData
from distilplace.datasets.readers.poses.checks import Finding, check_gravity, check_norms, check_rows, check_scene
from distilplace.datasets.readers.poses.lists import PoseList, read_pose_csv
from distilplace.datasets.readers.poses.seven_scenes import SevenScenesData
from distilplace.datasets.records import PlaceRecord
from tests.miniature_poses import list_text, ring_rows, write_cambridge, write_seven_scenes


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_cambridge(tmp_path / "Ring", size=(16, 9))


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level != "note"]


def test_good_scenes_have_notes_only(scene: Path, tmp_path: Path) -> None:
    chess = write_seven_scenes(tmp_path / "ring", size=(16, 12))
    for data in (CambridgeData(scene), SevenScenesData(chess)):
        findings = check_scene(data)
        assert not bad(findings)
        assert [finding.text.split(";")[0] for finding in findings] == ["train list: 12 images", "test list: 6 images"]


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_header(scene: Path) -> None:
    spoil(scene / "dataset_train.txt", "Visual Landmark Dataset V1", "My Dataset")
    (finding,) = bad(check_scene(CambridgeData(scene)))
    assert finding.level == "warning"
    assert "train list: its header is ['My Dataset'" in finding.text


def test_unreadable_list_is_an_error_and_the_other_part_is_still_checked(scene: Path) -> None:
    spoil(scene / "dataset_train.txt", "seq1/frame00002.png 3", "seq1/frame00002.png x3")
    (scene / "seq2" / "frame00004.png").unlink()
    first, second = bad(check_scene(CambridgeData(scene)))
    assert first.level == second.level == "error"
    assert "dataset_train.txt line 5" in first.text
    assert second.text.startswith("test list: 1 of 6 images do not exist")
    assert "frame00004.png" in second.text


def test_quaternions_that_are_not_unit() -> None:
    listed = PoseList(["a", "b", "c", "d"], np.zeros((4, 7)), np.array([1.0009, 0.9, 1.0011, 1.0]))
    assert check_norms(listed, "train") == [
        Finding("warning", "train list: 2 quaternions are not unit ones, and are normalised; worst: 0.9000 of b")
    ]
    assert not check_norms(listed._replace(norms=np.array([0.9991, 1.0009, 1, 1])), "train")


def test_counts_of_known_scenes_and_rows_twice(tmp_path: Path) -> None:
    folder = write_cambridge(tmp_path / "OldHospital", size=(16, 9))
    text = (folder / "dataset_test.txt").read_text()
    (folder / "dataset_test.txt").write_text(text + text.splitlines()[-1] + "\n")
    assert [finding.text for finding in bad(check_scene(CambridgeData(folder)))] == [
        "train list: 12 images, published are 895",
        "test list: 7 images, published are 182",
        "test list: 1 rows name an image that stood there before",
    ]


def test_overlap_of_sequences_and_images(scene: Path) -> None:
    spoil(scene / "dataset_test.txt", "seq2/frame00001.png", "seq3/frame00001.png")
    findings = bad(check_scene(CambridgeData(scene)))
    assert [finding.text for finding in findings] == [
        "1 images are in both lists, such as seq3/frame00001.png",
        "sequences in both lists: seq3",
    ]
    assert all(finding.level == "error" for finding in findings)


def test_inverted_quaternions_are_seen(scene: Path) -> None:
    rows = [(name, pose * [1, 1, 1, 1, -1, -1, -1]) for name, pose in ring_rows({"seq1": 7, "seq3": 5})]
    (scene / "dataset_train.txt").write_text(list_text(rows))
    (finding,) = bad(check_scene(CambridgeData(scene)))
    assert "quaternions read as world to camera" in finding.text
    assert "are they inverted?" in finding.text


def test_known_row_of_a_moved_list() -> None:
    ((name, row),) = (CAMBRIDGE["ShopFacade"].rows or {}).items()
    record = PlaceRecord(name, "seq1", None, (Path(name),), 0.0, 0.0)
    pose = np.array([row])
    assert not check_rows([record], pose, CAMBRIDGE["ShopFacade"])
    assert not check_rows([record], pose * [1, 1, 1, -1, -1, -1, -1], CAMBRIDGE["ShopFacade"])
    (finding,) = check_rows([record], pose + np.array([3, 4, 0, 0, 0, 0, 0]), CAMBRIDGE["ShopFacade"])
    assert f"{name} lies 5.00 m and 0.0 deg from the published pose" in finding.text
    assert check_rows([record], pose * [1, 1, 1, 1, -1, -1, -1], CAMBRIDGE["ShopFacade"])
    assert not check_rows([record], pose + 5, CAMBRIDGE["Street"])


def test_real_scenes_are_upright_by_their_convention(real_data: Callable[[str], Path]) -> None:
    paths = sorted(real_data("samples/cambridge_7scenes").glob("transposenet/*/*.csv"))
    assert paths
    for path in paths:
        listed = read_pose_csv(path)
        assert not check_gravity(listed, "train", world_to_camera=path.parent.name == "CambridgeLandmarks"), path
        if "KingsCollege" in path.name or "Court" in path.name:
            assert check_gravity(listed, "train", world_to_camera=False)


def test_real_re_issued_list_is_recognised(real_data: Callable[[str], Path]) -> None:
    folder = real_data("samples/cambridge_7scenes") / "v77pt" / "ShopFacade"
    texts = [finding.text for finding in check_scene(CambridgeData(folder))]
    assert "train list: 231 images; as published" in texts
    assert "test list: 103 images; as published" in texts
    assert any("a re-issued list" in text for text in texts)
    assert any("231 of 231 images do not exist" in text for text in texts)
