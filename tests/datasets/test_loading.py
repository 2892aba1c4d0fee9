"""From records to batches: only what is wanted is opened, nothing depends on workers, errors are one line."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.datasets.io.images import read_image
from distilplace.datasets.loading import PlaceItems, collate, evaluation_loader, set_epoch, training_loader
from distilplace.datasets.sampling.batches import PairBatchSampler
from tests.miniature import Miniature

ALL = ("images", "coords", "features")

ALWAYS = ("keys", "indices", "pairs", "positives_mask", "negatives_mask")


def opened(mini: Miniature, **settings):
    return create_dataset("oxford", dataset_folder=mini.dataset_folder, image_path=mini.image_path, **settings)


def epoch_of(data, quantize, *, epoch=0, skip=0, workers=0, wants=ALL, batch_size=8, seed=7, **options):
    training = data.training_set()
    sampler = PairBatchSampler(training, batch_size, seed=seed)
    loader = training_loader(
        data, training, wants=wants, quantize=quantize, sampler=sampler, num_workers=workers, seed=seed, **options
    )
    set_epoch(loader, epoch, skip)
    return list(loader)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if isinstance(one[key], torch.Tensor) else one[key] == other[key]
        for key in one
    )


def test_batch_has_the_agreed_keys_shapes_and_types(oxford_written, quantize):
    data = opened(oxford_written)
    training = data.training_set()
    batches = epoch_of(data, quantize)
    assert [len(batch["keys"]) for batch in batches[:-1]] == [8] * (len(batches) - 1)
    index = {record.key: i for i, record in enumerate(training.records)}
    for batch in batches:
        b = len(batch["keys"])
        assert batch["images"].shape == (b, 3, 24, 32)
        assert batch["images"].dtype == torch.float32
        assert batch["coords"].dtype == torch.int32
        assert batch["coords"][:, 0].unique().tolist() == list(range(b))
        assert bool((batch["coords"][:, 0].diff() >= 0).all())
        assert torch.equal(batch["features"], torch.ones(len(batch["coords"]), 1))
        masks = training.masks([index[key] for key in batch["keys"]])
        assert torch.equal(batch["positives_mask"], masks[0])
        assert torch.equal(batch["negatives_mask"], masks[1])
        pairs = torch.arange(0, b, 2)
        assert bool(batch["positives_mask"][pairs, pairs + 1].all())


def test_worker_count_changes_nothing(oxford_written, quantize):
    data = opened(oxford_written, image_lidar_k=None)
    for epoch in (0, 3):
        alone = epoch_of(data, quantize, epoch=epoch)
        many = epoch_of(data, quantize, epoch=epoch, workers=2)
        assert len(alone) == len(many)
        assert all(map(same, alone, many))


def test_living_workers_see_the_new_epoch(oxford_written, quantize):
    """Workers are kept from epoch to epoch; the second epoch must still be what it is without workers."""
    data = opened(oxford_written)
    training = data.training_set()
    loader = training_loader(
        data,
        training,
        wants=ALL,
        quantize=quantize,
        sampler=PairBatchSampler(training, 8, seed=7),
        num_workers=2,
        seed=7,
    )
    for epoch in (0, 1):
        set_epoch(loader, epoch)
        for _ in loader:
            break  # left early, as after an error
        assert all(map(same, list(loader), epoch_of(data, quantize, epoch=epoch)))


def test_resuming_in_the_middle_gives_the_rest(oxford_written, quantize):
    data = opened(oxford_written)
    whole = epoch_of(data, quantize, epoch=2)
    rest = epoch_of(data, quantize, epoch=2, skip=3, workers=2)
    assert len(rest) == len(whole) - 3
    assert all(map(same, rest, whole[3:]))


def test_augmentation_differs_by_epoch_and_seed_but_not_by_wants(oxford_written, quantize):
    data = opened(oxford_written)
    records = data.training_set().records

    def item(epoch=0, seed=0, wants=ALL, augment=True):
        items = PlaceItems(data, records, wants=wants, quantize=quantize, augment=augment, seed=seed)
        items.set_epoch(epoch)
        return items[4]

    for key in ("images", "coords"):
        assert torch.equal(item()[key], item()[key])
        assert torch.equal(item()[key], item(wants=(key,))[key])
        assert not _equal(item()[key], item(epoch=1)[key])
        assert not _equal(item()[key], item(seed=1)[key])
        assert torch.equal(item(augment=False)[key], item(epoch=1, seed=1, augment=False)[key])


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def test_evaluation_is_clean_in_order_and_leaves_the_random_state(oxford_written, quantize):
    data = opened(oxford_written, image_lidar_k=None)
    records = data.evaluation_set().database[0]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    batches = list(evaluation_loader(data, records, wants=ALL, quantize=quantize, batch_size=16, num_workers=0))
    assert torch.equal(torch.get_rng_state(), before)
    assert [key for batch in batches for key in batch["keys"]] == [record.key for record in records]
    assert [len(batch["keys"]) for batch in batches] == [16, 14]
    assert "positives_mask" not in batches[0]
    clean = quantize(torch.from_numpy(data.read_cloud(records[0].cloud)), 0.01)[0]
    assert torch.equal(batches[0]["coords"][batches[0]["coords"][:, 0] == 0, 1:], clean)
    nearest = [record.images[0] for record in records[:3]]
    single = opened(oxford_written, image_lidar_k=1).evaluation_set().database[0]
    assert nearest == [record.images[0] for record in single[:3]]
    again = list(evaluation_loader(data, single, wants=ALL, quantize=quantize, batch_size=16, num_workers=0))
    assert all(map(same, batches, again))  # of k listed images always the nearest


def test_evaluation_loader_augmented_once_for_a_cache(oxford_written, quantize):
    """``augment_seed`` (teacher outputs of augmented inputs, as upstream caches them) is epoch 0 of that seed."""
    data = opened(oxford_written)
    records = data.training_set().records[:5]
    (batch,) = evaluation_loader(
        data, records, wants=ALL, quantize=quantize, batch_size=5, num_workers=0, augment_seed=3
    )
    items = PlaceItems(data, records, wants=ALL, quantize=quantize, augment=True, seed=3)
    assert same(batch, collate([items[index] for index in range(5)]))
    (clean,) = evaluation_loader(data, records, wants=ALL, quantize=quantize, batch_size=5, num_workers=0)
    assert not torch.equal(batch["images"], clean["images"])


def test_training_leaves_the_random_state(oxford_written, quantize):
    torch.manual_seed(3)
    np.random.seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    epoch_of(opened(oxford_written), quantize)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


def test_training_picks_among_the_k_images(oxford_written, monkeypatch):
    data = opened(oxford_written, image_lidar_k=3)
    record = data.training_set().records[0]
    assert len(record.images) == 3
    items = PlaceItems(data, [record], wants=("images",), quantize=None, augment=True, seed=0)
    read: set[str] = set()

    def noted(path):
        read.add(path.name)
        return read_image(path)

    monkeypatch.setattr(data, "read_image", noted)
    for epoch in range(30):
        items.set_epoch(epoch)
        items[0]
    assert read == {path.name for path in record.images}


def test_image_models_need_no_cloud_file_and_no_engine(oxford_copy):
    """Oddity 31: upstream's student loads clouds it never uses. Here they may even be absent."""
    for path in oxford_copy.dataset_folder.rglob("*.bin"):
        path.unlink()
    data = opened(oxford_copy)
    training = data.training_set()
    batches = epoch_of(data, None, wants=("images",))
    assert set(batches[0]) == {"images", *ALWAYS}
    records = data.evaluation_set().distinct_records()
    loader = evaluation_loader(data, records, wants=("images",), quantize=None, batch_size=30, num_workers=0)
    assert sum(len(batch["keys"]) for batch in loader) == 90
    assert len(training) == 60


