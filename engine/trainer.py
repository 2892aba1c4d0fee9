"""The epoch: batches in, gradients out, numbers to the log. Which network learns, and from whom, is the caller's."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from distilplace.common.errors import UserError
from distilplace.datasets.loading import set_epoch
from distilplace.engine.embedding import move
from distilplace.engine.generations import Generations
from distilplace.engine.optimisation import by_step, restore_length, schedule_length
from distilplace.engine.options import TrainOptions
from distilplace.engine.program import Interrupted
from distilplace.engine.runs.checkpoint import load_checkpoint, save_checkpoint
from distilplace.engine.runs.folder import RunFolder
from distilplace.engine.runs.state import Progress
from distilplace.engine.runs.stopping import Stopping
from distilplace.engine.step import forward_backward
from distilplace.engine.teachers import TeacherSource
from distilplace.losses.distiller import Distiller
from distilplace.losses.tasks.task_loss import TaskLoss
from distilplace.models import PlaceNetwork

LOG = logging.getLogger("distilplace")


@dataclass
class Trainer:
    """Everything that changes while training."""

    options: TrainOptions
    network: PlaceNetwork
    task_loss: TaskLoss
    distiller: Distiller | None
    teachers: list[TeacherSource]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    sampler: Any
    loader: Any
    fabric: Any
    folder: RunFolder
    generations: Generations
    features: Callable[[], np.ndarray]
    """Unit embeddings float32 [n, D] of all training places by the network as it is: what tuples are mined from."""
    feature_maps: tuple[str, ...] = ()
    """What the losses want of the network beside its embeddings."""
    progress: Progress = field(default_factory=Progress)
    stopping: Stopping = field(default_factory=Stopping)

    # -- one epoch ------------------------------------------------------------------------------------------------

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.generations.total

    def train_epoch(self) -> dict[str, float]:
        """Train the rest of the current epoch; means of all logged numbers. The network is in train mode throughout."""
        progress = self.progress
        if progress.batch == 0 and self.generations.begin_epoch(progress.epoch):
            LOG.info("generation %d starts over, with the one before as its teacher", self._generation)
        set_epoch(self.loader, progress.epoch, skip=progress.batch)
        places, start = 0, time.perf_counter()
        for number in range(self.sampler.rounds):
            self.sampler.begin_round(number, self.features)
            for module in (self.network, self.distiller, self.task_loss):
                if isinstance(module, nn.Module):
                    module.train()
            for batch in tqdm(self.loader, desc=f"epoch {progress.epoch + 1}/{self.epochs}", leave=False, disable=None):
                values = self.train_step(move(batch, self.fabric.device))
                if by_step(self.options):
                    self.scheduler.step()
                places += len(batch["keys"])
                values["places_per_second"] = places / (time.perf_counter() - start)
                progress.add(values)
                self._log(values)
                self._save_if_due()
        if not by_step(self.options):
            self.scheduler.step()
        means = progress.end_epoch()
        self._grow_batch(means)
        return means

    @property
    def _generation(self) -> int:
        return self.generations.number(self.progress.epoch)

    def _log(self, values: dict[str, float]) -> None:
        self.folder.metrics(self.progress.step, {f"train/{name}": value for name, value in values.items()})

    def train_step(self, batch: dict[str, Any]) -> dict[str, float]:
        """One optimiser step; numbers for the log."""
        self.optimizer.zero_grad(set_to_none=True)
        teacher_outputs = [teacher.outputs(batch) for teacher in self.teachers]
        batch = {**batch, **self.generations.entries(self.progress.epoch, batch)}
        extras = {key: batch.get(key) for key in self.task_loss.batch_keys}
        log: dict[str, float] = {}

        def loss_of(outputs: dict[str, Any]) -> Tensor:
            task, statistics = self.task_loss(outputs, batch["positives_mask"], batch["negatives_mask"], **extras)
            log.update({"loss_task": float(task.detach()), **statistics})
            total = self.options.task_logit_weight * task
            if self.distiller is not None:
                terms = self.distiller(outputs, teacher_outputs, batch)
                log.update({f"loss_{name}": float(value.detach()) for name, value in terms.items()})
                log.update({f"raw_{name}": float(value) for name, value in self.distiller.unweighted.items()})
                log.update({name: float(value) for name, value in self.distiller.statistics.items()})
                total = total + self.options.distil_logit_weight * sum(terms.values())
            return total

        loss, outputs = forward_backward(
            self.network,
            batch,
            loss_of,
            split_size=self.options.train_batch_split_size,
            key=(self.options.seed, self.progress.step),
            fabric=self.fabric,
            feature_maps=self.feature_maps,
        )
        log["loss"] = float(loss)
        log["embedding_norm"] = float(outputs["embedding"].norm(dim=1).mean())
        log.update({f"lr_{group['name']}": group["lr"] for group in self.optimizer.param_groups})
        if self._is_finite(loss, log):
            self.optimizer.step()
        return log

    def _is_finite(self, loss: Tensor, log: dict[str, float]) -> bool:
        """May the step be taken? Stopped there, the run keeps the step's numbers too, as those of the step to come."""
        learning = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        log["gradient_norm"] = float(norm)
        if torch.isfinite(loss) and torch.isfinite(norm):
            return True
        culprits = [n for n, value in log.items() if n.startswith(("loss_", "gradient")) and not math.isfinite(value)]
        message = f"step {self.progress.step + 1}: {', '.join(culprits) or 'loss'} is not finite"
        if not self.options.skip_nonfinite:
            self.progress.step += 1
            self._log(log)
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
        return self.folder.path / "last.ckpt"

    def save(self) -> None:
        """Write ``last.ckpt``; no signal interrupts it."""
        with self.stopping.saving():
            save_checkpoint(self.checkpoint, self._parts(), self.progress.state())

    def stop_if_asked(self) -> None:
        """Raise :class:`Interrupted` after a signal. Call where everything is saved."""
        if self.stopping.requested:
            raise Interrupted

    def resume(self) -> bool:
        """Restore ``last.ckpt`` if there is one; numbers that were logged after it are forgotten."""
        found = self.checkpoint.exists()
        length = schedule_length(self.scheduler)  # restored, it has that of the run before
        if found:
            self.progress = Progress.restored(load_checkpoint(self.checkpoint, self._parts()), self.checkpoint)
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
        }
        losses = {"distiller": self.distiller, "task_loss": self.task_loss}
        return parts | {name: loss for name, loss in losses.items() if isinstance(loss, nn.Module)}

    def _save_if_due(self) -> None:
        due = self.options.save_every and self.progress.step % self.options.save_every == 0
        if due or self.stopping.requested:
            self.save()
        self.stop_if_asked()


def active_triplets(means: dict[str, float]) -> float | None:
    """Share of the mined triplets of the final embedding that violate the margin; None where a loss mines none."""
    for prefix in ("", "final_"):  # a loss of one embedding, a loss of several
        if count := means.get(f"{prefix}num_triplets"):
            return means[f"{prefix}num_non_zero_triplets"] / count
    return None
