"""From records to batches: items that open only what is wanted, collating, loaders.

Every random choice is a function of (seed, epoch, key of the sample): worker count and history change nothing.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from distilplace.common.decoding import require_regular_file
from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.common.randomness import forked_random_state, generator
from distilplace.common.shares import Share
from distilplace.datasets.base import PlaceData
from distilplace.datasets.records import PlaceRecord, TrainingSet
from distilplace.datasets.sampling.batches import PlaceSampler
from distilplace.datasets.transforms.augmentation import augment_cloud
from distilplace.datasets.workers import start_worker

if TYPE_CHECKING:
    from PIL.Image import Image

Item = dict[str, Any]
Batch = dict[str, Any]
Combine = Callable[[Sequence[Item]], Batch]
Finish = Callable[[Batch], Batch]
Quantize = Callable[[torch.Tensor, float], tuple[Any, Any]]
Rates = tuple[float, float, float]
ShareOf = Callable[[int], Share]
RATES: Rates = (0.2, 0.1, 0.5)
"""Augmentation of images: brightness, contrast and saturation; hue; erasing."""
WANTED = frozenset({"images", "coords", "features"})


class PlaceItems(Dataset[Item]):
    """Items of ``records``: ``key``, ``index`` and what is in ``wants`` (a model's ``requires``).

    ``images`` is float32 ``[3, H, W]``; ``coords`` int32 ``[M, 3]``, the voxels of the cloud. Clouds are opened only
    for "coords" or "features", images only for "images". ``quantize(points float32 [N, 3], size) -> (coords, index)``
    comes from the sparse engine. ``augment`` = training: augmented cloud and image, a random one of the record's images
    instead of the nearest. The choices repeat for equal (seed, epoch, key, view); item i + v n is view v of record i.
    ``share``: of the rows of a batch that are loaded here; the others have a key and an index only.
    """

    def __init__(
        self,
        data: PlaceData,
        records: Sequence[PlaceRecord],
        *,
        wants: Collection[str],
        quantize: Quantize | None,
        augment: bool,
        seed: int,
        rates: Rates = RATES,
        share: ShareOf | None = None,
    ) -> None:
        if unknown := set(wants) - WANTED:
            raise ValueError(f"unknown batch keys {sorted(unknown)}; known: {sorted(WANTED)}")
        self.wants_images = "images" in wants
        self.wants_cloud = bool({"coords", "features"} & set(wants))
        if self.wants_cloud and quantize is None:
            raise ValueError("clouds are wanted, but no quantize function was handed in")
        self.data, self.records, self.quantize = data, records, quantize
        self.augment, self.seed, self.rates, self.share = augment, seed, rates, share
        if self.wants_images:
            self._transform()  # torchvision is loaded here once, not again in every forked worker
        # Shared memory: workers that live on from epoch to epoch read the current value.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._check_presence()
        if self.wants_cloud:
            data.survey_clouds(record.cloud for record in self.records)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation is drawn."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Item:
        view, item = index // len(self.records), self._named(index)
        record = self.records[item["index"]]
        if self.wants_images:
            item["images"] = self._image(record, view)
        if self.wants_cloud:
            item["coords"] = self._voxels(record)
        return item

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """What a DataLoader calls: a user's mistake goes to the main process as data, not as a worker's traceback."""
        try:
            if self.share is None:
                return [self[index] for index in indices]
            own = self.share(len(indices)).rows
            return [self[index] if row in own else self._named(index) for row, index in enumerate(indices)]
        except UserError as error:
            return [{"error": str(error)}]

    def _named(self, index: int) -> Item:
        index %= len(self.records)
        return {"key": self.records[index].key, "index": index}

    def _image(self, record: PlaceRecord, view: int) -> torch.Tensor:
        if not self.augment:
            return self._transform()(self.data.image(record.images[0], record.crop, as_query=record.as_query))
        epoch = int(self._epoch)
        chosen = int(generator(self.seed, epoch, record.key, "image").integers(len(record.images)))
        image = self.data.image(record.images[chosen], record.crop)
        with forked_random_state(self.seed, epoch, record.key, *([view] if view else [])):
            return self._transform(view)(image)

    def _transform(self, view: int = 0) -> Callable[["Image"], torch.Tensor]:
        return self.data.transform(self.augment, self.rates, view)

    def _voxels(self, record: PlaceRecord) -> torch.Tensor:
        assert record.cloud is not None
        assert self.quantize is not None
        points = self.data.read_cloud(record.cloud)
        if self.augment:
            rng = generator(self.seed, int(self._epoch), record.key, "cloud")
            points = augment_cloud(points, self.data.cloud.augmentation, rng)
        size = self.data.cloud.quantization_size
        coords = torch.as_tensor(self.quantize(torch.from_numpy(points), size)[0], dtype=torch.int32)
        if len(coords) == 0:
            raise UserError(f"cloud file {record.cloud}: no voxel at quantisation size {size}")
        return coords

    def _check_presence(self) -> None:
        """Look for the wanted files of each run's first record: a wrong folder shows before anything is computed."""
        seen: set[str] = set()
        for record in self.records:
            if self.wants_images and not record.images:
                raise UserError(f"sample {record.key} has no image, and the model needs images: set --image_path")
            if self.wants_cloud and record.cloud is None:
                raise UserError(f"sample {record.key} has no cloud, and the model needs clouds")
            if record.run not in seen:
                seen.add(record.run)
                if self.wants_images:
                    _must_exist(record.images[0], "image", "--image_path")
                if self.wants_cloud and record.cloud is not None:
                    _must_exist(record.cloud, "cloud file", "--dataset_folder")


class PlaceLoader(DataLoader[Batch]):
    """A DataLoader that raises the :class:`UserError` of a worker as the one line it is.

    A worker may hand over a list of batches in place of one: each is given by itself.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in chain.from_iterable(found if isinstance(found, list) else [found] for found in super().__iter__()):
            if "error" in batch:
                # Let the workers go now: collected later, in a cycle with the exception, each takes 5 s to stop.
                self._iterator = None
                raise UserError(batch["error"])
            yield batch


def _must_exist(path: Path, what: str, flag: str) -> None:
    if not path.exists():
        raise UserError(f"{what} {path} does not exist: check {flag_of(path, flag)}")
    require_regular_file(path, what)


def collate(items: Sequence[Item]) -> Batch:
    """Items -> batch without masks: keys, images ``[B,3,H,W]``, coords ``[N,4]`` (batch index first), features."""
    batch: Batch = {"keys": [item["key"] for item in items]}
    if "images" in items[0]:
        batch["images"] = _stacked(items)
    if "coords" in items[0]:
        numbered = [
            torch.cat([torch.full((len(item["coords"]), 1), number, dtype=torch.int32), item["coords"]], dim=1)
            for number, item in enumerate(items)
        ]
        batch["coords"] = torch.cat(numbered)
        batch["features"] = torch.ones((len(batch["coords"]), 1))
    return batch


def _stacked(items: Sequence[Item]) -> torch.Tensor:
    first = items[0]["images"].shape
    for item in items:
        if item["images"].shape != first:
            (_, h, w), (_, other_h, other_w) = first, item["images"].shape
            raise UserError(
                f"images of one batch must have one size: {items[0]['key']} has {w}x{h} pixels, "
                f"{item['key']} {other_w}x{other_h}: give --image_size"
            )
    return torch.stack([item["images"] for item in items])


def training_batch(
    items: Sequence[Item], training_set: TrainingSet, *, masks: bool = True, share: Share | None = None
) -> Batch:
    """:func:`collate` plus ``indices`` int64 ``[B]`` and, where the training set has any, ``poses`` float32 ``[B, 7]``.

    With ``masks`` also ``positives_mask`` and ``negatives_mask``, bool ``[B, B]``. Where the batch is shared by
    processes, keys and inputs are those of the rows of this one, and ``share`` is among the entries.
    """
    batch = collate(items) if share is None else {**collate([items[row] for row in share.rows]), "share": share}
    indices = [item["index"] for item in items]
    batch["indices"] = torch.tensor(indices)
    if masks:
        batch["positives_mask"], batch["negatives_mask"] = training_set.masks(indices)
    if training_set.poses is not None:
        batch["poses"] = torch.from_numpy(training_set.poses[indices]).float()
    return batch


def _laid_out(
    items: Sequence[Item], training_set: TrainingSet, sampler: PlaceSampler, masks: bool, share: ShareOf | None
) -> Batch:
    own = None if share is None else share(len(items))
    return {**training_batch(items, training_set, masks=masks, share=own), **sampler.layout(len(items))}


def _collate_or_error(items: Sequence[Item], combine: Combine, finish: Finish | None) -> Batch:
    if "error" in items[0]:
        return items[0]
    try:
        return finish(combine(items)) if finish is not None else combine(items)
    except UserError as error:
        return {"error": str(error)}


def _collate_by_size(items: Sequence[Item], combine: Combine, finish: Finish | None) -> Batch | list[Batch]:
    """Where neighbours have images of different size, one batch for each stretch of equal ones."""
    stretches = groupby(items, lambda item: item["images"].shape if "images" in item else ())
    batches = [_collate_or_error(list(stretch), combine, finish) for _, stretch in stretches]
    return batches[0] if len(batches) == 1 else batches


def training_loader(
    data: PlaceData,
    training_set: TrainingSet,
    *,
    wants: Collection[str],
    quantize: Quantize | None,
    sampler: PlaceSampler,
    num_workers: int,
    seed: int,
    augment: bool = True,
    rates: Rates = RATES,
    finish: Finish | None = None,
    masks: bool = True,
    share: ShareOf | None = None,
) -> PlaceLoader:
    """Training batches with the sampler's layout, in its order. Call :func:`set_epoch` before each epoch.

    ``masks``: also with those of positives and negatives. ``finish`` adds to every batch what else it needs, in the
    worker that made it. ``share``: which rows of a batch of so many this process loads; None: all.
    """
    records = training_set.records
    combine = partial(_laid_out, training_set=training_set, sampler=sampler, masks=masks, share=share)
    return PlaceLoader(
        PlaceItems(data, records, wants=wants, quantize=quantize, augment=augment, seed=seed, rates=rates, share=share),
        batch_sampler=sampler,
        collate_fn=partial(_collate_or_error, combine=combine, finish=finish),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator().manual_seed(seed),
    )


def set_epoch(loader: PlaceLoader, epoch: int, skip: int = 0) -> None:
    """Point a :func:`training_loader`'s sampler and items at ``epoch``, leaving out the first ``skip`` batches."""
    sampler, items = loader.batch_sampler, loader.dataset
    assert isinstance(sampler, PlaceSampler)
    assert isinstance(items, PlaceItems)
    sampler.set_epoch(epoch, skip)
    items.set_epoch(epoch)


def evaluation_loader(
    data: PlaceData,
    records: Sequence[PlaceRecord],
    *,
    wants: Collection[str],
    quantize: Quantize | None,
    batch_size: int,
    num_workers: int,
    augment_seed: int | None = None,
    rates: Rates = RATES,
    view: int = 0,
    finish: Finish | None = None,
    one_size: bool = False,
) -> PlaceLoader:
    """Batches of ``records`` in order: clean (nearest image), or augmented once, as epoch 0 of ``augment_seed``.

    ``rates`` and ``view`` say how, where augmented (:func:`distilplace.datasets.transforms.views.make_view`). A batch
    is cut where the size of the images changes; with ``one_size`` that is refused. ``finish`` as in
    :func:`training_loader`.
    """
    augment, seed = augment_seed is not None, augment_seed or 0
    items = PlaceItems(data, records, wants=wants, quantize=quantize, augment=augment, seed=seed, rates=rates)
    first = view * len(items) if augment else 0
    # A generator of its own: making an iterator draws a number, which must not come from training's random state.
    return PlaceLoader(
        items,
        batch_size=batch_size,
        sampler=range(first, first + len(items)),
        collate_fn=partial(_collate_or_error if one_size else _collate_by_size, combine=collate, finish=finish),
        num_workers=num_workers,
        worker_init_fn=start_worker,
        generator=torch.Generator().manual_seed(0),
    )
