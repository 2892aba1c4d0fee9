"""SVD in miniature: pools, frames and training relations against loops; missing videos; damaged lists."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.loading import PlaceItems
from distilplace.datasets.readers.landmarks.svd import SVDData
from distilplace.datasets.readers.landmarks.svd_lists import read_frame_counts, read_ground_truth, read_video_ids
from distilplace.datasets.records import PlaceRecord
from tests.miniature_landmarks import FRAMES, TEST, TRAIN, UNLABELLED, write_svd


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The miniature, written once: read only."""
    return write_svd(tmp_path_factory.mktemp("svd"))


@pytest.fixture
def folder(written, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(written, tmp_path / "svd")


def test_queries_pools_and_frames(written):
    data = SVDData(written)
    tests = data.evaluation_set()
    tests.require_queries()
    assert tests.queries == list(TEST)
    assert [dict(row) for row in tests.labels] == list(TEST.values())
    assert tests.unlabelled == UNLABELLED
    assert set(tests.videos) == {*TEST, *(video for row in TEST.values() for video in row), *UNLABELLED}
    for video, frames in tests.videos.items():
        assert [r.images[0] for r in frames] == [written / "frames" / video / f"{k:04d}.jpg" for k in range(FRAMES)]
        assert all(r.images[0].is_file() for r in frames)
    assert len(tests.distinct_records()) == 33 * FRAMES
    assert (tests.name, tests.similarity, data.views, data.metric_positions) == ("svd", "fmx", "svd", False)
    assert "test_groundtruth: 3 queries, 10 pairs, 5 near-duplicates (published: 206" in " ".join(data.notes)
    assert "20 unlabelled videos (published: 526787)" in data.notes
    assert not any("left out" in note or "are not in" in note for note in data.notes)


@pytest.mark.parametrize(
    ("frames", "stride", "expected"), [(60, 1, range(8)), (3, 1, range(3)), (60, 3, (0, 3, 6)), (5, 2, (0, 2, 4))]
)
def test_sampled_frames(written, frames, stride, expected):
    tests = SVDData(written, svd_frames=frames, svd_stride=stride).evaluation_set()
    for video, records in tests.videos.items():
        assert [r.images[0].name for r in records] == [f"{k:04d}.jpg" for k in expected]
        assert [r.key for r in records] == [f"videos/{video}/{k:04d}" for k in expected]


def test_frames_are_counted_where_no_file_tells(folder):
    (folder / "num_frames").unlink()
    (folder / "frames" / "701" / "0007.jpg").unlink()
    (folder / "frames" / "701" / "thumbnail.jpg").write_bytes(b"")
    data = SVDData(folder)
    tests = data.evaluation_set()
    assert [len(tests.videos[video]) for video in ("701", "702")] == [7, 8]
    assert f"numbers of frames: files in {folder / 'frames'}" in data.notes
    (folder / "frames" / "701" / "0003.jpg").unlink()
    with pytest.raises(UserError, match=r"701 are not numbered 0000\.jpg, 0001\.jpg"):
        SVDData(folder).evaluation_set()


def test_counts_win_and_may_stand_elsewhere(folder):
    (folder / "num_frames").unlink()
    videos = [path.name for path in (folder / "frames").iterdir()]
    (folder / "metadata-release" / "frame_count.txt").write_text("".join(f"{video}.mp4 2\n" for video in videos))
    tests = SVDData(folder).evaluation_set()
    assert {len(frames) for frames in tests.videos.values()} == {2}


def test_missing_videos_are_left_out(folder):
    for video in ("702", "801", "802", "810", "905", "651"):
        shutil.rmtree(folder / "frames" / video)
    counts = (folder / "num_frames").read_text().replace("906 8", "906 0")
    (folder / "num_frames").write_text(counts)
    data = SVDData(folder)
    tests = data.evaluation_set()
    assert tests.queries == ["703"]  # 702 has no frames; both near-duplicates of 701 lack them
    assert tests.labels == [{"807": 1, "808": 1, "809": 0}]
    assert tests.unlabelled == [video for video in UNLABELLED if video not in ("905", "906")]
    notes = "\n".join(data.notes)
    for text in (
        "1 of 3 queries have no frames",
        "3 of 7 labelled candidates have no frames",
        "2 of 20 unlabelled videos have no frames",
        "1 queries are left out: none of their near-duplicates has frames",
    ):
        assert text in notes
    training = data.training_set()
    assert len(training) == 7
    assert any("1 of 8 training videos have no frames" in note for note in data.notes)


def test_labelled_videos_are_not_unlabelled_too(folder):
    path = folder / "metadata-release" / "unlabeled-data-id"
    path.write_text(path.read_text() + "701.mp4\n804.mp4\n")
    data = SVDData(folder)
    assert data.evaluation_set().unlabelled == UNLABELLED
    assert any(note.startswith("2 unlabelled videos are labelled") for note in data.notes)


def test_training_relations_by_loops(written):
    training = SVDData(written).training_set()
    videos = [video for query, row in TRAIN.items() for video in (query, *row)]
    assert [r.key for r in training.records] == [f"training/{video}" for video in videos]
    for record, video in zip(training.records, videos, strict=True):
        assert list(record.images) == [written / "frames" / video / f"{k:04d}.jpg" for k in range(FRAMES)]
    groups = [{query, *(video for video, label in row.items() if label)} for query, row in TRAIN.items()]
    for i, one in enumerate(videos):
        duplicates = [
            j
            for j, other in enumerate(videos)
            if TRAIN.get(one, {}).get(other) == 1 or TRAIN.get(other, {}).get(one) == 1
        ]
        near = [j for j, other in enumerate(videos) if other == one or any({one, other} <= group for group in groups)]
        assert training.positives[i].tolist() == duplicates
        assert training.non_negatives[i].tolist() == near
        assert training.positives[i].dtype == training.non_negatives[i].dtype == np.int64
    assert training.layout == "views"


def test_training_draws_one_frame_an_epoch(written):
    """Every frame's turn comes, and the drawn one repeats for equal epochs."""
    data = SVDData(written)
    data.views = "place"
    records = data.training_set().records[:1]
    items = PlaceItems(data, records, wants={"images"}, quantize=None, augment=True, seed=0)
    opened = []
    read, data.read_image = data.read_image, lambda path: opened.append(path.name) or read(path)
    for epoch in [*range(40), 0]:
        items.set_epoch(epoch)
        items[0]
    assert set(opened) == {f"{k:04d}.jpg" for k in range(FRAMES)}
    assert opened[0] == opened[40]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("701.mp4 801.mp4", r"line 2: expected 3 field\(s\), found 2"),
        ("701.mp4 801.mp4 2", "line 2: the label must be 0 or 1, not '2'"),
        ("701.mp4 ../x 1", "line 2: '../x' is no video name"),
        ("701.mp4 701.mp4 1", "line 2: video 701 is paired with itself"),
        ("700.mp4 800.mp4 0", "line 2: the pair 700 800 has the other label"),
    ],
)
def test_damaged_truth_names_the_line(tmp_path, line, message):
    path = tmp_path / "test_groundtruth"
    path.write_text(f"700.mp4 800.mp4 1\n{line}\n")
    with pytest.raises(UserError, match=message) as caught:
        read_ground_truth(path)
    assert str(path) in str(caught.value)


