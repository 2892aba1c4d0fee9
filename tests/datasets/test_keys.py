"""One key, one input: runs keep the name of their link, and equal keys are refused with both files named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distilplace import train
from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.datasets.readers.frames.image_folder import ImagesData
from distilplace.datasets.records import EvaluationSet, PlaceRecord, TrainingSet, require_one_input_per_key
from tests.miniature_frames import straight, write_run
from tests.miniature_images import numbered, write_images, write_truth


def record(key: str, image: str, **values) -> PlaceRecord:
    return PlaceRecord(key, "run", None, (Path(image),), 0.0, 0.0, **values)


A, B = record("run/1", "a/1.png"), record("run/1", "b/1.png")
NONE = [np.empty(0, dtype=np.int64)]


def in_training(records):
    return TrainingSet(records, NONE * len(records), NONE * len(records))


def in_runs(records):
    return EvaluationSet("set", ["a", "b"], [records[:1], []], [[], records[1:]], [{}, {}], 1.0)


def in_poses(records):
    return PoseSet("set", records, np.zeros((len(records), 7)))


def in_landmarks(records):
    return LandmarkSet("set", records[:1], records[1:], NONE, NONE, NONE)


def in_videos(records):
    return VideoSet("set", {"a": records[:1], "b": records[1:]}, [], [], [])


@pytest.mark.parametrize("make", [in_training, in_runs, in_poses, in_landmarks, in_videos])
def test_every_set_refuses_two_inputs_with_one_key(make):
    with pytest.raises(UserError, match=r"one key, run/1: a/1\.png and b/1\.png"):
        make([A, B])
    make([A, replace(A, northing=5.0, run="elsewhere")])  # seen twice: the same input


def test_clouds_and_crops_are_inputs_too():
    one, other = replace(A, cloud=Path("a.bin")), replace(A, cloud=Path("b.bin"))
    with pytest.raises(UserError, match=r"a\.bin and b\.bin"):
        require_one_input_per_key([one, other])
    with pytest.raises(UserError, match="one key, run/1"):
        require_one_input_per_key([A, replace(A, crop=(0.0, 0.0, 4.0, 4.0))])
    with pytest.raises(UserError, match="one key, run/1"):
        require_one_input_per_key([A, replace(A, images=())])


@pytest.fixture
def linked(tmp_path):
    """Two drives in folders of one name, reached through links; equal frame names, other pictures."""
    for disk, seed in (("disk0", 0), ("disk1", 1)):
        write_run(tmp_path / disk / "images", straight(240, 4.0), cameras=("image_left",), cloud=None, seed=seed)
    (tmp_path / "drives").mkdir()
    for run, disk in (("monday", "disk0"), ("tuesday", "disk1")):
        (tmp_path / "drives" / run).symlink_to(Path("..") / disk / "images", target_is_directory=True)
    return tmp_path / "drives"


def test_linked_runs_are_named_by_their_links(linked):
    data = create_dataset("frames", dataset_folder=linked, frames_map="shared")
    tests = data.evaluation_set()
    assert tests.runs == ["monday", "tuesday"]
    assert {r.run for r in data.training_set().records} == {"monday", "tuesday"}
    both = [*data.training_set().records, *(r for run in tests.database for r in run)]
    assert len({r.key for r in both}) == len({r.images for r in both}) == len(both)
    assert all(r.key.startswith(("monday/", "tuesday/")) for r in both)


def test_a_run_given_as_dot_has_its_folders_name(linked, monkeypatch):
    monkeypatch.chdir(linked / "monday")
    for folder in (".", "../images", linked / "monday"):
        run = create_dataset("frames", dataset_folder=folder).training_set().records[0].run
        assert run == ("monday" if folder == linked / "monday" else "images")


def test_two_links_to_one_folder_are_refused(linked):
    (linked / "wednesday").symlink_to(linked / "monday", target_is_directory=True)
    with pytest.raises(UserError, match=r"runs .*monday and .*wednesday are one folder, .*disk0/images: remove a link"):
        create_dataset("frames", dataset_folder=linked)


def test_the_training_folder_of_images_has_keys_of_its_own(tmp_path, monkeypatch, capsys):
    """Without them the run is refused: a teacher's outputs are stored by key."""
    write_images(tmp_path, numbered(range(4)), numbered(range(4)))
    write_images(tmp_path / "train", numbered(range(4)), numbered(range(4)))
    for folder in (tmp_path, tmp_path / "train"):
        write_truth(folder, [("0001.png", "0001.png")])
    flags = ["--dataset", "images", "--dataset_folder", str(tmp_path), "--logdir", str(tmp_path / "logs")]
    with monkeypatch.context() as fault:
        listed = ImagesData.listed
        fault.setattr(ImagesData, "listed", lambda self, home, **_: listed(self, home))
        assert train.main([*flags, "--train_mode", "train_teacher", "--model", "mobilenet_v2"]) == 2
        assert "two inputs have one key, database/0000.png" in capsys.readouterr().err
    data = create_dataset("images", dataset_folder=tmp_path)
    training, tests = data.training_set().records, data.evaluation_set().distinct_records()
    require_one_input_per_key([*training, *tests])
    assert {r.key for r in training}.isdisjoint(r.key for r in tests)
