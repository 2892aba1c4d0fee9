"""What the loop in ``train.py`` is made of: batches, forward pass, losses, step, numbers to the log, checkpoint."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.datasets.loading import set_epoch
from distilplace.engine import processes
from distilplace.engine.alarms import Alarms, active_triplets, embedding_statistics
from distilplace.engine.context import Context
from distilplace.engine.generations import Generations
from distilplace.engine.optimisation import by_step, restore_length, schedule_length
from distilplace.engine.options import TrainOptions
from distilplace.engine.program import Interrupted
from distilplace.engine.progress import bar
from distilplace.engine.runs.checkpoint import LAST, kept_checkpoints, load_checkpoint, save_checkpoint
from distilplace.engine.runs.folder import RunFolder
from distilplace.engine.runs.folder_alarms import FolderAlarms
from distilplace.engine.runs.state import Progress
from distilplace.engine.runs.stopping import Stopping
from distilplace.engine.step import Batch, Forward, Output
from distilplace.engine.teachers.sources import TeacherSource
from distilplace.engine.teachers.unchanged import TeacherDigests
from distilplace.losses.distiller import Distiller
from distilplace.losses.tasks.task_loss import TaskLoss
from distilplace.models import PlaceNetwork

LOG = logging.getLogger("distilplace")


@dataclass
class Trainer:
    """Everything that changes while training."""

    context: Context[TrainOptions]
    network: PlaceNetwork
    task_loss: TaskLoss
    distiller: Distiller | None
    teachers: list[TeacherSource]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    sampler: Any
    loader: Any
    folder: RunFolder
    generations: Generations
    features: Callable[[], np.ndarray]
    """Unit embeddings float32 [n, D] of all training places by the network as it is: what tuples are mined from."""
    feature_maps: tuple[str, ...] = ()
    """What the losses want of the network beside its embeddings."""
    progress: Progress = field(default_factory=Progress)
    stopping: Stopping = field(default_factory=Stopping)
    alarms: Alarms = field(default_factory=Alarms)
    _log: dict[str, float] = field(default_factory=dict, init=False)
    """Numbers of the current step."""
    _places: int = field(default=0, init=False)
    _start: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.folder_alarms = FolderAlarms(self.folder.path)
        self._digests = TeacherDigests(self.options.model, self.teachers)

    # -- one epoch ------------------------------------------------------------------------------------------------

    @property
    def options(self) -> TrainOptions:
        """The run's."""
        return self.context.options

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.generations.total

    @property
    def is_done(self) -> bool:
        """Are all epochs behind?"""
        return self.progress.epoch >= self.epochs

    def batches(self) -> Iterator[Batch]:
        """The batches, on the device, of the rest of the current epoch; the network is in train mode throughout."""
        progress = self.progress
        if progress.batch == 0 and self.generations.begin_epoch(progress.epoch):
            number = self.generations.number(progress.epoch)
            LOG.info("generation %d starts over, with the one before as its teacher", number)
        set_epoch(self.loader, progress.epoch, skip=progress.batch)
        self._places, self._start = 0, time.perf_counter()
        for number in range(self.sampler.rounds):
            self._begin_round(number)
            for module in (self.network, self.distiller, self.task_loss):
                if isinstance(module, nn.Module):
                    module.train()
            for batch in bar(self.loader, f"epoch {progress.epoch + 1}/{self.epochs}"):
                processes.require_same(batch["indices"], "training frames")
                batch = self.context.move(batch)
                entries = self.generations.entries(progress.epoch, batch)
                if entries["previous"] is not None:
                    entries["previous"] = processes.gathered(entries["previous"], batch.get("share"))
                yield {**batch, **entries}

    def _begin_round(self, number: int) -> None:
        """Choose the round's batches; on machines that round differently, too, all processes mine the same tuples."""
        self.sampler.begin_round(number, self.features)
        if processes.count() > 1:
            self.sampler.load_state_dict(processes.on_first(self.sampler.state_dict))

    def forward(self, batch: Batch) -> Forward:
        """The network's pass over a batch, in stages of ``--train_batch_split_size``; old gradients are dropped."""
        self.optimizer.zero_grad(set_to_none=True)
        self._log = {}
        return Forward(
            self.network,
            batch,
            split_size=self.options.train_batch_split_size,
            key=(self.options.seed, self.progress.step),
            fabric=self.context.fabric,
            feature_maps=self.feature_maps,
        )

    def teacher_outputs(self, batch: Batch) -> list[Output]:
        """What each teacher says of the batch's places, without gradient; nothing without teachers."""
        return [processes.gathered(teacher.outputs(batch), batch.get("share")) for teacher in self.teachers]

    def weighted_task_loss(self, student: Output, batch: Batch) -> Tensor:
        """The task loss of the network's outputs, by ``--task_logit_weight``."""
        extras = {key: batch.get(key) for key in self.task_loss.batch_keys}
        loss, statistics = self.task_loss(student, batch.get("positives_mask"), batch.get("negatives_mask"), **extras)
        self._log |= {"loss_task": float(loss.detach()), **statistics}
        pairs = batch.get("positives_mask"), batch.get("negatives_mask")
        self._log |= embedding_statistics(student["embedding"], *pairs)
        return self.options.task_logit_weight * loss

    def distillation_loss(self, student: Output, teachers: list[Output], batch: Batch) -> Tensor | float:
        """The sum of all distillation terms, by ``--distil_logit_weight``; 0 without distillation."""
        if self.distiller is None:
            return 0.0
        terms = self.distiller(student, teachers, batch)
        self._log |= {f"loss_{name}": float(value.detach()) for name, value in terms.items()}
        self._log |= {f"raw_{name}": float(value) for name, value in self.distiller.unweighted.items()}
        self._log |= {name: float(value) for name, value in self.distiller.statistics.items()}
        return self.options.distil_logit_weight * sum(terms.values())

    def step(self, forward: Forward, loss: Tensor) -> None:
        """Let the optimiser use the gradients, if they are finite; log the step's numbers, save where that is due."""
        embeddings = forward.outputs["embedding"].detach()
        self._log |= {"loss": float(loss.detach()), "embedding_norm": float(embeddings.norm(dim=1).mean())}
        self._log |= {f"lr_{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        processes.mean_gradients(self._learning())
        if self._is_finite(loss.detach(), self._log, forward.batch):
            self.optimizer.step()
        if by_step(self.options):
            self.scheduler.step()
        self._places += len(embeddings)
        self._log["places_per_second"] = self._places / (time.perf_counter() - self._start)
        self.progress.add(self._log)
        self._write(self._log)
        self._save_if_due()

    def end_epoch(self) -> dict[str, float]:
        """Move the schedule and the batch size on; means of all logged numbers."""
        if not by_step(self.options):
            self.scheduler.step()
        means = self.progress.end_epoch()
        self.alarms.look(self.progress.epoch, means)
        self._grow_batch(means)
        return means

    def _learning(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _write(self, values: dict[str, float]) -> None:
        self.folder.metrics(self.progress.step, {f"train/{name}": value for name, value in values.items()})

    def _is_finite(self, loss: Tensor, log: dict[str, float], batch: Batch) -> bool:
        """May the step be taken? Stopped there, the run keeps the step's numbers too, as those of the step to come."""
        gradients = [parameter.grad for parameter in self._learning() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        log["gradient_norm"] = float(norm)
        if torch.isfinite(loss) and torch.isfinite(norm):
            return True
        named = [n for n, value in log.items() if n.startswith(("loss_", "gradient")) and not math.isfinite(value)]
        culprits, step = ", ".join(named) or "loss", self.progress.step + 1
        if not self.options.skip_nonfinite:
            self.progress.step = step
            self._write(log)
        kept = processes.on_first(self.folder_alarms.nonfinite, batch, step, culprits)
        message = f"step {step}: {culprits} is not finite{kept}"
        if not self.options.skip_nonfinite:
            raise UserError(
                f"{message}; lower the learning rate or the term's weight, or pass --skip_nonfinite to skip such steps"
            )
        LOG.warning("%s; step skipped", message)
        self.optimizer.zero_grad(set_to_none=True)
        return False

    def _grow_batch(self, means: dict[str, float]) -> None:
        """Batch expansion (MinkLoc3D): more places per batch once few triplets still violate the margin."""
        if self.options.batch_expansion_rate is None or (active := active_triplets(means)) is None:
            return
        if active < self.options.batch_expansion_th and self.sampler.expand_batch():
            LOG.info("active triplets %.2f: batches grow to %d places", active, self.sampler.batch_size)

    # -- keep and restore -----------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """Path of ``last.ckpt``."""
        return self.folder.path / LAST

    def save(self) -> None:
        """Write ``last.ckpt``, one for all processes; no signal interrupts it."""
        if not processes.is_first():
            return
        with self.stopping.saving():
            self.folder_alarms.disk(self.checkpoint)
            save_checkpoint(self.checkpoint, self._parts(), self.progress.state())

    def stop_if_asked(self) -> None:
        """Raise :class:`Interrupted` after a signal to any process. Call where everything is saved."""
        if processes.any_of(self.stopping.requested):
            raise Interrupted

    def resume(self) -> bool:
        """Restore the newest whole checkpoint if there is one; numbers that were logged after it are forgotten."""
        found = bool(kept_checkpoints(self.folder.path))
        length = schedule_length(self.scheduler)  # restored, it has that of the run before
        if found:
            state = processes.on_first(load_checkpoint, self.checkpoint, self._parts())
            if not processes.is_first():  # behind the first, who may have removed a damaged one
                load_checkpoint(self.checkpoint, self._parts())
            self.progress = Progress.restored(state, self.checkpoint)
            # Stopped after an epoch's last step, a run begins with the schedule, which torch would warn of.
            self.optimizer._opt_called = True  # type: ignore[attr-defined]
            if restore_length(self.scheduler, length):
                LOG.info(
                    "the cosine schedule now ends with epoch %d: the next rates are those of such a run, the ones until"
                    " here were those of the shorter one",
                    self.options.epochs,
                )
        self.folder.rewind(self.progress.step, inside_epoch=self.progress.batch > 0 or not found)
        return found

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "sampler": self.sampler,
            "generations": self.generations,
            "metrics": self.folder.logged,
            "teachers": self._digests,
        }
        losses = {"distiller": self.distiller, "task_loss": self.task_loss}
        return parts | {name: loss for name, loss in losses.items() if isinstance(loss, nn.Module)}

    def _save_if_due(self) -> None:
        due = self.options.save_every and self.progress.step % self.options.save_every == 0
        asked = processes.any_of(self.stopping.requested)
        if due or asked:
            self.save()
        if asked:
            raise Interrupted
