"""Methods made of named terms: ``--kd NAME:WEIGHT`` added to any method, or a term as a method of its own."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.outputs import ALIGNED, layer_maps
from distilplace.common.randomness import counted_seed
from distilplace.common.registry import check_settings
from distilplace.losses import settings as rules
from distilplace.losses.baselines.units import Start
from distilplace.losses.distiller import Distiller, Outputs, on_device, same_space
from distilplace.losses.parts.checks import checked
from distilplace.losses.terms import ABSOLUTE, EMBEDDING, TermSpec, load_term, parse_term, term_inputs, term_settings

TEACHER = "teacher_"
MASKS = ("positives_mask", "negatives_mask")
Layers = tuple[str, ...]


class Part(nn.Module):
    """One term of a run: reads its layers, averages over the teachers, owns its adaptors (one per teacher and layer).

    Averaging over teachers is our reading; one teacher is the identity.
    """

    first: Tensor

    def __init__(self, spec: TermSpec, given: Mapping[str, Any], *, auto_scale: bool, seed: int) -> None:
        super().__init__()
        self.spec, self.seed, self.auto_scale = spec, seed, auto_scale
        self.target = load_term(spec.name)
        self.options = checked(self.target, given)
        self.inputs = term_inputs(self.target)
        self.requires = tuple(name.removeprefix(TEACHER) for name in self.inputs if name.startswith(TEACHER))
        self.requires += ("pose",) if spec.kind.reads == "pose" else ()
        self.adaptors = nn.ModuleList()
        self.banks: list[Tensor] = []
        self.level_maps: dict[str, list[Layers]] = {"student": [], "teacher": []}
        if auto_scale:
            self.register_buffer("first", torch.tensor(math.nan))

    def maps(self, whose: str, layers: Layers) -> Layers:
        """Names of the feature maps wanted of the student or of a teacher with these ``level_maps``."""
        if layers not in self.level_maps[whose]:
            self.level_maps[whose].append(layers)
        named = self.spec.student_layers if whose == "student" else self.spec.teacher_layers
        return tuple(name for name in named or self._default(layers) if name != EMBEDDING)

    def _default(self, layers: Layers) -> Layers:
        reads = self.spec.kind.reads
        return layers if reads == "maps" else layers[:2][-1:] if reads == "map" else ()

    def _layers(self, whose: str, output: Outputs) -> Layers:
        """The layers to read of this output: those named, or the default ones of its network."""
        named = self.spec.student_layers if whose == "student" else self.spec.teacher_layers
        reads = self.spec.kind.reads
        if named or reads not in ("map", "maps"):
            one = reads == "features" or (reads == ALIGNED and whose == "student")
            return named or (EMBEDDING if one else reads,)
        maps = layer_maps(output)
        fitting = [layers for layers in self.level_maps[whose] if all(name in maps for name in self._default(layers))]
        found = self._default(max(fitting, key=len, default=tuple(maps)))
        if not found:
            raise UserError(f"term {self.spec.name} reads feature maps, which the {whose} does not give")
        return found

    def read(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """What the term compares: one pair of tensors per layer. Default ones are paired from the coarse end."""
        ours, theirs = self._layers("student", student), self._layers("teacher", teacher)
        count = min(len(ours), len(theirs))
        pairs = zip(ours[-count:], theirs[-count:], strict=True)
        return [(self._at(student, "student", mine), self._at(teacher, "teacher", other)) for mine, other in pairs]

    def _at(self, output: Outputs, whose: str, layer: str) -> Tensor:
        if layer in (EMBEDDING, ALIGNED, "pose"):
            return output[layer]
        maps = layer_maps(output)
        if layer not in maps:
            raise UserError(
                f"term {self.spec.name}: the {whose} gives no feature map '{layer}'; "
                f"it gives {', '.join(maps) or 'none'}"
            )
        found = maps[layer]
        if self.spec.kind.reads in ("map", "maps") and found.dim() != 4:
            raise UserError(
                f"term {self.spec.name} reads maps [batch, channels, height, width]; the {whose}'s '{layer}' has shape "
                f"{tuple(found.shape)}: name another after '@'"
            )
        return found

    def prepare(self, student: Outputs, teachers: Sequence[Outputs], places: int) -> None:
        """Build the adaptors, or try the term, from the outputs for two places."""
        self.adaptors = nn.ModuleList()
        device = student[EMBEDDING].device
        for k, teacher in enumerate(teachers):
            for layer, pair in enumerate(self.read(student, teacher)):
                if self.spec.kind.reads == ALIGNED and self.spec.name in ABSOLUTE:
                    same_space(*pair)
                if isinstance(self.target, type):
                    bank = self.banks[k] if self.banks and self.spec.kind.bank else None
                    start = Start(*pair, places, counted_seed(self.seed, self.spec.label, k, layer), bank)
                    self.adaptors.append(self.target(start, **self.options).to(device).eval())
                if not any(self.inputs.values()):
                    self._function(-1)(*pair)
        self.adaptors.train(self.training)

    def forward(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> Tensor:
        """The raw scalar."""
        total = student[EMBEDDING].new_zeros(())
        used = 0
        for teacher in teachers:
            extras = self._extras(teacher, batch, student[EMBEDDING].device)
            for pair in self.read(student, teacher):
                total = total + self._function(used)(*pair, **extras).to(total.dtype)
                used += 1
        return total / len(teachers)

    @property
    def is_ready(self) -> bool:
        """Are its adaptors built, if it has any?"""
        return not isinstance(self.target, type) or len(self.adaptors) > 0

    def _function(self, which: int) -> Callable[..., Tensor]:
        if not isinstance(self.target, type):
            return lambda *pair, **extras: self.target(*pair, **extras, **self.options)
        return self.adaptors[which]

    def _extras(self, teacher: Outputs, batch: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
        extras: dict[str, Tensor] = {}
        for name, needed in self.inputs.items():
            if name.startswith(TEACHER):
                extras[name] = teacher[name.removeprefix(TEACHER)]
            elif name in batch:
                extras[name] = batch[name].to(device)
            elif needed:
                raise UserError(f"term {self.spec.name} needs {name} of the batch, which this data set does not give")
        return extras

    def weighted(self, raw: Tensor) -> Tensor:
        """The weighted scalar; with ``auto_scale`` in units of the size of its first value above 0 in training."""
        if not self.auto_scale:
            return self.spec.weight * raw
        size = raw.detach().abs().to(self.first.dtype)
        if self.training and not torch.isfinite(self.first) and torch.isfinite(size) and size > 0:
            self.first.copy_(size)
        return self.spec.weight * raw / self.first.nan_to_num(1.0).to(raw.dtype)


class Combined(Distiller):
    """A method's terms and the named ones. Names in the result: ``pkt``, ``sp_layer3``; ``kd_NAME`` where taken.

    Any number of teachers (at least one), unless the method takes a certain number.
    """

    def __init__(self, method: Distiller | None, parts: Sequence[Part]) -> None:
        super().__init__()
        self.method = method
        self.parts = nn.ModuleList(parts)
        keys = method.requires if method is not None else ()
        self.requires = tuple(dict.fromkeys((*keys, EMBEDDING, *(key for part in parts for key in part.requires))))
        others = method.teacher_requires if method is not None else ()
        aligned = tuple(ALIGNED for part in parts if part.spec.kind.reads == ALIGNED)
        self.teacher_requires = tuple(dict.fromkeys((*others, *aligned)))
        self.teacher_count = method.teacher_count if method is not None else None
        own = any(part.spec.name in ABSOLUTE for part in parts)
        self.absolute = own or (method is not None and method.absolute)
        banks = any(part.spec.kind.bank for part in parts)
        self.reads_bank = banks or (method is not None and method.reads_bank)
        masks = any(name in MASKS for part in parts for name in part.inputs)
        self.reads_masks = masks or (method is not None and method.reads_masks)
        # Poses belong to a crop as much as maps do.
        reads_poses = any(part.spec.kind.reads == "pose" for part in parts)
        self.same_inputs = reads_poses or (method is not None and method.same_inputs)

    def student_maps(self, layers: Layers) -> Layers:
        """All that its terms read of the student."""
        return self._maps("student", layers, () if self.method is None else self.method.student_maps(layers))

    def teacher_maps(self, layers: Layers) -> Layers:
        """All that its terms read of a teacher."""
        return self._maps("teacher", layers, () if self.method is None else self.method.teacher_maps(layers))

    def _maps(self, whose: str, layers: Layers, names: Layers) -> Layers:
        wanted = [name for part in self._parts() for name in part.maps(whose, tuple(layers))]
        return tuple(dict.fromkeys((*names, *wanted)))

    def _parts(self) -> list[Part]:
        return [part for part in self.parts if isinstance(part, Part)]

    def see_training(self, poses: np.ndarray) -> None:
        """Handed on to the method."""
        if self.method is not None:
            self.method.see_training(poses)

    def see_bank(self, banks: Sequence[Tensor]) -> None:
        """Handed on to the method and to the terms."""
        if self.method is not None:
            self.method.see_bank(banks)
        for part in self._parts():
            part.banks = list(banks)

    @torch.no_grad()
    def prepare(self, student: Outputs, teachers: Sequence[Outputs], places: int) -> None:
        """Build all adaptors; refuse what a term cannot read or compare."""
        if self.method is not None:
            self.method.prepare(student, teachers, places)
        self._need_teachers(teachers)
        inside = self._inputs(student, "student")
        device = inside[EMBEDDING].device
        targets = [on_device(self._inputs(teacher, "teacher"), device) for teacher in teachers]
        with torch.autocast(device.type, enabled=False):
            for part in self._parts():
                part.prepare(inside, targets, places)

    def _need_teachers(self, teachers: Sequence[Outputs]) -> None:
        if not teachers:
            names = ", ".join(part.spec.name for part in self._parts())
            raise UserError(f"term {names} compares the student with a teacher, and there is none: give --model")

    def terms(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The method's terms, then the named ones."""
        self._need_teachers(teachers)
        if not all(
            part.is_ready for part in self._parts()
        ):  # called directly: the trainer prepares before the first step
            indices = batch.get("indices")
            self.prepare(student, teachers, len(student[EMBEDDING]) if indices is None else int(indices.max()) + 1)
        weighted: dict[str, Tensor] = {}
        if self.method is not None:
            self.method.unweighted, self.method.statistics = {}, {}
            weighted |= self.method.terms(student, teachers, batch)
            self.unweighted |= self.method.unweighted
            self.statistics |= self.method.statistics
        for part in self._parts():
            label = part.spec.label
            name = f"kd_{label}" if label in weighted or label in self.unweighted else label
            raw = part(student, teachers, batch)
            self.unweighted[name] = raw
            weighted[name] = part.weighted(raw)
        return weighted


