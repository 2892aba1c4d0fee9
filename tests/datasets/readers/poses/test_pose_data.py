"""Cambridge and 7-Scenes: records, poses by each set's convention, the held-out part, re-issued lists, bad files."""

import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.io.images import ImageSize
from distilplace.datasets.readers.poses.cambridge import CambridgeData
from distilplace.datasets.readers.poses.data import inside_scene, validation_indices
from distilplace.datasets.readers.poses.lists import HEADER
from distilplace.datasets.readers.poses.quaternions import matrices_from_quaternions
from distilplace.datasets.readers.poses.seven_scenes import SevenScenesData, read_pose_matrix, read_split
from distilplace.datasets.records import PlaceRecord
from tests.miniature_poses import RADIUS, list_text, ring_rows, write_cambridge, write_seven_scenes


@pytest.fixture(scope="module")
def cambridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return write_cambridge(tmp_path_factory.mktemp("poses") / "Ring")


@pytest.fixture(scope="module")
def chess(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return write_seven_scenes(tmp_path_factory.mktemp("poses") / "Chess")


@pytest.fixture
def chess_copy(chess: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(chess, tmp_path / "chess"))


@pytest.mark.parametrize("kind", ["cambridge", "chess"])
def test_every_image_is_one_item_with_its_pose(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    data = CambridgeData(folder) if kind == "cambridge" else SevenScenesData(folder)
    training, test = data.training_set(), data.evaluation_set()
    assert (training.layout, len(training), len(test.records)) == ("items", 12, 6)
    assert training.poses is not None
    assert training.poses.shape == (12, 7)
    assert training.poses.dtype == test.poses.dtype == np.float64
    assert [row.tolist() for row in training.positives] == [[]] * 12
    assert [row.tolist() for row in training.non_negatives] == [[i] for i in range(12)]
    assert all(row.dtype == np.int64 for row in (*training.positives, *training.non_negatives))
    keys = [entry.key for entry in (*training.records, *test.records)]
    assert len(set(keys)) == 18
    assert all(entry.images[0].is_file() and entry.cloud is None for entry in (*training.records, *test.records))
    test.require_queries()
    assert np.abs(np.linalg.norm(training.poses[:, 3:], axis=1) - 1).max() < 1e-14
    assert (data.views, data.metric_positions, data.resize) == ("posenet", False, ImageSize(256, 455))
    assert data.image(test.records[0].images[0]).size == (455, 256)


def test_a_table_stands_in_for_an_absent_list(cambridge: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cambridge, tmp_path / "Ring"))
    listed = CambridgeData(folder).training_set()
    lines = ["img_path,t1,t2,t3,q1,q2,q3,q4"]
    for place, pose in zip(listed.records, listed.poses, strict=True):
        lines.append(",".join([place.images[0].relative_to(folder).as_posix(), *map(str, pose)]))
    (folder / "poses_train.csv").write_text("\n".join(lines) + "\n")
    (folder / "dataset_train.txt").unlink()
    found = CambridgeData(folder).training_set()
    assert [place.images for place in found.records] == [place.images for place in listed.records]
    np.testing.assert_allclose(found.poses, listed.poses, rtol=0, atol=1e-12)
    assert len(SevenScenesData(folder).training_set()) == 12
    (folder / "more_train.csv").write_text("")
    with pytest.raises(UserError, match=r"dataset_train\.txt does not exist"):
        CambridgeData(folder).training_set()


def test_cambridge_turns_into_the_camera_seven_scenes_out_of_it(cambridge: Path, chess: Path) -> None:
    """Both rings look at their middle: from every centre the camera's z axis points there."""
    for data, up in ((CambridgeData(cambridge), 2), (SevenScenesData(chess), 1)):
        poses = data.training_set().poses
        assert poses is not None
        matrices = matrices_from_quaternions(poses[:, 3:])
        ahead = matrices[:, 2, :] if data.world_to_camera else matrices[:, :, 2]
        flat = np.delete(poses[:, :3], up, axis=1)
        assert np.allclose(np.linalg.norm(flat, axis=1), RADIUS, atol=1e-5)
        assert np.allclose(np.delete(ahead, up, axis=1), -flat / RADIUS * np.cos(0.2), atol=1e-5)


def test_positions_and_quaternions_are_those_of_the_matrices(chess: Path) -> None:
    data = SevenScenesData(chess)
    training = data.training_set()
    assert training.poses is not None
    assert [entry.run for entry in training.records] == ["seq-01"] * 8 + ["seq-03"] * 4
    for entry, pose in zip(training.records, training.poses, strict=True):
        path = entry.images[0]
        matrix = np.loadtxt(str(path).replace(".color.png", ".pose.txt"))
        assert np.array_equal(pose[:3], matrix[:3, 3])
        assert np.abs(matrices_from_quaternions(pose[3:]) - matrix[:3, :3]).max() < 1e-6
        assert pose[3] >= 0


def test_frames_without_a_finite_pose_are_left_out_and_counted(chess_copy: Path) -> None:
    for frame, word in ((2, "NaN"), (5, "-1.#IND000e+000"), (7, "inf")):
        path = chess_copy / "seq-01" / f"frame-{frame:06d}.pose.txt"
        path.write_text(path.read_text().replace("1.0000000e+000", word))
    data = SevenScenesData(chess_copy)
    kept = [entry.key for entry in data.training_set().records if entry.run == "seq-01"]
    assert kept == [f"seq-01/frame-{frame:06d}.color.png" for frame in (0, 1, 3, 4, 6)]
    data.training_set()
    assert [note for note in data.notes if "left out" in note] == [
        "train part: 3 frames left out, their poses are not finite"
    ]
    assert "train list: 9 images, published are 4000" in data.notes


def test_own_lists_where_the_splits_are_absent(chess_copy: Path) -> None:
    for split in ("TrainSplit.txt", "TestSplit.txt"):
        (chess_copy / split).unlink()
    with pytest.raises(UserError, match=r"neither TrainSplit.txt nor dataset_train.txt"):
        SevenScenesData(chess_copy).training_set()
    rows = [("Chess/seq-01/frame-000003.color.png", np.array([1.0, 2, 3, 1, 0, 0, 0]))]
    (chess_copy / "dataset_train.txt").write_text(list_text(rows))
    (record,) = SevenScenesData(chess_copy).training_set().records
    assert record.key == "seq-01/frame-000003.color.png"
    assert record.images[0].is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 0", "holds 3 numbers, expected a 4x4 matrix"),
        ("a " + "1 " * 15, "'a' is no number: expected a 4x4 matrix"),
        ("1 0 0 0 0 1 0 0 0 0 -1 0 0 0 0 1", "a reflection"),
        ("1 0 0 0 0 1 0 0 0 0 2 0 0 0 0 1", "not orthonormal"),
        ("1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 2", "the last row"),
    ],
)
def test_bad_matrices_are_refused_with_their_file(chess_copy: Path, text: str, message: str) -> None:
    (chess_copy / "seq-03" / "frame-000001.pose.txt").write_text(text)
    with pytest.raises(UserError, match=r"seq-03/frame-000001.pose.txt") as caught:
        SevenScenesData(chess_copy).training_set()
    assert message in str(caught.value)


