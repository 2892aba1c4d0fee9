"""Which options a run reads: whatever was given on the command line in vain is refused, from elsewhere it is told.

Asked of the code itself: an option of data sets or networks is read where changing its value changes the settings that
one of the run's parts is built from (``distilplace.engine.building``), one of methods and losses where the method has
a setting of that name. So an option needs no entry here; what no part's settings show stands in
``distilplace.engine.options.relevance_rules``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distilplace import datasets, losses, models
from distilplace.common.errors import UserError
from distilplace.common.outputs import ALIGNED
from distilplace.engine.building import (
    build_distiller,
    data_settings,
    distilled_live,
    student_settings,
    teacher_settings,
)
from distilplace.engine.options import DataOptions, LossOptions, MethodOptions, ModelOptions, OptionGroup, TrainOptions
from distilplace.engine.options.relevance_rules import STARTS, Course, asks_for_nothing, course_of, unread_by_rule
from distilplace.losses.terms import parse_term

STORE = ("teacher_store", "rebuild_store")
ALIGNING = ("align_space", "align_dim")
SHOWN = 5  # names of readers that a message holds

Part = tuple[str, str]
"""What a run is made of: its role ("data set", "teacher", "student", "loss", "method", "term") and its name."""


@dataclass(frozen=True)
class Kind:
    """Options that parts of one kind read: which options, the parts of this run, all parts there are."""

    options: Collection[str]
    mine: Sequence[Part]
    everybody: Callable[[], Sequence[Part]]
    reads: Callable[[OptionGroup, Part, str], bool]


def unread(options: OptionGroup, names: Collection[str]) -> dict[str, str]:
    """Those of the options ``names`` that change nothing in this run, with the reason of each.

    What switches off something that is not there anyway has its wish: it is not among them.

    Raises:
        UserError: a data set, network, method or loss that does not exist.

    """
    course = course_of(options)
    if course is None:
        return {}
    found = dict(unread_by_rule(options, course))
    if isinstance(options, TrainOptions) and {*names} & {*STORE} - {*found}:
        what = distilled_live(build_distiller(options))
        found |= {} if what is None else dict.fromkeys(STORE, f"this method distils {what}, which no store holds")
    if isinstance(options, TrainOptions) and {*names} & {*ALIGNING} - {*found}:
        found |= _aligning(options)
    kinds = _kinds(options, course)
    for name in names:
        for kind in kinds:
            if name in found or name not in kind.options or any(kind.reads(options, part, name) for part in kind.mine):
                continue
            if readers := [part for part in kind.everybody() if kind.reads(options, part, name)]:
                found[name] = f"read by {_listed(readers)}, not by this run's {_listed(kind.mine) or 'parts'}"
    return {name: found[name] for name in names if name in found and not asks_for_nothing(options, name)}


def _aligning(options: TrainOptions) -> dict[str, str]:
    """Options of the teacher's space where no term compares embeddings in it, or the space has no width of its own."""
    distiller = build_distiller(options)
    compares = distiller is not None and ALIGNED in distiller.teacher_requires
    if not (compares or options.align_head):
        return dict.fromkeys(ALIGNING, "read by terms that compare embeddings one by one: --kd align, aml or csd_bank")
    if options.align_space == "whitened":
        return {}
    return {"align_dim": f"a {options.align_space} space has the teacher's width: --align_space whitened"}


def refuse_unread(runs: Sequence[OptionGroup], names: Collection[str]) -> None:
    """Refuse the options ``names``, given on the command line of all ``runs``, where none of them reads one.

    Raises:
        UserError: one line with every such option, and who reads it.

    """
    each = [unread(options, names) for options in runs]
    vain = [name for name in names if all(name in found for found in each)]
    if vain:
        told = "; ".join(f"--{name} ({each[0][name]})" for name in vain)
        raise UserError(f"no effect here, omit: {told}")


def unread_note(options: OptionGroup, sources: Mapping[str, Collection[str]]) -> str | None:
    """A line for the log on options that this run does not read, by where they come from; None where there are none."""
    told = {source: list(unread(options, names)) for source, names in sources.items()}
    parts = [f"{', '.join(names)} ({source})" for source, names in told.items() if names]
    return f"options that this run does not read: {'; '.join(parts)}" if parts else None


def _kinds(options: OptionGroup, course: Course) -> list[Kind]:
    data = [("data set", name) for name in course.data_sets]
    networks = [("teacher", name) for name in course.teachers] + [("student", name) for name in course.students]

    def network_reads(options: Any, part: Part, name: str) -> bool:
        trained_already = part[0] == "teacher" and course.distils and name in STARTS
        return not trained_already and _network_reads(options, part, name)

    found = [
        Kind(DataOptions.model_fields, data, _all_data_sets, _data_set_reads),
        Kind(ModelOptions.model_fields, networks, _all_networks, network_reads),
    ]
    if isinstance(options, LossOptions):
        own = [("loss", course.loss)] if course.loss else []
        if course.distils:
            own += [("method", options.distil_method), *(("term", parse_term(text).name) for text in options.kd)]
        group = {*LossOptions.model_fields, *MethodOptions.model_fields}
        found.append(Kind(group, own, _all_methods, _method_reads))
    return found


def _all_data_sets() -> list[Part]:
    return [("data set", name) for name in datasets.list_datasets()]


def _all_networks() -> list[Part]:
    return [(role, name) for role in ("teacher", "student") for name in models.list_models()]


def _all_methods() -> list[Part]:
    own = [("loss", name) for name in losses.list_task_losses()]
    return own + [("method", name) for name in losses.list_distillers()]


def _data_set_reads(options: Any, part: Part, name: str) -> bool:
    return data_settings(options, part[1]) != data_settings(_changed(options, name), part[1])


def _network_reads(options: Any, part: Part, name: str) -> bool:
    settings_of = teacher_settings if part[0] == "teacher" else student_settings
    return settings_of(options, part[1]) != settings_of(_changed(options, name), part[1])


def _method_reads(options: Any, part: Part, name: str) -> bool:
    role, owner = part
    if role == "loss":
        return name in losses.task_loss_settings(owner)
    return name in (losses.distiller_settings(owner) if role == "term" else losses.distiller_reads(owner))


def _changed(options: Any, name: str) -> Any:
    """The same options with another value of ``name``, of the kind that its readers can take apart."""
    return options.model_copy(update={name: _another(getattr(options, name))})


def _another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "1"]
    if isinstance(value, str):
        return f"{value}_1"  # 32_64 -> 32_64_1, a list of numbers still
    return 1


def _listed(parts: Sequence[Part]) -> str:
    """``data sets images, kitti``: roles in order, long lists cut short."""
    by_role: dict[str, list[str]] = {}
    for role, name in parts:
        by_role.setdefault(role, []).append(name)
    if "teacher" in by_role and by_role["teacher"] == by_role.get("student"):
        by_role = {"network": by_role["teacher"]}
    texts = []
    for role, names in by_role.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        plural = {"loss": "losses"}.get(role, f"{role}s") if len(names) > 1 else role
        texts.append(f"{plural} {', '.join(names[:SHOWN])}{more}")
    return " and ".join(texts)
