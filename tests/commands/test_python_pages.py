"""The Python of README and docs/guide/python.md: run, the ROS 2 sketch with stand-ins for ROS."""

import re
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

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
    loop, *_ = blocks(root / "docs" / "guide" / "python.md")
    folder, names = mapped(drive), {}
    exec(loop, names)
    found = np.array(list(names["follow"](str(folder), "student.onnx", "town.db", radius=5.0)))
    assert found[:, 0] == pytest.approx(4200 + 2 * np.arange(12))
    assert found[:, 2] == pytest.approx(np.ones(12), abs=1e-5)


def mapped(drive):
    """The folder of the drive's images, which are on the map town.db, 2 m apart."""
    student, folder = Student("student.onnx"), drive / "my_drives" / "monday" / "image_front"
    with PlaceMap("town.db", student.metadata) as places:
        places.add("monday", student.embed(sorted(folder.iterdir())), [(4200 + 2 * n, 0) for n in range(12)])
    return folder


def ros(monkeypatch):
    """Stand-ins for what the sketch imports of ROS; the nodes that were spun, what was published and logged."""
    nodes, published, logged = [], [], []

    class Node:
        def __init__(self, name):
            self.name = name

        def create_publisher(self, kind, topic, depth):
            return SimpleNamespace(publish=published.append)

        def create_subscription(self, kind, topic, callback, depth):
            self.callback = callback

        def get_logger(self):
            return SimpleNamespace(error=logged.append)

    def point(header):
        return SimpleNamespace(header=header, point=SimpleNamespace(x=0.0, y=0.0, z=0.0))

    modules = {
        "rclpy": {"init": lambda: None, "spin": nodes.append},
        "rclpy.node": {"Node": Node},
        "geometry_msgs": {},
        "geometry_msgs.msg": {"PointStamped": point},
        "sensor_msgs": {},
        "sensor_msgs.msg": {"Image": object},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return nodes, published, logged


def test_the_ros_sketch_turns_images_into_positions(root, drive, monkeypatch):
    _, sketch, _ = blocks(root / "docs" / "guide" / "python.md")
    folder, (nodes, published, logged) = mapped(drive), ros(monkeypatch)
    exec(sketch, {})
    for number, encoding in ((3, "rgb8"), (7, "bgr8"), (5, "mono8")):
        pixels = np.asarray(Image.open(folder / f"{2 * number:010d}.png"))
        rows = np.pad((pixels[..., ::-1] if encoding == "bgr8" else pixels).reshape(len(pixels), -1), ((0, 0), (0, 5)))
        header = SimpleNamespace(stamp=number, frame_id="camera")
        nodes[0].callback(
            SimpleNamespace(
                encoding=encoding,
                height=len(pixels),
                width=pixels.shape[1],
                step=rows.shape[1],
                data=rows.tobytes(),
                header=header,
            )
        )
    nodes[0].places.close()
    assert [(each.point.x, each.point.y, each.header.frame_id) for each in published] == [
        (4206.0, 0.0, "map"),
        (4214.0, 0.0, "map"),
    ]
    assert logged == ["encoding mono8: rgb8 or bgr8 is expected"]


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
