"""The Python of README and docs/guide/python.md: run, but the ROS 2 sketch, which is Python."""

import re

import numpy as np
import pytest

from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from distilplace.runtime import PlaceMap, Student
from tests.miniature_frames import straight, write_run
from tests.runtime.students import write_student


def blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """The working folder: a drive of 12 places, and a student."""
    places = straight(24.0, 2.0, easting=4200.0)
    write_run(tmp_path / "my_drives" / "monday", places, cameras=("image_front",), cloud=None)
    write_student(tmp_path / "student.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_of_the_readme_builds_a_map_and_searches_it(root, drive):
    (block,) = blocks(root / "README.md")
    assert len([line for line in block.splitlines() if line]) <= 10
    names: dict = {}
    exec(block, names)
    match = names["match"]
    assert (match.easting, match.run) == (4214.0, "monday")
    assert match.image == "my_drives/monday/image_front/0000000014.png"
    assert match.similarity == pytest.approx(1, abs=1e-5)


def test_the_camera_loop_follows_a_folder(root, drive):
    loop, sketch, _ = blocks(root / "docs" / "guide" / "python.md")
    compile(sketch, "sketch", "exec")
    student, folder = Student("student.onnx"), drive / "my_drives" / "monday" / "image_front"
    with PlaceMap("town.db", student.metadata) as places:
        places.add("monday", student.embed(sorted(folder.iterdir())), [(4200 + 2 * n, 0) for n in range(12)])
    names: dict = {}
    exec(loop, names)
    found = np.array(list(names["follow"](str(folder), "student.onnx", "town.db", radius=5.0)))
    assert found[:, 0] == pytest.approx(4200 + 2 * np.arange(12))
    assert found[:, 2] == pytest.approx(np.ones(12), abs=1e-5)


def test_the_parts_of_the_trainer_run(root, tmp_path, monkeypatch):
    for number in (0, 1):
        write_run(tmp_path / f"my_drives/run{number}", straight(400, 10.0, easting=float(number)), image_size=(80, 60))
    weights = tmp_path / "logs/my_student/models/best.safetensors"
    weights.parent.mkdir(parents=True)
    save_weights(create_model("resnet18"), weights)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(blocks(root / "docs" / "guide" / "python.md")[-1], names)
    assert names["output"]["embedding"].shape == (1, 384)
    assert {name: value.item() for name, value in names["terms"].items()} == {"pkt": pytest.approx(0, abs=1e-6)}
