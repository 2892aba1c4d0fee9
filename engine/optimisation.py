"""Optimiser with one learning rate per branch, and its schedule."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from engine.options import TrainOptions


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


def build_scheduler(options: TrainOptions, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Stepped once per epoch."""
    schedule = torch.optim.lr_scheduler
    if options.scheduler == "CosineAnnealingLR":
        return schedule.CosineAnnealingLR(optimizer, T_max=max(options.epochs, 1))
    milestones = [] if options.scheduler == "None" else [int(part) for part in options.milestones.split("_")]
    return schedule.MultiStepLR(optimizer, milestones=milestones, gamma=options.lr_gamma)