COMMON_SETTINGS: Mapping[str, Any] = {"auto_scale": False, "seed": 0}
"""Settings of every method made of terms: see :func:`with_terms`."""


def with_terms(
    method: Distiller | None,
    specs: Sequence[str],
    *,
    auto_scale: bool | str = False,
    seed: int = 0,
    **settings: Any,
) -> Distiller:
    """A method, or none, and the terms that ``specs`` name (:func:`distilplace.losses.terms.parse_term`).

    Args:
        method: the method whose terms come first; None: the named terms alone. Returned as it is when ``specs`` is
            empty.
        specs: ``NAME[@LAYERS[/TEACHER_LAYERS]][:WEIGHT]`` each.
        auto_scale: divide each named term by the size of its first value (which is saved).
        seed: of the adaptors' random start and of drawn negatives.
        settings: those of :func:`distilplace.losses.terms.term_settings`; each goes to the terms that have it.

    Raises:
        UserError: an unknown term or setting (the nearest is offered), a bad number, or one term named twice.

    """
    check_settings("the terms of --kd", settings, (*term_settings(), *COMMON_SETTINGS))
    parsed = [parse_term(spec) for spec in specs]
    if method is not None and not parsed:
        return method
    labels = [spec.label for spec in parsed]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--kd names the term {label} twice: give it once, with one weight")
    scaled = rules.switch("auto_scale", auto_scale)
    return Combined(method, [Part(spec, settings, auto_scale=scaled, seed=seed) for spec in parsed])
