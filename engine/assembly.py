"""Putting a run together: batches, losses and optimiser around the network that learns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.randomness import forked_random_state
from distilplace.datasets.loading import training_loader
from distilplace.datasets.records import Layout, TrainingSet
from distilplace.datasets.sampling.batches import PairBatchSampler, PlaceSampler
from distilplace.datasets.sampling.items import GroupPairSampler, ItemBatchSampler, ViewBatchSampler
from distilplace.datasets.sampling.tuples import TupleBatchSampler
from distilplace.engine import processes
from distilplace.engine.building import quantizer_for, rates_of
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.generations import Generations
from distilplace.engine.maps import map_builder
from distilplace.engine.optimisation import build_optimizer, build_scheduler
from distilplace.engine.options import TrainOptions
from distilplace.engine.runs.folder import RunFolder
from distilplace.engine.step import forward_with_maps
from distilplace.engine.teachers.aligned import AlignedTeacher
from distilplace.engine.teachers.sources import TeacherSource
from distilplace.engine.trainer import Trainer
from distilplace.losses.distiller import Distiller
from distilplace.losses.tasks.task_loss import TaskLoss
from distilplace.losses.tasks.triplet import BatchHardTripletMarginLoss, MultiBatchHardTripletMarginLoss
from distilplace.models import PlaceNetwork


@dataclass(frozen=True)
class Parts:
    """What a run consists of before it is put together."""

    training: TrainingSet
    network: PlaceNetwork
    task_loss: TaskLoss
    distiller: Distiller | None
    teachers: list[TeacherSource]
    context: Context[TrainOptions]

    @property
    def feature_maps(self) -> tuple[str, ...]:
        """What the losses want of the network beside its embeddings."""
        wanted = () if self.distiller is None else self.distiller.student_maps(self.network.level_maps)
        return tuple(dict.fromkeys((*wanted, *self.task_loss.feature_maps)))

    @property
    def reads_masks(self) -> bool:
        """Does any of the losses read which samples of a batch show one place?"""
        return self.task_loss.reads_masks or (self.distiller is not None and self.distiller.reads_masks)

    @property
    def requires(self) -> set[str]:
        """The batch keys that the network and its teachers read."""
        sources: list[Any] = [self.network, *self.teachers]
        return {key for source in sources for key in source.requires}


def assemble(parts: Parts, folder: RunFolder) -> Trainer:
    """The trainer; what the losses own is built from the outputs for two real places."""
    context, network = parts.context, parts.network
    options, layout = context.options, layout_of(parts)
    if options.batch_expansion_rate is not None:
        refuse_idle_growth(options, parts.task_loss, layout)
    sampler = build_sampler(options, parts.training, layout)
    live = [teacher.network for teacher in parts.teachers if teacher.network is not None]
    loader = training_loader(
        context.data,
        parts.training,
        wants=parts.requires,
        quantize=quantizer_for(parts.requires),
        sampler=sampler,
        num_workers=options.num_workers,
        seed=options.seed,
        rates=rates_of(options),
        finish=map_builder(options, [network, *live], options.train_batch_split_size, context.device),
        masks=parts.reads_masks,
        share=processes.share_of(),
    )
    prepare_losses(parts)
    processes.start_alike(network, parts.task_loss, parts.distiller)
    losses = {"distiller": parts.distiller, "task_loss": parts.task_loss}
    optimizer = build_optimizer(options, network, losses)
    scheduler = build_scheduler(options, optimizer, sampler.batches_per_epoch)
    restarted = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
    restarted |= {name: loss for name, loss in losses.items() if isinstance(loss, nn.Module)}
    generations = Generations(options.generations, options.epochs, network, restarted, parts.feature_maps)
    return Trainer(
        context=context,
        network=network,
        task_loss=parts.task_loss,
        distiller=parts.distiller,
        teachers=parts.teachers,
        optimizer=optimizer,
        scheduler=scheduler,
        sampler=sampler,
        loader=loader,
        folder=folder,
        generations=generations,
        features=lambda: unit_embeddings(parts),
        feature_maps=parts.feature_maps,
    )


_PLAIN_SAMPLERS: dict[str, Callable[..., PlaceSampler]] = {
    "items": ItemBatchSampler,
    "views": ViewBatchSampler,
    "groups": GroupPairSampler,
}


def layout_of(parts: Parts) -> Layout:
    """How batches are composed: as ``--batches`` says, else as the task loss needs, else as the training set would."""
    options = parts.context.options
    needed = cast(Layout | Literal["any"], parts.task_loss.layout)
    if options.batches != "auto":
        if needed == "tuples" and options.batches != "tuples":
            raise UserError(f"loss {options.loss} reads mined tuples: omit --batches {options.batches}")
        return options.batches
    return parts.training.layout if needed == "any" else needed


def refuse_idle_growth(options: TrainOptions, task_loss: TaskLoss, layout: str) -> None:
    """:class:`UserError` where batches could never grow: their growth is decided by the mined triplets of pairs."""
    if not isinstance(task_loss, BatchHardTripletMarginLoss | MultiBatchHardTripletMarginLoss):
        raise UserError(
            f"--batch_expansion_rate looks at the triplets that a batch-hard loss mines, --loss {options.loss} mines "
            "none: omit one of them"
        )
    if layout != "pairs":
        raise UserError(f"--batch_expansion_rate enlarges batches of pairs, these are made of {layout}: omit it")


def build_sampler(options: TrainOptions, training: TrainingSet, layout: str) -> PlaceSampler:
    """Batches of one :data:`distilplace.datasets.records.Layout`."""
    most = 1 if options.dry_run else None
    if layout in _PLAIN_SAMPLERS:
        return _PLAIN_SAMPLERS[layout](training, options.train_batch_size, seed=options.seed, max_batches=most)
    if layout == "tuples":
        return TupleBatchSampler(
            training,
            options.tuple_size,
            pos_num=options.pos_num,
            pos_pool=options.pos_pool,
            neg_num=options.neg_num,
            neg_pool=options.neg_pool,
            cache_size=options.cache_size,
            seed=options.seed,
            max_batches=most,
        )
    return PairBatchSampler(
        training,
        options.train_batch_size,
        seed=options.seed,
        batch_size_limit=options.batch_size_limit,
        batch_expansion_rate=options.batch_expansion_rate,
        max_batches=most,
    )


def prepare_losses(parts: Parts) -> None:
    """Let the distillation method see the networks' outputs once, and put the losses on the device."""
    device, seed = parts.context.device, parts.context.options.seed
    parts.task_loss.to(device)
    if parts.distiller is None:
        return
    if parts.training.poses is not None:
        parts.distiller.see_training(parts.training.poses)
    if parts.distiller.reads_bank:
        keys = [record.key for record in parts.training.records]
        parts.distiller.see_bank([each.bank(keys) for each in parts.teachers if isinstance(each, AlignedTeacher)])
    batch = parts.context.sample(parts.training.records[:2], parts.requires)
    network = parts.network
    network.eval()
    try:
        with torch.no_grad(), forked_random_state("adaptors", seed):
            output = forward_with_maps(network, batch, parts.feature_maps)
            parts.distiller.prepare(output, [teacher.outputs(batch) for teacher in parts.teachers], len(parts.training))
    finally:
        network.train()
    parts.distiller.to(device)


def unit_embeddings(parts: Parts) -> np.ndarray:
    """float32 [n, D]: the training places as the network sees them now, clean, rows of length 1."""
    _, table = Embedder(parts.context).embed(parts.network, parts.training.records, "training places, to mine tuples")
    embeddings: Tensor = table["embedding"]
    return torch.nn.functional.normalize(embeddings, dim=1).numpy()
