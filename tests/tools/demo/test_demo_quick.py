"""The demo's short form: a small world, few epochs, all three networks trained and compared."""

import pytest

from distilplace.runtime import PlaceMap, Student
from distilplace.tools.demo import run as demo


def test_quick_flags_name_a_small_generated_world_and_keep_the_users_flags(tmp_path, monkeypatch) -> None:
    made = []

    class World:
        dataset_folder = tmp_path / "world"

        def __init__(self, folder, seed, **size):
            made.append((folder, seed, size))

    monkeypatch.setattr(demo, "DemoData", World)
    flags = demo.quick_flags(tmp_path, ["--epochs", "2", "--demo_seed", "4", "--dataset_folder", str(tmp_path)])
    assert made == [(str(tmp_path), 4, demo.QUICK_WORLD)]
    last = dict(zip(flags[::2], flags[1::2], strict=True))
    assert last["--dataset"] == "oxford"
    assert last["--dataset_folder"] == str(tmp_path / "world")
    assert last["--image_path"] == str(tmp_path / "world" / "images")
    assert last["--epochs"] == "2"


@pytest.mark.slow
def test_the_quick_demo_trains_teacher_and_students_and_ends_with_the_report(tmp_path) -> None:
    arguments = ["--quick", "--logdir", str(tmp_path / "logs"), "--dataset_folder", str(tmp_path), "--num_workers", "0"]
    assert demo.main(arguments) == 0
    assert (tmp_path / "logs" / "report" / "index.html").is_file()
    for name in ("teacher", "alone", "distilled"):
        assert (tmp_path / "logs" / name / "models" / "best.safetensors").is_file()
    with PlaceMap(tmp_path / "logs" / "map.db", Student(tmp_path / "logs" / "student.onnx").metadata) as places:
        assert [run.places for run in places.runs()] == [26, 26, 26]
    aligned = Student(tmp_path / "logs" / "student_aligned.onnx")
    with PlaceMap(tmp_path / "logs" / "lidar_map.db", aligned.metadata) as places:
        assert [run.places for run in places.runs()] == [26, 26, 26]
    assert demo.main(arguments) == 0  # nothing is trained again
