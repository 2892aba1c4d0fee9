"""KITTI odometry: three protocols against loops over all pairs, section 9's real numbers, and every message."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets.readers.kitti.data import KittiData, earlier_frames, moved_frames
from distilplace.datasets.readers.kitti.layout import read_poses, read_sequence, read_times
from distilplace.datasets.records import positions
from distilplace.datasets.relations import neighbours_within
from tests.miniature_images import AGAIN, LEG, LOOP, write_kitti, write_kitti_lists

FRAMES = LOOP + AGAIN + 2 * LEG


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three sequences with images and scans; read only."""
    return write_kitti(tmp_path_factory.mktemp("kitti"), ("00", "01", "05"), points=60)


@pytest.fixture
def copy(written, tmp_path):
    """Sequences a test may damage."""
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def slow_drive(tmp_path_factory):
    """Five seconds from frame to frame: the map is most of the loop, its end excluded. Neither images nor scans."""
    return write_kitti(tmp_path_factory.mktemp("slow"), ("00",), seconds=5.0, images=False, clouds=False)


def rows_of(tests):
    return [tests.query_sets[1][index][0] for index in range(len(tests.queries[1]))]


def gap(one, other):
    return np.hypot(one.northing - other.northing, one.easting - other.easting)


@pytest.mark.parametrize("radius", [None, 5.0])
def test_protocol_a_by_loops(written, radius):
    data = KittiData(written, eval_radius=radius)
    tests, reach = data.evaluation_set(), radius or 3.0
    tests.require_queries()
    frames, queries = tests.database[0], tests.queries[1]
    assert [record.key for record in frames] == [f"00/{frame:06d}" for frame in range(FRAMES)]
    assert [record.key for record in queries] == [f"00/{frame:06d}" for frame in range(31, FRAMES)]  # one a second
    truth = [[j for j in range(FRAMES) if i - j > 30 and gap(frames[i], frames[j]) <= reach] for i in range(31, FRAMES)]
    assert rows_of(tests) == truth
    assert any(truth)
    assert not all(truth)
    excluded = tests.rules.excluded[0, 1]
    assert [list(row) for row in excluded] == [[j for j in range(FRAMES) if i - j <= 30] for i in range(31, FRAMES)]
    assert (tests.rules.f1_radii, tests.rules.unmatched, tests.radius) == ((reach, 20.0), "skip", reach)
    assert any(f"protocol A, right within {reach:g} m" in note for note in data.notes)
    assert all(record.cloud.is_file() and record.images[0].is_file() for record in frames)


@pytest.mark.parametrize("radius", [None, 20.0])
def test_protocol_b_by_loops(slow_drive, radius):
    tests = KittiData(slow_drive, "B", eval_radius=radius).evaluation_set()
    sequence = read_sequence(slow_drive, "00")
    places = sequence.positions()
    mapped = [i for i in range(FRAMES) if 5.0 * i < 170]
    asked = [
        i for i in range(FRAMES) if 5.0 * i >= 170 and any(np.hypot(*(places[i] - places[j])) <= 5 for j in mapped)
    ]
    assert [record.key for record in tests.database[0]] == [f"00/{i:06d}" for i in mapped]
    assert [record.key for record in tests.queries[1]] == [f"00/{i:06d}" for i in asked]
    reach = radius or 5.0
    assert rows_of(tests) == [
        [k for k, j in enumerate(mapped) if np.hypot(*(places[i] - places[j])) <= reach] for i in asked
    ]
    assert all(rows_of(tests))


def test_standing_frames_are_dropped():
    places = np.array([[0, 0], [0.05, 0], [0.09, 0], [0.1, 0], [0.15, 0.05], [0.3, 0], [0.3, 0]])
    assert moved_frames(places, 0.1).tolist() == [0, 3, 5]


