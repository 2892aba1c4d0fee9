"""What is asked of a student: task losses, and distillation methods, one file per paper.

The tables hold "module:Class", so that ``import losses`` loads neither the methods nor the libraries behind them.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from losses.settings import unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from losses.distiller import Distiller

__all__ = [
    "create_distiller",
    "create_task_loss",
    "distiller_settings",
    "list_distillers",
    "list_task_losses",
    "task_loss_settings",
]

_DISTILLERS = {
    "nokd": "losses.distilvpr:NoDistillation",
    "rkdg": "losses.distilvpr:SelfAgent",
    "ours": "losses.distilvpr:CrossAgent",
    "ours_rkdg": "losses.distilvpr:SelfCrossAgent",
    "rkd": "losses.rkd:RKD",
}

_TASK_LOSSES = {
    "MultiBatchHardTripletMarginLoss": "losses.triplet:MultiBatchHardTripletMarginLoss",
    "BatchHardTripletMarginLoss": "losses.triplet:BatchHardTripletMarginLoss",
    "TruncatedSmoothAP": "losses.smooth_ap:TruncatedSmoothAP",
}


def list_distillers() -> list[str]:
    """The names that :func:`create_distiller` knows."""
    return list(_DISTILLERS)


def distiller_settings(name: str) -> tuple[str, ...]:
    """The settings that ``create_distiller(name, ...)`` accepts."""
    return _settings(_class_of("distillation method", _DISTILLERS, name))


def create_distiller(name: str, **settings: Any) -> "Distiller":
    """A new distillation method: ``distiller(student_output, [teacher_output], batch) -> {term: weighted scalar}``.

    Args:
        name: one of :func:`list_distillers`.
        settings: those of :func:`distiller_settings`, DistilVPR's flag names; each has a default.

    Raises:
        UserError: unknown name or setting (the nearest is offered), or a combination that means nothing.

    """
    return _create("distillation method", _DISTILLERS, name, settings)


def list_task_losses() -> list[str]:
    """The names that :func:`create_task_loss` knows."""
    return list(_TASK_LOSSES)


def task_loss_settings(name: str) -> tuple[str, ...]:
    """The settings that ``create_task_loss(name, ...)`` accepts."""
    return _settings(_class_of("task loss", _TASK_LOSSES, name))


def create_task_loss(name: str, **settings: Any) -> "Callable[..., tuple[Tensor, dict[str, float]]]":
    """A new task loss: ``task_loss(output, positives_mask, negatives_mask) -> (scalar, {statistic: float})``.

    Args:
        name: one of :func:`list_task_losses`.
        settings: those of :func:`task_loss_settings`; each has a default.

    Raises:
        UserError: unknown name or setting (the nearest is offered), or a value that means nothing.

    """
    return _create("task loss", _TASK_LOSSES, name, settings)


def _class_of(kind: str, table: Mapping[str, str], name: str) -> type:
    if name not in table:
        raise unknown_name(kind, name, table)
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _settings(found: type) -> tuple[str, ...]:
    return tuple(inspect.signature(found).parameters)


def _create(kind: str, table: Mapping[str, str], name: str, settings: Mapping[str, Any]) -> Any:
    found = _class_of(kind, table, name)
    accepted = _settings(found)
    for key in settings:
        if key not in accepted:
            raise unknown_name(f"setting of {kind} {name}", key, accepted)
    return found(**settings)
