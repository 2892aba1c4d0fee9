"""check_poses ends with the right exit code; convert_7scenes writes lists that read back, never into the scene."""

from pathlib import Path

import numpy as np
import pytest

from distilplace import datasets
from distilplace.datasets.readers.poses.lists import read_pose_list
from distilplace.datasets.readers.poses.seven_scenes import SevenScenesData
from distilplace.tools import check_poses, convert_7scenes
from tests.miniature_images import utm_name, write_picture
from tests.miniature_poses import write_cambridge, write_seven_scenes


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.DATASETS, "cambridge", "distilplace.datasets.readers.poses.cambridge:CambridgeData")
    monkeypatch.setitem(datasets.DATASETS, "7scenes", "distilplace.datasets.readers.poses.seven_scenes:SevenScenesData")


@pytest.fixture
def chess(tmp_path: Path) -> Path:
    return write_seven_scenes(tmp_path / "chess", size=(16, 12))


def test_check_of_good_and_bad_scenes(tmp_path: Path, chess: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring = write_cambridge(tmp_path / "Ring", size=(16, 9))
    assert check_poses.main(["--dataset", "cambridge", "--dataset_folder", str(ring)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "note: train list: 12 images; no published count for a folder of this name",
        "note: test list: 6 images; no published count for a folder of this name",
        f"{ring}: 0 errors, 0 warnings",
    ]
    assert check_poses.main(["--dataset", "7scenes", "--dataset_folder", str(chess)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{chess}: 0 errors, 3 warnings"  # two counts, and the first pose: not the real chess
    assert len(lines) == len(set(lines))
    (ring / "seq2" / "frame00001.png").unlink()
    assert check_poses.main(["--dataset", "cambridge", "--dataset_folder", str(ring)]) == 1
    assert "error: test list: 1 of 6 images do not exist" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dataset", "folder", "message"),
    [
        ("cambridge", "absent", "does not exist: set --dataset_folder"),
        ("cambrige", ".", "did you mean 'cambridge'?"),
        ("images", ".", "has no camera poses"),
    ],
)
def test_user_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str, folder: str, message: str
) -> None:
    for side in ("database", "queries"):
        write_picture(tmp_path / side / utm_name(1, 2), 1)
    assert check_poses.main(["--dataset", dataset, "--dataset_folder", str(tmp_path / folder)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_converted_lists_hold_the_scenes_poses(tmp_path: Path, chess: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pose = chess / "seq-01" / "frame-000002.pose.txt"
    pose.write_text(pose.read_text().replace("1.0000000e+000", "nan"))
    before = {path: path.read_bytes() for path in chess.rglob("*") if path.is_file()}
    out = tmp_path / "lists"
    assert convert_7scenes.main(["--dataset_folder", str(chess), "--out", str(out)]) == 0
    assert "1 frames left out" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in chess.rglob("*") if path.is_file()} == before
    data = SevenScenesData(chess)
    for part, count in (("train", 11), ("test", 6)):
        listed = read_pose_list(out / f"dataset_{part}.txt")
        assert len(listed.names) == count
        assert all((chess / name).is_file() for name in listed.names)
        expected = data.training_set().poses if part == "train" else data.evaluation_set().poses
        assert expected is not None
        assert np.abs(listed.poses - expected).max() < 2e-9
    assert (listed.poses[:, 3] >= 0).all()
    assert convert_7scenes.main(["--dataset_folder", str(chess), "--out", str(out)]) == 2
    assert "dataset_train.txt exists" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["", "lists", "../chess/seq-01"])
def test_nothing_is_written_into_the_scene(chess: Path, capsys: pytest.CaptureFixture[str], inside: str) -> None:
    assert convert_7scenes.main(["--dataset_folder", str(chess), "--out", str(chess / inside)]) == 2
    assert "where nothing is written" in capsys.readouterr().err
    assert not list(chess.rglob("dataset_*.txt"))