def test_protocol_c_reads_the_published_lists(copy):
    matches = {0: [3, 0, 1], 2: [2]}
    write_kitti_lists(copy, range(0, 40, 10), range(40, 52, 4), matches)
    data = KittiData(copy, "C")
    tests = data.evaluation_set()
    assert rows_of(tests) == [[0, 1, 3], [], [2]]
    assert [record.key for record in tests.database[0]] == [f"00/{i:06d}" for i in (0, 10, 20, 30)]
    assert [record.key for record in tests.queries[1]] == [f"00/{i:06d}" for i in (40, 44, 48)]
    assert (tests.radius, tests.rules.excluded, tests.rules.f1_radii) == (25.0, {}, None)
    write_kitti_lists(copy, range(0, 40, 10), range(88, 92), {0: [0, 9]})
    with pytest.raises(UserError, match=r"query_samp10\.pickle: entry 0: key 0 must list database indices 0\.\.3"):
        KittiData(copy, "C")
    write_kitti_lists(copy, range(0, 40, 10), range(90, 94), {})
    with pytest.raises(UserError, match=rf"entry 2: frame 000092, but the sequence has {FRAMES} frames"):
        KittiData(copy, "C")
    (copy / "KITTI_00_query_samp10.pickle").unlink()
    with pytest.raises(UserError, match=r"holds 0 files KITTI_00_query\*\.pickle"):
        KittiData(copy, "C")


def test_the_other_sequences_train_far_apart(written):
    data = KittiData(written)
    training = data.training_set()
    assert len(training) == 2 * FRAMES
    assert {record.run for record in training.records} == {"01", "05"}
    places = positions(training.records)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert gaps[:FRAMES, FRAMES:].min() > 1000
    own = read_sequence(written, "05").positions()
    assert np.allclose(places[FRAMES:] - places[FRAMES], own - own[0])
    for i in range(2 * FRAMES):
        assert training.positives[i].tolist() == [j for j in range(2 * FRAMES) if gaps[i, j] <= 3 and i != j]
        assert training.non_negatives[i].tolist() == [j for j in range(2 * FRAMES) if gaps[i, j] <= 20]
    assert training.queries is None
    one = KittiData(written, kitti_sequence="05", kitti_train_sequences=["00"]).training_set()
    assert {record.run for record in one.records} == {"00"}
    assert not {r.key for r in training.records} & {r.key for r in data.evaluation_set().distinct_records()}


def test_forward_is_north_and_right_is_east(copy):
    """Camera 0 looks along z, x is to its right, y down: height is no part of a position."""
    poses = copy / "poses" / "01.txt"
    rows = [line.split() for line in poses.read_text().splitlines()]
    for number, row in enumerate(rows):
        row[3], row[7], row[11] = f"{number * 2.0}", f"{1000.0 + number}", f"{number * -3.0}"
    poses.write_text("\n".join(" ".join(row) for row in rows))
    records = [record for record in KittiData(copy).training_set().records if record.run == "01"]
    assert [record.northing for record in records] == pytest.approx([number * -3.0 for number in range(FRAMES)])
    easting = records[0].easting
    assert [record.easting - easting for record in records] == pytest.approx([number * 2.0 for number in range(FRAMES)])


def test_images_and_scans_are_read_alike(written):
    data = KittiData(written, kitti_sequence="05")
    assert data.image_size == (120, 37)
    assert any("sizes 120x37, 122x37, 124x37 are resized" in note for note in data.notes)
    for name in ("00", "05"):
        assert data.read_image(written / "sequences" / name / "image_2" / "000000.png").size == (120, 37)
    path = written / "sequences" / "00" / "velodyne" / "000003.bin"
    raw = np.fromfile(path, dtype="<f4").reshape(-1, 4)
    assert np.array_equal(data.read_cloud(path), raw[:, :3])


