"""Optimiser with one learning rate per branch, and its schedule."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from distilplace.common.errors import UserError
from distilplace.engine.options import TrainOptions


def build_optimizer(options: TrainOptions, network: nn.Module, losses: Mapping[str, object]) -> torch.optim.Optimizer:
    """Parameters of image branches at ``--image_lr``, of cloud branches at ``--cloud_lr``.

    Parameters that one of the ``losses`` (by name) owns learn at ``--image_lr``.
    """
    rates = {"image": options.image_lr, "cloud": options.cloud_lr}
    branches = network.branch_parameters()  # type: ignore[operator]
    groups: list[dict[str, Any]] = [
        {"params": list(parameters), "lr": rates[branch], "name": branch}
        for branch, parameters in branches.items()
        if parameters
    ]
    for name, loss in losses.items():
        if isinstance(loss, nn.Module) and (owned := list(loss.parameters())):
            groups.append({"params": owned, "lr": options.image_lr, "name": name})
    kinds: dict[str, Any] = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}
    extra: dict[str, Any] = {"momentum": 0.9} if options.optimizer == "SGD" else {"eps": options.adam_eps}
    optimizer: torch.optim.Optimizer = kinds[options.optimizer](groups, weight_decay=options.weight_decay, **extra)
    return optimizer


class CosineSchedule(torch.optim.lr_scheduler.CosineAnnealingLR):
    """torch's, but past its end the rates stay at the least one instead of rising again."""

    def get_lr(self) -> list[Any]:
        """The rates of the next step or epoch."""
        over = self.last_epoch > self.T_max
        return [group["lr"] for group in self.optimizer.param_groups] if over else super().get_lr()


def build_scheduler(
    options: TrainOptions, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Stepped after every epoch; a cosine with ``--scheduler_step step`` after every one of the ``steps`` of an epoch.

    Raises:
        UserError: ``--lr_min`` above a learning rate; steps of batches that grow, whose number nobody knows.

    """
    if options.scheduler == "CosineAnnealingLR":
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        for name, rate in rates.items():
            if options.lr_min > rate:
                raise UserError(f"--lr_min {options.lr_min:g} is above the learning rate {rate:g} of {name}: lower it")
        if by_step(options) and options.batch_expansion_rate is not None:
            raise UserError("--scheduler_step step counts steps, batches that grow have no fixed number: omit one")
        length = options.epochs * (steps if by_step(options) else 1)
        return CosineSchedule(optimizer, T_max=max(length, 1), eta_min=options.lr_min)
    milestones = [] if options.scheduler == "None" else [int(part) for part in options.milestones.split("_")]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=milestones, gamma=options.lr_gamma)


def by_step(options: TrainOptions) -> bool:
    """Do learning rates move after every step? Milestones are epochs, so only those of a cosine can."""
    return options.scheduler == "CosineAnnealingLR" and options.scheduler_step == "step"


def schedule_length(scheduler: torch.optim.lr_scheduler.LRScheduler) -> int | None:
    """After how many epochs or steps a schedule ends; None for milestones, which do not depend on the length."""
    return scheduler.T_max if isinstance(scheduler, CosineSchedule) else None


def restore_length(scheduler: torch.optim.lr_scheduler.LRScheduler, length: int | None) -> bool:
    """Let a restored cosine schedule end after ``length`` if it was saved with another one; True if so.

    The rates become those of a run of that length.
    """
    if not isinstance(scheduler, CosineSchedule) or length is None or length == scheduler.T_max:
        return False
    scheduler.T_max = length
    share = (1 + math.cos(math.pi * scheduler.last_epoch / length)) / 2
    rates = [scheduler.eta_min + (base - scheduler.eta_min) * share for base in scheduler.base_lrs]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
    return True
