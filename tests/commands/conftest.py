"""Miniature data sets and a trained teacher, made once for all tests of whole commands."""

from pathlib import Path
from typing import NamedTuple

import pytest

from distilplace import train
from tests.miniature import write_boreas, write_oxford

SMALL = ["--pretrained", "none", "--train_batch_size", "8", "--epochs", "2"]


class World(NamedTuple):
    flags: list[str]
    folder: Path
    images: Path


@pytest.fixture(scope="session")
def oxford(tmp_path_factory) -> World:
    return make_oxford(tmp_path_factory.mktemp("oxford"))


def make_oxford(folder: Path, **settings) -> World:
    data, images = write_oxford(folder, **{"runs": 3, "submaps": 12, "image_size": (80, 60), **settings})
    flags = ["--dataset", "oxford", "--dataset_folder", str(data), "--image_path", str(images), *SMALL]
    return World(flags, data, images)


@pytest.fixture(scope="session")
def boreas(tmp_path_factory) -> World:
    data, images = write_boreas(tmp_path_factory.mktemp("boreas"), runs=3, submaps=30, image_size=(102, 86))
    return World(
        ["--dataset", "boreas", "--dataset_folder", str(data), "--image_path", str(images), *SMALL], data, images
    )


@pytest.fixture(scope="session")
def teacher_run(oxford, tmp_path_factory) -> Path:
    """Run folder of a teacher trained for two epochs."""
    logs = tmp_path_factory.mktemp("teacher_logs")
    flags = [*oxford.flags, "--train_mode", "train_teacher", "--logdir", str(logs), "--exp_name", "teacher"]
    assert train.main(flags) == 0
    return logs / "teacher"