def test_large_scans_give_the_same_points_every_time(tmp_path, written):
    path = tmp_path / "000000.bin"
    np.random.default_rng(0).uniform(-80, 80, (123389, 4)).astype("<f4").tofile(path)  # a real scan's size
    data = KittiData(written)
    points = data.read_cloud(path)
    assert points.shape == (4096, 3)
    assert np.array_equal(points, data.read_cloud(path))
    whole = np.fromfile(path, dtype="<f4").reshape(-1, 4)
    assert len(whole) == 123389
    assert {tuple(point) for point in points.tolist()} <= {tuple(point) for point in whole[:, :3].tolist()}


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory):
    """Sequence 00's real poses and times in KITTI's layout, in the dataset/ folder that the archives unpack."""
    source = real_data("samples/kitti")
    folder = tmp_path_factory.mktemp("real")
    (folder / "dataset" / "sequences" / "00").mkdir(parents=True)
    (folder / "dataset" / "poses").mkdir()
    shutil.copy(source / "KITTI_00_gt.txt", folder / "dataset" / "poses" / "00.txt")
    shutil.copy(source / "KITTI_00_gt_times.txt", folder / "dataset" / "sequences" / "00" / "times.txt")
    return folder


def revisits(places, times, radius, gap=30.0):
    """Was a frame's place passed before, within ``radius`` metres, more than ``gap`` seconds earlier?"""
    near = neighbours_within(places, places, radius)
    return np.array([(row < count).any() for row, count in zip(near, earlier_frames(times, gap), strict=True)])


def test_real_counts(real):
    """spec-datasets 9: rows, path lengths, last time, revisits in three dimensions and in the plane."""
    sequence = read_sequence(real / "dataset", "00")
    assert (len(sequence), sequence.identity_first()) == (4541, False)
    assert sequence.times[-1] == pytest.approx(470.5816, abs=5e-5)
    counts = {}
    for name, places, length in (("3-D", sequence.poses[:, :, 3], 3724.19), ("plane", sequence.positions(), 3722.27)):
        assert np.linalg.norm(np.diff(places, axis=0), axis=1).sum() == pytest.approx(length, abs=0.005)
        counts[name] = [int(revisits(places, sequence.times, radius).sum()) for radius in (3, 4, 5, 10)]
    assert counts == {"3-D": [774, 791, 804, 911], "plane": [776, 791, 804, 912]}


def test_real_protocols(real):
    data = KittiData(real)
    tests = data.evaluation_set()
    assert sum(map(bool, rows_of(tests))) == 776
    assert "sequence 00 has no image_2 and no velodyne folder" in data.notes
    with pytest.raises(UserError, match=r"no sequence to train on .* than 00"):
        data.training_set()
    tests = KittiData(real, "B").evaluation_set()
    assert (len(tests.database[0]), len(tests.queries[1])) == (1620, 621)  # what the rule gives on the real poses


def test_a_look_alike_of_a_sequence_is_pointed_out(written, copy):
    """Poses that another program estimated begin with an exact identity, the published ones do not."""
    assert not any("exact identity" in note for note in KittiData(written).notes)
    poses = read_poses(copy / "poses" / "00.txt")
    poses[0] = np.eye(3, 4)
    np.savetxt(copy / "poses" / "00.txt", poses.reshape(len(poses), 12))
    assert any("poses of 00 begin with an exact identity" in note for note in KittiData(copy, eval_radius=50).notes)


@given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.floats(0.5, 20), st.integers(0, 8))
@settings(deadline=None, max_examples=30)
def test_revisits_by_loops(seed, width, radius, lag):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 40))
    places = random.uniform(-10, 10, (count, width))
    times = np.cumsum(random.integers(0, 4, count)).astype(
        float
    )  # whole seconds: gaps that are just not exceeded occur
    slow = [
        any(times[i] - times[j] > lag and np.linalg.norm(places[i] - places[j]) <= radius for j in range(count))
        for i in range(count)
    ]
    assert revisits(places, times, radius, gap=lag).tolist() == slow


def edit(path, line, change):
    lines = path.read_text().splitlines()
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines) + "\n")


def column(number, value):
    return lambda line: " ".join([*line.split()[:number], value, *line.split()[number + 1 :]])