def test_truth_keeps_the_order_of_the_file(tmp_path):
    path = tmp_path / "test_groundtruth"
    path.write_text("9.mp4 5.mp4 0\r\n2.mp4 5.mp4 1\n\n9.mp4 1.mp4 1\n9.mp4 1.mp4 1\n")
    truth = read_ground_truth(path)
    assert [(query, list(row.items())) for query, row in truth.items()] == [
        ("9", [("5", 0), ("1", 1)]),
        ("2", [("5", 1)]),
    ]


def test_damaged_lists_name_the_line(tmp_path):
    path = tmp_path / "list"
    path.write_text("1.mp4\n2.avi\n")
    with pytest.raises(UserError, match=r"list, line 2: '2\.avi' is no video name"):
        read_video_ids(path)
    path.write_text("1 8\n2 many\n")
    with pytest.raises(UserError, match="list, line 2: 'many' is no number of frames"):
        read_frame_counts(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="list is empty"):
        read_video_ids(path)
    path.write_bytes(b"\xff\xfe1.mp4\n")
    with pytest.raises(UserError, match="is UTF-16 text"):
        read_video_ids(path)
    path.write_text("3.mp4\n1.mp4\n3.mp4\n")
    assert read_video_ids(path) == ["3", "1"]


def test_refusals(folder):
    for settings, message in (
        ({"svd_frames": 0}, "--svd_frames must be a number of frames from 1 on"),
        ({"svd_stride": -1}, "--svd_stride must be"),
        ({"svd_similarity": "fmz"}, "unknown --svd_similarity 'fmz': did you mean"),
    ):
        with pytest.raises(UserError, match=message):
            SVDData(folder, **settings)
    (folder / "metadata-release" / "query-id").write_text("1.mp4\n")
    data = SVDData(folder)
    data.evaluation_set()
    assert "test_groundtruth: 3 of 3 videos are not in query-id" in data.notes
    (folder / "metadata-release" / "test_groundtruth").unlink()
    with pytest.raises(UserError, match="no list test_groundtruth"):
        data.evaluation_set()
    shutil.rmtree(folder / "frames")
    with pytest.raises(UserError, match=r"frame folder .* does not exist"):
        SVDData(folder)
    (folder / "frames").mkdir()
    with pytest.raises(UserError, match="no frame of any of the 8 training videos"):
        SVDData(folder).training_set()


def test_a_whitening_is_fitted_on_random_frames_of_every_training_video(tmp_path):
    """Whiten_MTD's svd_pca_learn.py: up to 60 random frames of each video, every one an image of its own."""
    videos = [
        PlaceRecord(f"training/v{count}", "training", None, tuple(Path(f"{k:04d}.jpg") for k in range(count)), 0.0, 0.0)
        for count in (3, 200)
    ]
    found = SVDData.whitening_records(None, videos, seed=7)
    assert [len(frame.images) for frame in found] == [1] * 63
    assert [frame.key for frame in found[:3]] == [f"training/v3/{k:04d}" for k in range(3)]
    numbers = [int(frame.images[0].stem) for frame in found[3:]]
    assert numbers == sorted(set(numbers))
    assert max(numbers) > 100  # not the first sixty
    assert SVDData.whitening_records(None, videos, seed=7) == found
    assert SVDData.whitening_records(None, videos, seed=8) != found
