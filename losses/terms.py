"""The table of distillation terms, and how one is written: ``--kd NAME[@LAYERS[/TEACHER_LAYERS]][:WEIGHT]``.

A term is a function ``f(student, teacher) -> scalar`` of two tensors, or, where it owns parameters or remembers
something, a module built from a :class:`~distilplace.losses.baselines.units.Start` and called likewise. Its signature
says the rest: further positional parameters are entries of the batch (``positives_mask``; optional where the default is
None) or, as ``teacher_KEY``, of the teacher's output; keyword-only ones are settings, named as on the command line
(:mod:`distilplace.losses.parts.checks`).

A baseline is one such function, one line here, and one test. The teacher's tensors are constants: the distiller
detaches them before a term sees them.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from distilplace.common.errors import UserError, unknown_name
from distilplace.common.outputs import ALIGNED
from distilplace.common.registry import imported
from distilplace.losses import settings
from distilplace.losses.parts.checks import setting_defaults

EMBEDDING = "embedding"
"""The layer that stands for the embedding, where a term may read it or a map."""


@dataclass(frozen=True)
class Kind:
    """One line of the table: where a term is defined, and what it reads.

    ``reads``: ``embedding`` [B, D]; ``aligned_embedding``: the student's embedding [B, d], and the teacher's in the
    space in which both are compared one by one; ``pose`` [B, 7]; ``features``: the embedding, or any output that a
    layer names; ``map``: a feature map [B, C, h, w], by default of the second layer (FitNet's hint); ``maps``:
    likewise, by default of all. A term read at several layers is the sum over them. ``bank``: it also keeps the
    teacher's embeddings of all training places.
    """

    target: str
    reads: str = EMBEDDING
    bank: bool = False


TERMS = {
    "kd": Kind("distilplace.losses.baselines.vectors:kd"),
    "mse": Kind("distilplace.losses.baselines.vectors:mse"),
    "epcnet": Kind("distilplace.losses.baselines.vectors:mse"),
    "cc": Kind("distilplace.losses.baselines.vectors:CC"),
    "mkd": Kind("distilplace.losses.baselines.vectors:mkd"),
    "dist": Kind("distilplace.losses.baselines.vectors:dist"),
    "afd": Kind("distilplace.losses.baselines.relational:afd"),
    "rkd_d": Kind("distilplace.losses.baselines.relational:rkd_d"),
    "rkd_a": Kind("distilplace.losses.baselines.relational:rkd_a"),
    "rkd": Kind("distilplace.losses.baselines.relational:rkd"),
    "rkdg": Kind("distilplace.losses.baselines.relational:rkdg"),
    "sp": Kind("distilplace.losses.baselines.relational:sp", "features"),
    "selfsim": Kind("distilplace.losses.baselines.relational:selfsim", "features"),
    "pkt": Kind("distilplace.losses.baselines.relational:pkt"),
    "csd": Kind("distilplace.losses.baselines.relational:csd"),
    "simkl": Kind("distilplace.losses.baselines.relational:simkl"),
    "darkrank": Kind("distilplace.losses.baselines.retrieval:darkrank"),
    "lsdnet": Kind("distilplace.losses.baselines.retrieval:lsdnet"),
    "crd": Kind("distilplace.losses.baselines.memory:CRD"),
    "hint": Kind("distilplace.losses.baselines.maps:Hint", "map"),
    "vid": Kind("distilplace.losses.baselines.maps:VID", "map"),
    "at": Kind("distilplace.losses.baselines.maps:at", "maps"),
    "nst": Kind("distilplace.losses.baselines.maps:nst", "maps"),
    "posekd": Kind("distilplace.losses.baselines.pose:posekd", "pose"),
    "align": Kind("distilplace.losses.align:align", ALIGNED),
    "align_projected": Kind("distilplace.losses.align:ProjectedAlign", ALIGNED),
    "aml": Kind("distilplace.losses.aml:aml", ALIGNED),
    "csd_bank": Kind("distilplace.losses.csd_bank:CSDBank", ALIGNED, bank=True),
    "ail": Kind("distilplace.losses.baselines.pose:AIL", "pose"),
    "aht": Kind("distilplace.losses.baselines.pose:AHT", "map"),
}

ABSOLUTE = {"kd", "mse", "epcnet", "mkd", "dist", "afd", "csd", "align", "aml", "csd_bank"}
"""Terms that compare the student's embedding with the teacher's own, not relations within each network."""


@dataclass(frozen=True)
class TermSpec:
    """One term of a run: its name, the layers it reads (empty: the term's own choice) and its weight."""

    name: str
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def kind(self) -> Kind:
        """Its line of the table."""
        return TERMS[self.name]

    @property
    def label(self) -> str:
        """Its name in the log: ``pkt``, ``at_layer1_layer2``, ``sp_layer3_to_map``."""
        parts = [self.name, *self.student_layers]
        if self.teacher_layers != self.student_layers:
            parts += ["to", *self.teacher_layers]
        return "_".join(parts)


def parse_term(text: str) -> TermSpec:
    """``pkt:30000``, ``hint@layer3:100``, ``sp@layer3/map:3000``, ``at@layer1,layer2``; without a weight: 1.

    Raises:
        UserError: an unknown name (the nearest is offered), a bad weight, or layers that the term cannot read.

    """
    front, colon, number = text.strip().partition(":")
    name, at, places = front.partition("@")
    if name not in TERMS:
        raise unknown_name("term of --kd", name, TERMS)
    weight = settings.weight(f"the weight of --kd {text}", number) if colon else 1.0
    if not at:
        return TermSpec(name, weight=weight)
    if TERMS[name].reads in (EMBEDDING, ALIGNED, "pose"):
        what = TERMS[name].reads.replace("_", " ")
        raise UserError(f"--kd {text}: {name} reads the {what}, not a feature map; leave out '@{places}'")
    ours, slash, theirs = places.partition("/")
    student_layers = tuple(ours.split(","))
    teacher_layers = tuple(theirs.split(",")) if slash else student_layers
    if not all(student_layers) or not all(teacher_layers) or len(student_layers) != len(teacher_layers):
        raise UserError(f"--kd {text}: name as many maps of the teacher as of the student, NAME@MAP,MAP/MAP,MAP:WEIGHT")
    if EMBEDDING in student_layers + teacher_layers and TERMS[name].reads != "features":
        raise UserError(f"--kd {text}: {name} reads feature maps, not the embedding")
    return TermSpec(name, student_layers, teacher_layers, weight)


def load_term(name: str) -> Callable[..., Any]:
    """The function or class of a term."""
    found: Callable[..., Any] = imported(TERMS[name].target)
    return found


def term_inputs(target: Callable[..., Any]) -> dict[str, bool]:
    """What a term wants besides the two tensors: names of its parameters, and whether it must have them."""
    called: Any = target.forward if isinstance(target, type) else target  # type: ignore[attr-defined]
    parameters = inspect.signature(called).parameters.values()
    wanted = [each for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return {
        each.name: each.default is inspect.Parameter.empty
        for each in wanted
        if each.name not in ("self", "student", "teacher")
    }


def term_settings(names: Iterable[str] = tuple(TERMS)) -> dict[str, Any]:
    """Settings of the named terms (default: all) and their defaults."""
    return {key: value for name in names for key, value in setting_defaults(load_term(name)).items()}