def test_incomplete_sequences_are_refused(chess_copy: Path) -> None:
    (chess_copy / "seq-03" / "frame-000001.color.png").unlink()
    with pytest.raises(UserError, match=r"has frame-000001.pose.txt, but no frame-000001.color.png"):
        SevenScenesData(chess_copy).training_set()
    shutil.rmtree(chess_copy / "seq-03")
    (chess_copy / "seq-03.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"seq-03 does not exist: unpack .*seq-03.zip"):
        SevenScenesData(chess_copy).training_set()
    assert len(SevenScenesData(chess_copy).evaluation_set().records) == 6


def test_split_lines(tmp_path: Path) -> None:
    path = tmp_path / "TrainSplit.txt"
    path.write_text("sequence1 \r\nSequence12\n\nseq-03\n4\n")
    assert read_split(path) == ["seq-01", "seq-12", "seq-03", "seq-04"]
    twice = "sequence1\nseq-01\n"
    for text, message in (("frames\n", "line 1: 'frames'"), (twice, "line 2.*twice"), ("\n", "is empty")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_split(path)


def test_matrix_text_of_odd_forms(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text(" 9.9e-001\t 0 0\t0\n0 1E+000\n 0 0 0 0 1 0 0 0 0 1.#QNAN\t\r\n")
    found = read_pose_matrix(path)
    assert found[0, 0] == 0.99
    assert np.isnan(found[3, 3])
    assert np.isfinite(found).sum() == 15


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.99])
def test_held_out_is_the_end_of_every_sequence(cambridge: Path, fraction: float) -> None:
    data = CambridgeData(cambridge)
    everything = data.training_set()
    result = data.validation_split(fraction)
    assert result is not None
    training, held = result
    assert training.poses is not None
    assert everything.poses is not None
    for run in ("seq1", "seq3"):
        names = [entry.key for entry in everything.records if entry.run == run]
        out = [entry.key for entry in held.records if entry.run == run]
        count = min(max(1, round(fraction * len(names))), len(names) - 1)
        assert out == names[len(names) - count :]
        assert [entry.key for entry in training.records if entry.run == run] == names[: len(names) - count]
    pose_of = {entry.key: pose for entry, pose in zip(everything.records, everything.poses.tolist(), strict=True)}
    for records, poses in ((training.records, training.poses), (held.records, held.poses)):
        assert [pose_of[entry.key] for entry in records] == poses.tolist()
    assert [row.tolist() for row in training.non_negatives] == [[i] for i in range(len(training))]
    assert training.layout == "items"
    assert not {entry.key for entry in held.records} & {entry.key for entry in data.evaluation_set().records}


def test_held_out_goes_by_frame_not_by_row() -> None:
    """Real lists are not sorted (ShopFacade)."""
    order = [3, 0, 4, 1, 2]
    records = [PlaceRecord(f"s/{k}", "s", None, (Path(f"s/frame{k:05d}.png"),), 0.0, 0.0) for k in order]
    assert [order[i] for i in validation_indices(records, 0.4)] == [3, 4]
    assert validation_indices(records[:1], 0.5).tolist() == []


def test_nothing_held_out(cambridge: Path, tmp_path: Path) -> None:
    data = CambridgeData(cambridge)
    assert data.validation_split(0.0) is None
    for fraction in (-0.1, 1.0):
        with pytest.raises(UserError, match="--val_fraction"):
            data.validation_split(fraction)
    assert CambridgeData(write_cambridge(tmp_path, train={"a": 1, "b": 1})).validation_split(0.5) is None


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("seq1/a.png", "seq1/a.png"),
        ("./seq1/a.png", "seq1/a.png"),
        ("seq1\\a.png", "seq1/a.png"),
        ("ring/seq1/a.png", "seq1/a.png"),
        ("D:/x/ShopFacade/seq2/a.png", "seq2/a.png"),
        ("D:\\x\\Ring\\deep\\seq2\\a b.png", "deep/seq2/a b.png"),
        ("/home/you/RING/a.png", "a.png"),
        ("/home/you/data/seq4/a.png", "seq4/a.png"),
        ("a.png", "a.png"),
    ],
)
def test_paths_of_lists(tmp_path: Path, name: str, inside: str) -> None:
    assert inside_scene(tmp_path / "Ring", name) == PurePosixPath(inside)


