"""What is asked of a student: task losses, and distillation methods, one file per paper.

The tables hold "module:Class", so that importing it loads neither the methods nor the libraries behind them.
Each term of :data:`distilplace.losses.terms.TERMS` is a method too: that term alone.
"""

from distilplace.common.extras import require_training

require_training("distilplace.losses")

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distilplace.common.errors import unknown_name
from distilplace.losses.tasks import pml_table
from distilplace.losses.terms import TERMS, load_term, term_settings

if TYPE_CHECKING:
    from distilplace.losses.distiller import Distiller
    from distilplace.losses.tasks.task_loss import TaskLoss

__all__ = [
    "create_distiller",
    "create_task_loss",
    "distiller_reads",
    "distiller_settings",
    "implementation",
    "list_distillers",
    "list_task_losses",
    "task_loss_layout",
    "task_loss_settings",
]

_DISTILLERS = {
    "nokd": "distilplace.losses.distilvpr:NoDistillation",
    "rkdg": "distilplace.losses.distilvpr:SelfAgent",
    "ours": "distilplace.losses.distilvpr:CrossAgent",
    "ours_rkdg": "distilplace.losses.distilvpr:SelfCrossAgent",
    "rkd": "distilplace.losses.rkd:RKD",
    "asht": "distilplace.losses.asht:ASHT",
    "wakd": "distilplace.losses.wakd:WAKD",
    "sckd": "distilplace.losses.sckd:SCKD",
    "whiten_mtd": "distilplace.losses.whiten_mtd:WhitenMTD",
}

_TASK_LOSSES = {
    "MultiBatchHardTripletMarginLoss": "distilplace.losses.tasks.triplet:MultiBatchHardTripletMarginLoss",
    "BatchHardTripletMarginLoss": "distilplace.losses.tasks.triplet:BatchHardTripletMarginLoss",
    "TruncatedSmoothAP": "distilplace.losses.tasks.smooth_ap:TruncatedSmoothAP",
    "RankingCrossEntropy": "distilplace.losses.tasks.ranking:RankingCrossEntropy",
    "CorrelationRankingCrossEntropy": "distilplace.losses.tasks.ranking:CorrelationRankingCrossEntropy",
    "sare_ind": "distilplace.losses.tasks.tuples:SareInd",
    "sare_joint": "distilplace.losses.tasks.tuples:SareJoint",
    "triplet": "distilplace.losses.tasks.tuples:TupleTriplet",
    "pose": "distilplace.losses.tasks.pose:PoseLoss",
    "none": "distilplace.losses.tasks.notask:NoTask",
}


def list_distillers() -> list[str]:
    """The names that :func:`create_distiller` knows."""
    return list(dict.fromkeys((*_DISTILLERS, *TERMS)))


def distiller_settings(name: str) -> tuple[str, ...]:
    """The settings that ``create_distiller(name, ...)`` accepts."""
    if _is_term(name):
        from distilplace.losses.combined import COMMON_SETTINGS

        return (*term_settings([name]), *COMMON_SETTINGS)
    return _settings(_class_of("distillation method", _DISTILLERS, name, list_distillers()))


def distiller_reads(name: str) -> tuple[str, ...]:
    """Those of :func:`distiller_settings` that the method's terms depend on: DistilVPR's methods accept more."""
    accepted = distiller_settings(name)
    if _is_term(name):
        return accepted
    found: Any = _class_of("distillation method", _DISTILLERS, name, list_distillers())
    return tuple(setting for setting in accepted if setting not in found.ignores)


def create_distiller(name: str, **settings: Any) -> "Distiller":
    """A new distillation method: ``distiller(student_output, [teacher_output], batch) -> {term: weighted scalar}``.

    Args:
        name: one of :func:`list_distillers`.
        settings: those of :func:`distiller_settings`, DistilVPR's flag names; each has a default.

    Raises:
        UserError: unknown name or setting (the nearest is offered), or a combination that means nothing.

    """
    if _is_term(name):
        from distilplace.losses.combined import with_terms

        _check_settings(f"distillation method {name}", settings, distiller_settings(name))
        return with_terms(None, [name], **settings)
    return _create(
        f"distillation method {name}", _class_of("distillation method", _DISTILLERS, name, list_distillers()), settings
    )


def list_task_losses() -> list[str]:
    """The names that :func:`create_task_loss` knows."""
    return [*_TASK_LOSSES, *(f"{pml_table.PREFIX}{name}" for name in pml_table.LOSSES)]


def task_loss_settings(name: str) -> tuple[str, ...]:
    """The settings that ``create_task_loss(name, ...)`` accepts."""
    return tuple(name for name in _settings(_task_loss_class(name)) if name != "name")


def task_loss_layout(name: str) -> str:
    """How the loss wants batches composed: a :data:`distilplace.datasets.records.Layout`, or "any"."""
    layout: str = _task_loss_class(name).layout
    return layout


def create_task_loss(name: str, **settings: Any) -> "TaskLoss":
    """A new task loss, see :class:`distilplace.losses.tasks.task_loss.TaskLoss`.

    Args:
        name: one of :func:`list_task_losses`.
        settings: those of :func:`task_loss_settings`; each has a default.

    Raises:
        UserError: unknown name or setting (the nearest is offered), or a value that means nothing.

    """
    found = _task_loss_class(name)
    _check_settings(f"task loss {name}", settings, task_loss_settings(name))
    if name.startswith(pml_table.PREFIX):
        return found(name.removeprefix(pml_table.PREFIX), **settings)
    return found(**settings)


def implementation(name: str) -> Callable[..., Any]:
    """The class or function behind the name of a distillation method, a term or a task loss."""
    if _is_term(name):
        return load_term(name)
    if name in _DISTILLERS:
        return _class_of("distillation method", _DISTILLERS, name, list_distillers())
    return _task_loss_class(name)


def _is_term(name: str) -> bool:
    """Whether ``name`` is a term alone; where a method has the same name (rkd, rkdg), the method is meant."""
    return name in TERMS and name not in _DISTILLERS


def _task_loss_class(name: str) -> Any:
    """A task loss by its name; one of pytorch-metric-learning as ``pml:NAME``."""
    if not name.startswith(pml_table.PREFIX):
        return _class_of("task loss", _TASK_LOSSES, name, list_task_losses())
    from distilplace.losses.tasks.pml import PMLLoss, check_name

    check_name("loss", name.removeprefix(pml_table.PREFIX))
    return PMLLoss


def _class_of(kind: str, table: Mapping[str, str], name: str, known: Iterable[str]) -> Any:
    if name not in table:
        raise unknown_name(kind, name, known)
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _settings(found: type) -> tuple[str, ...]:
    return tuple(inspect.signature(found).parameters)


def _create(what: str, found: type, settings: Mapping[str, Any]) -> Any:
    _check_settings(what, settings, _settings(found))
    return found(**settings)


def _check_settings(what: str, given: Iterable[str], accepted: tuple[str, ...]) -> None:
    for key in given:
        if key not in accepted:
            raise unknown_name(f"setting of {what}", key, accepted)
