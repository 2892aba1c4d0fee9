"""Kernel maps made by data-loader workers: the same numbers, one block of memory, refused where they cannot be."""

import pickle
from types import SimpleNamespace

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.engine.context import to_device
from distilplace.engine.maps import map_builder
from distilplace.engine.step import split_batch
from distilplace.models import create_model
from distilplace.models.sparse import CoordinateManager
from distilplace.models.sparse.transport import flatten, unflatten


def batch_of(clouds=5, points=80):
    draw = torch.Generator().manual_seed(3)
    place = torch.randint(-6, 7, (clouds * points, 3), generator=draw)
    coords = torch.cat([torch.arange(clouds).repeat_interleave(points)[:, None], place], 1).int()
    return {"keys": [str(i) for i in range(clouds)], "coords": coords, "features": torch.ones(len(coords), 1)}


def options(maps="workers", backend="auto"):
    return SimpleNamespace(sparse_maps=maps, sparse_backend=backend)


@pytest.mark.parametrize("settings", [{"num_top_down": 2}, {"backbone": "GeneralMinkFPN"}])
def test_a_model_with_maps_from_a_worker_computes_the_same_and_builds_none(settings):
    model = create_model("minkloc", planes=(8, 16), layers=(1, 1), feature_size=16, **settings).eval()
    plain = batch_of()
    finish = map_builder(options(), [model], 128, "cpu")
    travelled = pickle.loads(pickle.dumps(finish(dict(plain))))
    wanted = model(plain)["embedding"]
    assert not torch.equal(wanted[0], wanted[1])
    manager = travelled["maps"][0]
    before = set(manager._maps)
    assert torch.equal(model(to_device(travelled, torch.device("cpu")))["embedding"], wanted)
    assert set(manager._maps) == before
    assert not manager._neighbours


def test_every_part_of_a_staged_step_has_its_maps():
    model = create_model("minkloc", planes=(8,), layers=(1,), num_top_down=0, feature_size=16).eval()
    batch = map_builder(options(), [model], 2, "cpu")(batch_of())
    parts = list(split_batch(batch, 2))
    assert [part["maps"][0].batch_size for part in parts] == [2, 2, 1]
    for part in parts:
        alone = {name: value for name, value in part.items() if name != "maps"}
        assert torch.equal(model(part)["embedding"], model(alone)["embedding"])


def test_maps_are_built_on_the_device_unless_asked_for():
    cloud, image = create_model("minkloc"), create_model("resnet18", pretrained="none")
    assert map_builder(options("device"), [cloud], 8, "cpu") is None
    assert map_builder(options(), [image], 8, "cpu") is None


def test_an_engine_that_builds_its_own_maps_is_refused(monkeypatch):
    monkeypatch.setattr(CoordinateManager, "portable", False)
    with pytest.raises(UserError, match="sparse_maps workers: engine torch builds its own"):
        map_builder(options(), [create_model("minkloc")], 8, "cpu")


def test_a_moved_manager_keeps_levels_and_maps():
    coords = batch_of()["coords"]
    manager = CoordinateManager(coords, batch_size=7)
    kernel_map = manager.kernel_map(1, 3)
    moved = manager.to("cpu")
    assert moved.batch_size == 7
    assert torch.equal(moved.rows, manager.rows)
    for level in (0, 1):
        assert torch.equal(moved.coordinates(level), manager.coordinates(level))
        assert torch.equal(moved.counts(level), manager.counts(level))
    assert moved._maps[1, 3, 1, 1].sizes == kernel_map.sizes
    assert torch.equal(moved._maps[1, 3, 1, 1].in_rows, kernel_map.in_rows)
    assert torch.equal(moved.kernel_map(0, 2, 2).out_rows, manager.kernel_map(0, 2, 2).out_rows)


def test_flat_memory_holds_every_type_and_shape():
    tensors = [torch.arange(3, dtype=torch.int32), torch.empty(0, 4), torch.randn(2, 5), torch.tensor(7), torch.ones(1)]
    buffer, layout = flatten(tensors)
    for before, after in zip(tensors, unflatten(buffer, layout), strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)