def test_imports_are_silent_and_image_batches_load_no_engine(oxford_written, root):
    """In a process of its own, since other tests load what is forbidden here."""
    heavy = {
        "open3d",
        "timm",
        "torchvision",
        "faiss",
        "matplotlib",
        "MinkowskiEngine",
        "sklearn",
        "PIL",
        "distilplace.models",
    }
    program = f"""
import sys
from distilplace import datasets
from distilplace.datasets import loading
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
data = datasets.create_dataset("oxford", dataset_folder=sys.argv[1], image_path=sys.argv[2])
records = data.evaluation_set().database[0][:4]
loader = loading.evaluation_loader(
    data, records, wants=["images"], quantize=None, batch_size=4, num_workers=0
)
assert len(list(loader)) == 1
loaded = {heavy - {"torchvision", "PIL"}} & set(sys.modules)
assert not loaded, loaded
"""
    command = [sys.executable, "-c", program, *map(str, oxford_written)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_cloud_models_need_no_image_file(oxford_copy, quantize):
    for path in oxford_copy.image_path.rglob("*.png"):
        path.unlink()
    batches = epoch_of(opened(oxford_copy), quantize, wants=("coords", "features"))
    assert set(batches[0]) == {"coords", "features", *ALWAYS}


def test_masks_are_made_where_they_are_read_alone(oxford_written):
    data = opened(oxford_written)
    batch = epoch_of(data, None, wants=("images",), masks=False)[0]
    assert set(batch) == {"images", *ALWAYS} - {"positives_mask", "negatives_mask"}
    assert torch.equal(batch["indices"], epoch_of(data, None, wants=("images",))[0]["indices"])


def test_wrong_folder_shows_before_anything_is_read(oxford_copy, quantize):
    data = opened(oxford_copy)
    records = data.training_set().records
    records[0].images[0].unlink()
    records[-1].cloud.unlink()
    last = [record for record in records if record.run == records[-1].run]
    with pytest.raises(UserError, match="--image_path") as caught:
        PlaceItems(data, records, wants=("images",), quantize=None, augment=True, seed=0)
    assert str(records[0].images[0]) in str(caught.value)
    with pytest.raises(UserError, match="--dataset_folder") as caught:
        PlaceItems(data, last[::-1], wants=("coords",), quantize=quantize, augment=True, seed=0)
    assert str(records[-1].cloud) in str(caught.value)


def test_records_without_images_or_clouds_are_refused_for_models_that_need_them(oxford_written, quantize):
    data = create_dataset("oxford", dataset_folder=oxford_written.dataset_folder)
    records = data.training_set().records
    with pytest.raises(UserError, match="--image_path"):
        PlaceItems(data, records, wants=("images",), quantize=None, augment=False, seed=0)
    with pytest.raises(ValueError, match="quantize"):
        PlaceItems(data, records, wants=("coords",), quantize=None, augment=False, seed=0)
    with pytest.raises(ValueError, match="clouds"):
        PlaceItems(data, records, wants=("clouds",), quantize=quantize, augment=False, seed=0)


IMAGE_DAMAGE = {
    "cannot be decoded": b"not an image",
    "does not exist": None,
    "cannot be decoded: ": b"",
    "decoded": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("message", IMAGE_DAMAGE)
def test_damaged_image_gives_one_line_from_any_process(oxford_copy, message, workers):
    data = opened(oxford_copy)
    path = data.training_set().records[7].images[0]
    path.unlink()
    if IMAGE_DAMAGE[message] is not None:
        path.write_bytes(IMAGE_DAMAGE[message])
    with pytest.raises(UserError, match=message) as caught:
        epoch_of(data, None, wants=("images",), workers=workers)
    assert str(path) in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_truncated_image_is_named(oxford_copy):
    data = opened(oxford_copy)
    path = data.training_set().records[7].images[0]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=str(path)):
        epoch_of(data, None, wants=("images",))


@pytest.mark.parametrize("workers", [0, 2])
def test_truncated_cloud_gives_one_line_from_any_process(oxford_copy, quantize, workers):
    data = opened(oxford_copy)
    path = data.training_set().records[7].cloud
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-100])
    with pytest.raises(UserError, match="truncated") as caught:
        epoch_of(data, quantize, wants=("coords", "features"), workers=workers)
    assert str(path) in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_two_sizes_are_named(oxford_copy, workers):
    from PIL import Image

    data = opened(oxford_copy)
    record = data.training_set().records[7]
    record.images[0].unlink()
    Image.new("RGB", (40, 30)).save(record.images[0])
    with pytest.raises(UserError, match="40x30") as caught:
        epoch_of(data, None, wants=("images",), workers=workers)
    assert record.key in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_cloud_without_voxels_is_refused(oxford_written):
    data = opened(oxford_written)
    items = PlaceItems(
        data,
        data.training_set().records,
        wants=("coords",),
        quantize=lambda points, size: (torch.empty((0, 3), dtype=torch.int32), None),
        augment=False,
        seed=0,
    )
    with pytest.raises(UserError, match="no voxel"):
        items[0]


def test_collate_numbers_the_clouds_first():
    items = [
        {"key": "a", "index": 0, "coords": torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int32)},
        {"key": "b", "index": 1, "coords": torch.tensor([[-7, 8, 9]], dtype=torch.int32)},
    ]
    batch = collate(items)
    assert batch["keys"] == ["a", "b"]
    assert batch["coords"].tolist() == [[0, 1, 2, 3], [0, 4, 5, 6], [1, -7, 8, 9]]
    assert batch["coords"].dtype == torch.int32
