"""Miniature Oxford and Boreas folders, written once; and a voxel function that needs no sparse engine."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distilplace.datasets.records import PlaceRecord, TrainingSet
from distilplace.datasets.relations import training_relations
from tests.miniature import Miniature, write_boreas, write_oxford


def floor_quantize(points: torch.Tensor, size: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxel indices, duplicates removed in order of first occurrence; as the sparse engine's ``quantize``."""
    assert points.dtype == torch.float32
    _, index = np.unique(torch.floor(points / size).int().numpy(), axis=0, return_index=True)
    index = np.sort(index)
    return torch.floor(points / size).int()[index], torch.from_numpy(index)


@pytest.fixture(scope="session")
def quantize() -> Callable:
    return floor_quantize


@pytest.fixture(scope="session")
def oxford_written(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """Shared by all tests: read only."""
    return write_oxford(tmp_path_factory.mktemp("oxford"), image_size=(32, 24))


@pytest.fixture(scope="session")
def boreas_written(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """Shared by all tests: read only."""
    return write_boreas(tmp_path_factory.mktemp("boreas"), image_size=(30, 25))


@pytest.fixture
def oxford_copy(oxford_written: Miniature, tmp_path: Path) -> Miniature:
    """A copy a test may damage (clouds and images: unlink first)."""
    return _copied(oxford_written, tmp_path)


@pytest.fixture
def boreas_copy(boreas_written: Miniature, tmp_path: Path) -> Miniature:
    """A copy a test may damage (clouds and images: unlink first)."""
    return _copied(boreas_written, tmp_path)


def _copied(written: Miniature, target: Path) -> Miniature:
    root = written.dataset_folder.parent
    shutil.copytree(root, target, dirs_exist_ok=True, copy_function=_link_or_copy)
    return Miniature(*(target / path.relative_to(root) for path in written))


def _link_or_copy(source: str, target: str) -> None:
    """Pickles are copied; clouds and images linked: a test that damages one must unlink it first."""
    shutil.copy(source, target) if source.endswith(".pickle") else os.link(source, target)


@pytest.fixture(scope="session")
def line_world() -> Callable[..., TrainingSet]:
    """``line_world(n, seed, length)``: n places at random on a line; positives 10 m, non-negatives 50 m."""

    def build(n: int, seed: int = 0, length: float | None = None) -> TrainingSet:
        places = np.zeros((n, 2))
        places[:, 0] = np.random.default_rng(seed).uniform(0, length or 5.0 * n, n)
        records = [PlaceRecord(f"line/{i}", "run", None, (), *place) for i, place in enumerate(places.tolist())]
        return TrainingSet(records, *training_relations(places, 10.0, 50.0))

    return build
