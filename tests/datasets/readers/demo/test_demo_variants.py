"""The generated world's other questions: poses are those the camera had, landmarks and clips recomputed by loops.

The world is made by the generator itself, with a camera that writes its pose into the picture instead of rendering.
"""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.datasets.loading import PlaceItems, training_loader
from distilplace.datasets.readers.demo.data import ORIGIN, VERSION, generate
from distilplace.datasets.readers.demo.variants import CLIP_LENGTH, camera_poses, clips_of, nearest_landmarks
from distilplace.datasets.readers.poses.quaternions import matrices_from_quaternions
from distilplace.datasets.records import PlaceRecord
from distilplace.datasets.sampling.batches import PairBatchSampler
from distilplace.demoworld.camera import CameraPose
from distilplace.demoworld.layout import make_layout

PLACES, TRAIN_RUNS, TEST_RUNS = 40, 3, 3


class WritingCamera:
    """Draws nothing: the first 16 pixels are the pose, six float64."""

    def __init__(self, *_: object) -> None:
        pass

    def frame(self, pose: CameraPose, random: np.random.Generator) -> np.ndarray:
        numbers = np.array([*pose.position.astype(float), pose.heading, pose.pitch, pose.roll])
        frame = np.full((120, 160, 3), random.integers(256), dtype=np.uint8)
        frame[0, :16] = np.frombuffer(numbers.tobytes(), np.uint8).reshape(16, 3)
        return frame