def test_a_folder_of_the_scenes_own_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / "Ring" / "Ring").mkdir(parents=True)
    assert inside_scene(tmp_path / "Ring", "Ring/a.png") == PurePosixPath("Ring/a.png")


def test_reissued_lists_find_their_images(tmp_path: Path) -> None:
    folder = write_cambridge(tmp_path / "Ring")
    rows = ring_rows({"seq1": 7})
    elsewhere = tmp_path / "other" / "x.png"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"")
    moved = [(f"D:/_git/Ring/{name}", pose) for name, pose in rows] + [(str(elsewhere), rows[0][1])]
    (folder / "dataset_train.txt").write_text(list_text(moved))
    data = CambridgeData(folder)
    records = data.training_set().records
    assert [entry.key for entry in records[:7]] == [name for name, _ in rows]
    assert records[7].images == (elsewhere,)
    assert all(entry.images[0].is_file() for entry in records)
    assert data.notes == [f"train list: 7 absolute paths of another machine, looked for in {folder}"]


def test_one_row_and_names_with_blanks(tmp_path: Path) -> None:
    folder = write_cambridge(tmp_path / "my scene", train={"seq 1": 1}, test={"seq 2": 1})
    data = CambridgeData(folder)
    assert [entry.key for entry in data.training_set().records] == ["seq 1/frame00001.png"]
    assert data.evaluation_set().poses.shape == (1, 7)


def test_published_counts_are_compared_by_folder_name(tmp_path: Path) -> None:
    data = CambridgeData(write_cambridge(tmp_path / "kingscollege"))
    data.training_set()
    data.evaluation_set()
    data.training_set()
    assert data.notes == [
        "train list: 12 images, published are 1220",
        "test list: 6 images, published are 343",
    ]


def test_absent_folder_and_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set --dataset_folder"):
        CambridgeData(None)
    with pytest.raises(UserError, match="does not exist: set --dataset_folder"):
        SevenScenesData(tmp_path / "absent")
    with pytest.raises(UserError, match=r"dataset_test.txt does not exist"):
        CambridgeData(tmp_path).evaluation_set()
    (tmp_path / "dataset_test.txt").write_text("\n".join(HEADER) + "\nx\n")
    with pytest.raises(UserError, match=r"dataset_test.txt line 4"):
        CambridgeData(tmp_path).evaluation_set()


def test_real_re_issued_list(real_data: Callable[[str], Path]) -> None:
    data = CambridgeData(real_data("samples/cambridge_7scenes") / "v77pt" / "ShopFacade")
    training, test = data.training_set(), data.evaluation_set()
    assert (len(training), len(test.records)) == (231, 103)
    assert {entry.run for entry in training.records} == {"seq2"}
    assert {entry.run for entry in test.records} == {"seq1", "seq3"}
    held = data.validation_split(0.1)
    assert held is not None
    assert [entry.images[0].name for entry in sorted(held[1].records, key=lambda entry: entry.key)] == [
        f"frame{number:05d}.png" for number in range(209, 232)
    ]