@pytest.mark.parametrize(
    ("file", "line", "change", "said"),
    [
        ("poses/00.txt", 3, lambda line: line + " 1", r"00\.txt line 3: 13 numbers, expected 12"),
        ("poses/00.txt", 3, lambda line: "", r"00\.txt line 3: 0 numbers, expected 12"),
        ("poses/00.txt", 4, column(0, "-1"), r"00\.txt line 4: the rotation's determinant is -0\."),
        ("poses/00.txt", 1, column(5, "2"), r"00\.txt line 1: the rotation's determinant is 2\.000, not 1"),
        ("poses/00.txt", 5, column(3, "nan"), r"00\.txt line 5: nan is not finite"),
        ("poses/00.txt", 5, column(3, "1,5"), r"00\.txt line 5: '1,5' is no number \(a decimal comma"),
        ("sequences/00/times.txt", 6, lambda line: "3.5", r"times\.txt line 6: 3\.5 s comes after 4 s"),
        ("sequences/00/times.txt", 6, lambda line: "5\n5", r"times\.txt has 93 rows, .*00\.txt 92"),
    ],
)
def test_bad_numbers_are_named_by_line(copy, file, line, change, said):
    edit(copy / file, line, change)
    with pytest.raises(UserError, match=said) as caught:
        KittiData(copy)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files_are_named(copy):
    home = copy / "sequences" / "00"
    scan = home / "velodyne" / "000007.bin"
    content = scan.read_bytes()
    scan.write_bytes(content[:-4])
    with pytest.raises(UserError, match=r"000007\.bin: 956 bytes are no whole number of points"):
        KittiData(copy)
    scan.rename(home / "velodyne" / "000099.bin")
    (home / "velodyne" / "000099.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"velodyne has no file 000007\.bin"):
        KittiData(copy)
    (home / "velodyne" / "000099.bin").unlink()
    with pytest.raises(UserError, match=rf"velodyne holds 91 files \(\.bin\) for {FRAMES} poses"):
        KittiData(copy)
    shutil.rmtree(home / "velodyne")
    (home / "image_2" / "000001.png").unlink()
    with pytest.raises(UserError, match="image_2 holds 91 files"):
        KittiData(copy)
    Image.new("RGB", (124, 37)).save(home / "image_2" / "000001.jpg")
    data = KittiData(copy)
    assert all(record.cloud is None and record.images for record in data.evaluation_set().distinct_records())
    assert "sequence 00 has no velodyne folder" in data.notes
    (home / "times.txt").write_text("")
    with pytest.raises(UserError, match=r"times\.txt is empty"):
        KittiData(copy)
    (copy / "poses" / "00.txt").unlink()
    with pytest.raises(UserError, match=r"00\.txt does not exist"):
        KittiData(copy)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kitti_protocol": "D"}, "--kitti_protocol must be A, B or C, not 'D'"),
        ({"kitti_sequence": "07"}, r"sequences/07 does not exist: check --kitti_sequence"),
        ({"kitti_train_sequences": ["01", "00"]}, "names 00, which is tested"),
        ({"kitti_train_sequences": ["01", "03"]}, r"03 not there \(with poses: 00, 01, 05\)"),
        ({"eval_radius": -1.0}, "--eval_radius must be a positive"),
        ({"positive_radius": 21.0}, "--positive_radius 21 exceeds --negative_radius 20"),
        ({"kitti_protocol": "B"}, "no frame after 170 s lies within 5 m of the map"),
    ],
)
def test_bad_settings_are_refused(written, given, said):
    with pytest.raises(UserError, match=said):
        KittiData(written, **given)


def test_a_short_drive_and_a_wrong_folder_are_refused(tmp_path):
    short = write_kitti(tmp_path / "short", ("00",), seconds=0.1, images=False, clouds=False)
    with pytest.raises(UserError, match=r"lasts 9\.1 s: protocol A retrieves frames more than 30 s old"):
        KittiData(short)
    with pytest.raises(UserError, match="holds no sequences/ folder"):
        KittiData(tmp_path)
    assert read_times(short / "sequences" / "00" / "times.txt")[-1] == pytest.approx(9.1)
