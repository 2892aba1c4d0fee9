"""What a student learns from: task losses, and distillation methods, one file per paper.

The tables hold "module:Class", so that importing it loads neither the methods nor the libraries behind them.
Each term of :data:`distilplace.losses.terms.TERMS` is a method too: that term alone.
"""

from distilplace.common.extras import require_training

require_training("distilplace.losses")

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distilplace.common.registry import Entry, Registry, check_settings
from distilplace.losses.tasks import pml_table
from distilplace.losses.terms import TERMS, term_settings

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


_PAPERS = {
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


class _Methods(Registry):
    """The methods, then each term as a method of its own; where both have a name (rkd, rkdg), the method is meant."""

    def settings(self, name: str) -> tuple[str, ...]:
        if not self.is_term(name):
            return super().settings(name)
        from distilplace.losses.combined import COMMON_SETTINGS

        return (*term_settings([name]), *COMMON_SETTINGS)

    def create(self, name: str, /, **settings: Any) -> Any:
        if not self.is_term(name):
            return super().create(name, **settings)
        from distilplace.losses.combined import with_terms

        check_settings(f"{self.kind} {name}", settings, self.settings(name))
        return with_terms(None, [name], **settings)

    def is_term(self, name: str) -> bool:
        """Whether a name is that of a term alone."""
        return name in TERMS and name not in _PAPERS


class _TaskLosses(Registry):
    """The losses written here, then those of pytorch-metric-learning as ``pml:NAME``."""

    def __missing__(self, name: str) -> Entry:
        if name.startswith(pml_table.PREFIX):
            from distilplace.losses.tasks.pml import check_name

            check_name("loss", name.removeprefix(pml_table.PREFIX))
        return super().__missing__(name)


_METHODS = _Methods(
    "distillation method", _PAPERS | {name: kind.target for name, kind in TERMS.items() if name not in _PAPERS}
)
_TASK_LOSSES = _TaskLosses(
    "task loss",
    {
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
        **{
            f"{pml_table.PREFIX}{name}": ("distilplace.losses.tasks.pml:PMLLoss", {"name": name})
            for name in pml_table.LOSSES
        },
    },
)


def list_distillers() -> list[str]:
    """The names that :func:`create_distiller` knows."""
    return list(_METHODS)


def distiller_settings(name: str) -> tuple[str, ...]:
    """The settings that ``create_distiller(name, ...)`` accepts."""
    return _METHODS.settings(name)


def distiller_reads(name: str) -> tuple[str, ...]:
    """Those of :func:`distiller_settings` that the method's terms depend on: DistilVPR's methods accept more."""
    ignored = () if _METHODS.is_term(name) else _METHODS.load(name).ignores
    return tuple(setting for setting in distiller_settings(name) if setting not in ignored)


def create_distiller(name: str, **settings: Any) -> "Distiller":
    """A new distillation method: ``distiller(student_output, [teacher_output], batch) -> {term: weighted scalar}``.

    Args:
        name: one of :func:`list_distillers`.
        settings: those of :func:`distiller_settings`, DistilVPR's flag names; each has a default.

    Raises:
        UserError: unknown name or setting (the nearest is offered), or a combination that means nothing.

    """
    method: Distiller = _METHODS.create(name, **settings)
    return method


def list_task_losses() -> list[str]:
    """The names that :func:`create_task_loss` knows."""
    return list(_TASK_LOSSES)


def task_loss_settings(name: str) -> tuple[str, ...]:
    """The settings that ``create_task_loss(name, ...)`` accepts."""
    return _TASK_LOSSES.settings(name)


def task_loss_layout(name: str) -> str:
    """How the loss wants batches composed: a :data:`distilplace.datasets.records.Layout`, or "any"."""
    layout: str = _TASK_LOSSES.load(name).layout
    return layout


def create_task_loss(name: str, **settings: Any) -> "TaskLoss":
    """A new task loss, see :class:`distilplace.losses.tasks.task_loss.TaskLoss`.

    Args:
        name: one of :func:`list_task_losses`.
        settings: those of :func:`task_loss_settings`; each has a default.

    Raises:
        UserError: unknown name or setting (the nearest is offered), or a value that means nothing.

    """
    loss: TaskLoss = _TASK_LOSSES.create(name, **settings)
    return loss


def implementation(name: str) -> Callable[..., Any]:
    """The class or function behind the name of a distillation method, a term or a task loss."""
    found: Callable[..., Any] = (_METHODS if name in _METHODS else _TASK_LOSSES).load(name)
    return found