def camera_of(record: PlaceRecord) -> CameraPose:
    """The pose written into an image."""
    with Image.open(record.images[0]) as opened:
        numbers = np.frombuffer(np.asarray(opened)[0, :16].tobytes(), "<f8")
    return CameraPose(numbers[:3].astype(np.float32), *numbers[3:].tolist())


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of worlds with the one that ``settings`` names."""
    folder = tmp_path_factory.mktemp("worlds")
    town = SimpleNamespace(seed=1, route=make_layout(1).route, lamps=None)
    scanner = SimpleNamespace(submap=lambda *_: np.zeros((1, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilplace.common.open3d_loader.import_open3d", lambda: None)
        patch.setattr("distilplace.demoworld.town.make_town", lambda _: town)
        for name in ("traversal_mesh", "Scene"):
            patch.setattr(f"distilplace.demoworld.traversal.{name}", lambda *_: None)
        patch.setattr("distilplace.demoworld.traversal.Camera", WritingCamera)
        patch.setattr("distilplace.demoworld.traversal.Scanner", lambda *_: scanner)
        generate(folder / f"v{VERSION}-seed1-{PLACES}x{TRAIN_RUNS}+{TEST_RUNS}", 1, PLACES, TRAIN_RUNS, TEST_RUNS)
    return folder


@pytest.fixture
def settings(worlds: Path) -> dict[str, object]:
    return {"dataset_folder": worlds, "places": PLACES, "train_runs": TRAIN_RUNS, "test_runs": TEST_RUNS}


def where(record: PlaceRecord) -> np.ndarray:
    return np.array([record.northing, record.easting])


def apart(first: PlaceRecord, second: PlaceRecord) -> float:
    return float(np.linalg.norm(where(first) - where(second)))


def test_poses_are_those_of_the_camera_that_took_the_image(settings):
    data = create_dataset("demo_poses", **settings)
    training, test = data.training_set(), data.evaluation_set()
    assert (len(training), len(test.records)) == (PLACES * TRAIN_RUNS, PLACES * TEST_RUNS)
    assert not {r.key for r in training.records} & {r.key for r in test.records}
    assert training.layout == "items"
    records, poses = [*training.records, *test.records], np.concatenate([training.poses, test.poses])
    turns = matrices_from_quaternions(poses[:, 3:])
    assert poses.shape == (len(records), 7)
    assert poses.dtype == np.float64
    assert np.allclose(np.linalg.norm(poses[:, 3:], axis=1), 1, atol=1e-12)
    for record, pose, turn in zip(records, poses, turns, strict=True):
        camera = camera_of(record)
        assert np.abs(pose[:3] - camera.position).max() < 1e-6
        ahead = [math.cos(camera.heading) * math.cos(camera.pitch), math.sin(camera.heading) * math.cos(camera.pitch)]
        assert np.allclose(turn[2], [*ahead, math.sin(camera.pitch)], atol=1e-6)
        forward, right, up = camera.axes()
        for across, high in ((0.0, 0.0), (0.7, 0.1), (-0.3, -0.5)):  # where a ray of the renderer meets the image plane
            x, y, z = turn @ (7 * (forward + across * right + high * up))
            assert z == pytest.approx(7, abs=1e-5)
            assert (x / z, y / z) == pytest.approx((across, -high), abs=1e-6)


def test_positions_are_small_and_the_scanned_place_lies_ahead(settings):
    data = create_dataset("demo_poses", **settings)
    training = data.training_set()
    turns = matrices_from_quaternions(training.poses[:, 3:])
    assert np.abs(training.poses[:, :2]).max() < 200
    assert ((training.poses[:, 2] > 1.5) & (training.poses[:, 2] < 1.8)).all()
    for record, pose, turn in zip(training.records, training.poses, turns, strict=True):
        middle = np.array([record.easting - ORIGIN[1], record.northing - ORIGIN[0], 1.65])
        x, y, z = turn @ (middle - pose[:3])
        assert 3 < z < 11
        assert abs(y) < 1
        assert abs(x) < 8  # around a corner


def test_signs_of_quaternions_agree_on_every_street(settings):
    training = create_dataset("demo_poses", **settings).training_set()
    headings = np.array([camera_of(record).heading for record in training.records])
    for i, j in zip(*np.nonzero(np.cos(headings[:, None] - headings[None]) > 0.99), strict=True):
        if min(abs(math.cos(h - math.radians(225)) - 1) for h in headings[[i, j]]) > 0.05:  # not towards south-west
            assert training.poses[i, 3:] @ training.poses[j, 3:] > 0.9


def test_the_end_of_every_traversal_is_held_out(settings):
    data = create_dataset("demo_poses", **settings)
    everything = data.training_set()
    kept, held = data.validation_split(0.2)
    order = {record.key: number for number, record in enumerate(everything.records)}
    ends = [n for n, record in enumerate(everything.records) if n % PLACES >= PLACES * 0.8]
    assert sorted(order[record.key] for record in held.records) == ends
    assert len(kept) + len(held.records) == len(everything)
    for record, pose in [*zip(kept.records, kept.poses, strict=True), *zip(held.records, held.poses, strict=True)]:
        assert pose.tolist() == everything.poses[order[record.key]].tolist()


def test_pose_images_lose_the_training_images_mean(settings, caplog):
    caplog.set_level("INFO", logger="distilplace")
    data = create_dataset("demo_poses", **settings)
    training = data.training_set()
    frames = [np.asarray(Image.open(record.images[0]), dtype=float) for record in training.records]
    mean = np.mean(frames, axis=0)
    items = PlaceItems(data, training.records, wants={"images"}, quantize=None, augment=False, seed=0)
    expected = (frames[5] - mean)[4:116, 24:136].transpose(2, 0, 1)
    assert np.allclose(items[5]["images"].numpy(), expected, atol=1e-3)
    assert items[5]["images"].shape == (3, 112, 112)
    assert any("mean image" in record.getMessage() for record in caplog.records)
    assert any("demo world" in note for note in data.notes)


def test_images_of_another_world_have_no_pose(settings):
    records = create_dataset("demo_poses", **settings).training_set().records
    for seed, places in ((2, PLACES), (1, PLACES + 1)):
        with pytest.raises(UserError, match=f"not of the demo world {seed} with {places} places"):
            camera_poses(records, seed, places)


def test_stamps_rounded_otherwise_are_found(settings, tmp_path):
    data = create_dataset("demo_poses", **settings)
    record, pose = data.training_set().records[7], data.training_set().poses[7]
    stamp = int(record.images[0].stem)
    near, far = (
        PlaceRecord(record.key, record.run, None, (tmp_path / f"{stamp + off}.png",), 0, 0) for off in (1, 5000)
    )
    assert camera_poses([near], 1, PLACES)[0].tolist() == pose.tolist()
    with pytest.raises(UserError, match="made again"):
        camera_poses([far], 1, PLACES)


def test_training_landmarks_are_the_places_of_the_first_traversal(settings):
    data = create_dataset("demo_landmarks", **settings)
    training = data.training_set()
    places = create_dataset("demo", **settings).training_set().records
    landmarks = [place for place in places if place.run == places[0].run]
    members: dict[int, list[str]] = {}
    for place in places:
        distances = [apart(place, landmark) for landmark in landmarks]
        if min(distances) <= 10:
            members.setdefault(int(np.argmin(distances)), []).append(place.key)
    expected = {frozenset(keys) for keys in members.values() if len(keys) > 1}
    found: dict[int, set[str]] = {}
    for record, group in zip(training.records, training.groups.tolist(), strict=True):
        found.setdefault(group, set()).add(record.key)
    assert {frozenset(keys) for keys in found.values()} == expected
    assert sorted(found) == list(range(len(expected)))
    assert len(expected) > PLACES * 0.8
    assert training.layout == "groups"
    for i, record in enumerate(training.records):
        same = [j for j, group in enumerate(training.groups) if group == training.groups[i] and j != i]
        assert training.positives[i].tolist() == same
        near = [j for j, other in enumerate(training.records) if apart(record, other) <= 50]
        assert training.non_negatives[i].tolist() == near
        assert set(same) < set(near)


def test_places_belong_to_the_nearest_landmark_within_its_radius():
    first, later = [0.0, 40.0], [10.0, 10.1, 29.9, 30.0, 21.0, -9.0]
    records = [PlaceRecord(f"a{north}", "a", None, (), north, 0) for north in first]
    records += [PlaceRecord(f"b{north}", "b", None, (), north, 0) for north in later]
    assert nearest_landmarks(records, 10.0).tolist() == [0, 1, 0, -1, -1, 1, -1, 0]


def test_landmark_answers_are_graded_by_distance(settings):
    truth = create_dataset("demo_landmarks", **settings).evaluation_set()
    runs = create_dataset("demo", **settings).evaluation_set().database
    assert [r.key for r in truth.queries] == [r.key for r in runs[0]]
    assert [r.key for r in truth.database] == [r.key for run in runs[1:] for r in run]
    assert all(len(rows) == PLACES for rows in (truth.easy, truth.hard, truth.junk))
    for i, query in enumerate(truth.queries):
        distances = [apart(query, place) for place in truth.database]
        for rows, low, high in ((truth.easy, -1, 5), (truth.hard, 5, 25), (truth.junk, 25, 35)):
            assert rows[i].tolist() == [j for j, distance in enumerate(distances) if low < distance <= high]
            assert rows[i].dtype == np.int64
    for rows in (truth.easy, truth.hard, truth.junk):
        assert sum(map(len, rows)) > PLACES // 2  # each is asked about


def test_a_single_traversal_has_no_landmark_seen_twice(settings, monkeypatch):
    data = create_dataset("demo_landmarks", **settings)
    monkeypatch.setattr("distilplace.datasets.readers.demo.variants.LANDMARK_RADIUS", 0.0)
    with pytest.raises(UserError, match="no place is seen twice"):
        data.training_set()


def test_clips_are_pieces_of_some_five_places():
    for count in range(1, 70):
        run = [PlaceRecord(str(i), "run", None, (), 0, 0) for i in range(count)]
        clips = clips_of(run)
        assert [record for clip in clips for record in clip] == run
        assert all(len(clip) in (4, 5, 6) for clip in clips) or count < 2 * CLIP_LENGTH
        assert max(map(len, clips)) - min(map(len, clips)) <= 1


def test_videos_are_labelled_by_stretch(settings):
    truth = create_dataset("demo_videos", **settings).evaluation_set()
    runs = create_dataset("demo", **settings).evaluation_set().database
    truth.require_queries()
    stretches: dict[str, tuple[int, int]] = {}  # video -> traversal, stretch
    for name, frames in truth.videos.items():
        (run,) = {record.run for record in frames}
        number = next(n for n, places in enumerate(runs) if places[0].run == run)
        order = [record.key for record in runs[number]]
        at = [order.index(record.key) for record in frames]
        assert at == list(range(at[0], at[0] + CLIP_LENGTH))
        stretches[name] = number, at[0] // CLIP_LENGTH
    count = PLACES // CLIP_LENGTH
    assert sorted(stretches.values()) == [(run, stretch) for run in range(TEST_RUNS) for stretch in range(count)]
    assert [stretches[query] for query in truth.queries] == [(0, stretch) for stretch in range(0, count, 2)]
    for query, labels in zip(truth.queries, truth.labels, strict=True):
        for name, (run, stretch) in stretches.items():
            off = (stretch - stretches[query][1]) % count
            expected = None if run == 0 or off not in (0, 1, count - 1) else int(off == 0)
            assert labels.get(name) == expected
    labelled = {name for labels in truth.labels for name in labels}
    assert set(truth.unlabelled) == set(stretches) - labelled - set(truth.queries)
    assert len(truth.unlabelled) == count // 2


def test_the_same_stretch_is_nearest(settings):
    truth = create_dataset("demo_videos", **settings).evaluation_set()
    middle = {name: np.mean([where(record) for record in frames], axis=0) for name, frames in truth.videos.items()}
    for query, labels in zip(truth.queries, truth.labels, strict=True):
        distance = {name: np.linalg.norm(middle[query] - middle[name]) for name in middle}
        right = [distance[name] for name, label in labels.items() if label]
        wrong = [distance[name] for name, label in labels.items() if not label]
        assert max(right) < min([*wrong, *(distance[name] for name in truth.unlabelled)])


def test_every_training_image_trains_in_two_views(settings):
    data = create_dataset("demo_videos", **settings)
    training = data.training_set()
    everything = create_dataset("demo", **settings).training_set()
    assert [record.key for record in training.records] == [record.key for record in everything.records]
    assert training.layout == "views"


@pytest.mark.parametrize("name", ["demo_landmarks", "demo_videos"])
def test_images_alone_are_loaded(settings, name):
    data = create_dataset(name, **settings)
    training = data.training_set()
    sampler = PairBatchSampler(training, 4, seed=0)
    wants = {"wants": {"images"}, "quantize": None}
    loader = training_loader(data, training, sampler=sampler, num_workers=0, seed=0, **wants)
    assert next(iter(loader))["images"].shape == (4, 3, 112, 112)
    clean = PlaceItems(data, training.records, augment=False, seed=0, **wants)
    assert clean[0]["images"].shape == ((3, 112, 112) if name == "demo_videos" else (3, 120, 160))
    with pytest.raises(UserError, match="no cloud"):
        PlaceItems(data, training.records, wants={"coords"}, quantize=lambda *_: None, augment=False, seed=0)
