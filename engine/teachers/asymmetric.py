"""A student measured in its teachers' maps: every direction of queries and database, as the networks are and centred.

Nothing here knows a method: whatever a student was distilled by, its outputs and its teachers' are embeddings of the
same test records.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distilplace.datasets.benchmarks import PoseSet
from distilplace.datasets.records import Benchmark, PlaceRecord
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.runs.folder import LOG
from distilplace.engine.scoring import Table, score_table
from distilplace.engine.teachers.aligned import AlignedTeacher
from distilplace.engine.teachers.loading import LoadedTeacher, embeddings_of
from distilplace.engine.teachers.sources import TeacherSource
from distilplace.engine.teachers.space import fit_space
from distilplace.evaluation.retrieval.asymmetric import (
    ACROSS,
    SPACES,
    STUDENT,
    TEACHER,
    AsymmetricResult,
    SpaceResult,
    direction_of,
)
from distilplace.evaluation.retrieval.bootstrap import with_recall_intervals
from distilplace.evaluation.retrieval.cosines import Spread, cosines, frame_pairs, spread, thinned
from distilplace.evaluation.retrieval.measures import Result
from distilplace.evaluation.retrieval.results import RetrievalResult

PARTS = {"cloud_embedding": "student -> LiDAR part", "image_embedding": "student -> image part"}
FRAMES = 2000
"""Training frames, at most, that a mean is taken over where a network has to be run for it."""
_ROWS = 4096


@dataclass(frozen=True)
class TrainingFrames:
    """What centring needs: the training frames, embedded clean, at the ``scales`` of the context.

    ``project``: what becomes of the student's embeddings (:class:`Embedder`). ``problem``: why there are no frames;
    empty where there are.
    """

    context: Context[Any]
    records: Sequence[PlaceRecord]
    project: Callable[[Tensor], Tensor] | None = None
    problem: str = ""

    def drawn(self) -> list[PlaceRecord]:
        """At most :data:`FRAMES` of them, evenly spread."""
        return [self.records[row] for row in thinned(len(self.records), FRAMES).tolist()]

    def note(self) -> str:
        """What the means are over."""
        if self.problem:
            return f"not centred: {self.problem}"
        drawn, count = min(len(self.records), FRAMES), len(self.records)
        return f"centred by the mean over {drawn if drawn == count else f'{drawn} of {count}'} training frames"

    def student_outputs(self, network: nn.Module) -> Table:
        """The student's embeddings of the frames drawn; at several scales of unit length, as at test."""
        embedder = Embedder(self.context, self.project)
        return self._of_units(embedder.embed(network, self.drawn(), "student on training frames")[1])

    def teacher_outputs(self, source: TeacherSource, name: str) -> Table:
        """A teacher's: of all frames where they are stored, of those drawn where it must be run."""
        if source.requires:
            embedder = Embedder(self.context)
            return self._of_units(embedder.embed(_Network(source), self.drawn(), f"{name} on training frames")[1])
        return self._of_units(embeddings_of(source.outputs({"keys": [record.key for record in self.records]})))

    def _of_units(self, table: Table) -> Table:
        if self.context.scales == (1.0,):
            return table
        return {name: functional.normalize(value, dim=1) for name, value in table.items()}


class _Network(nn.Module):
    """A teacher that runs in every step, as a network of embeddings."""

    def __init__(self, source: TeacherSource) -> None:
        super().__init__()
        self.requires = source.requires
        self._source = source

    def forward(self, batch: dict[str, Any]) -> Table:
        """The embeddings alone: feature maps of many frames would fill the memory."""
        return embeddings_of(self._source.outputs(batch))


@dataclass(frozen=True)
class _Side:
    """An embedding of one network: [n, D] of the test records, [m, D] of training frames (None: not known).

    ``aligned`` [n, d]: of the test records in the space in which a student learnt from this teacher; None: a student's,
    or a teacher's that was compared otherwise.
    """

    test: Tensor
    training: Tensor | None
    aligned: Tensor | None = None

    @property
    def width(self) -> int:
        """D."""
        return self.test.shape[1]

    def cut(self, start: int, stop: int) -> "_Side":
        """Some of its numbers."""
        training = None if self.training is None else self.training[:, start:stop]
        return _Side(self.test[:, start:stop], training)

    def within(self, space: str) -> Tensor:
        """The test records' in a space, float32."""
        if space == "aligned" and self.aligned is not None:
            return self.aligned
        if space != "centred" or self.training is None:
            return self.test
        fitted = fit_space("centred", self.training)
        return torch.cat([fitted.apply(rows) for rows in self.test.split(_ROWS)])


@dataclass(frozen=True)
class Outputs:
    """One network's embeddings.

    ``tested``: ``{name: [n, D]}`` of the distinct test records, in order. ``training``: ``{name: [m, D]}`` of training
    frames; empty: not known, so nothing is centred. ``result``: what ``tested`` scores by itself, where that is known.
    ``aligned``: as :class:`_Side` has it.
    """

    tested: Table
    training: Table
    result: Result | None = None
    aligned: Tensor | None = None


def compare_with_teachers(
    network: nn.Module,
    own: tuple[Table, Result],
    teachers: Sequence[LoadedTeacher],
    test: Benchmark,
    frames: TrainingFrames,
) -> list[AsymmetricResult]:
    """The student in the map of each of its teachers; nothing without teachers, and of poses.

    Args:
        network: the student, run once over the training frames for its mean.
        own: its outputs for ``test.distinct_records()``, and what they score.
        teachers: with theirs.
        test: what is retrieved, and what is right.
        frames: what both are centred by.

    """
    if not teachers or isinstance(test, PoseSet):
        return []
    LOG.info("student -> teacher: %s", frames.note())
    student = Outputs(own[0], {} if frames.problem else frames.student_outputs(network), own[1])
    found = []
    for teacher in teachers:
        training = {} if frames.problem else frames.teacher_outputs(teacher.source, f"teacher {teacher.name}")
        source, own_result = teacher.source, None if teacher.whitened else teacher.result
        aligned = source.space.apply(teacher.tested["embedding"]) if isinstance(source, AlignedTeacher) else None
        outputs = Outputs(teacher.tested, training, own_result, aligned)
        found.append(compare(teacher.name, student, outputs, test, [frames.note()]))
    return found


def compare(
    name: str, student: Outputs, teacher: Outputs, test: Benchmark, notes: Sequence[str] = ()
) -> AsymmetricResult:
    """A student and the teacher ``name`` in every direction and space.

    A teacher's part that is narrower than the student is compared with the student's numbers at its place, where the
    teacher's embedding is its parts side by side and the student as wide.
    """
    keys = [record.key for record in test.distinct_records()]
    known = {STUDENT: student.result, TEACHER: teacher.result}
    pairings, pairs = _pairings(student, teacher), frame_pairs(test)
    measured: dict[tuple[str, str], Result] = {}
    spreads: dict[str, dict[str, Spread]] = {space: {} for space in _spaces(student, teacher)}
    for space in spreads:
        for direction, (asked, found) in pairings.items():
            left, right = asked.within(space), found.within(space)
            if left.shape[1] != right.shape[1] or (space == "aligned" and direction in PARTS.values()):
                continue
            result = known.get(direction) if space == "raw" else None
            if result is None:
                result = score_table(keys, {"embedding": left}, test, {"embedding": right})
            if direction == ACROSS:
                spreads[space] = {k: spread(cosines(left.numpy(), right.numpy(), rows)) for k, rows in pairs.items()}
            measured[space, direction] = result
    sure = dict(zip(measured, with_recall_intervals([*measured.values()], test), strict=True))
    spaces = {
        space: SpaceResult({way: direction_of(each) for (own, way), each in sure.items() if own == space}, found)
        for space, found in spreads.items()
    }
    any_result = next(iter(sure.values()))
    chance, curve = any_result.chance_columns(), any_result.chance if isinstance(any_result, RetrievalResult) else {}
    return AsymmetricResult(name, list(pairings), _absent(pairings), spaces, chance, curve, notes)


def _spaces(student: Outputs, teacher: Outputs) -> list[str]:
    """The spaces that can be measured."""
    known = {"centred": bool(student.training and teacher.training), "aligned": teacher.aligned is not None}
    return [space for space in SPACES if known.get(space, True)]


def _pairings(student: Outputs, teacher: Outputs) -> dict[str, tuple[_Side, _Side]]:
    """By direction who asks and who is found."""
    own = _Side(student.tested["embedding"], student.training.get("embedding"))
    sides = {name: _Side(table, teacher.training.get(name)) for name, table in teacher.tested.items()}
    whole = sides["embedding"] = replace(sides["embedding"], aligned=teacher.aligned)
    found = {STUDENT: (own, own), ACROSS: (own, whole)}
    for name, direction in PARTS.items():
        if name in sides:
            found[direction] = (_at_the_place_of(sides[name], whole, own), sides[name])
    return {**found, TEACHER: (whole, whole)}


def _at_the_place_of(part: _Side, whole: _Side, own: _Side) -> _Side:
    """The student's numbers that stand where a part stands in the teacher's embedding; all where it stands nowhere."""
    if own.width == whole.width > part.width:
        for start in (0, whole.width - part.width):
            stop = start + part.width
            if torch.equal(whole.test[:, start:stop], part.test):
                return own.cut(start, stop)
    return own


def _absent(pairings: Mapping[str, tuple[_Side, _Side]]) -> dict[str, str]:
    return {
        direction: f"{asked.width} numbers on the left, {found.width} on the right: no cosine between them"
        for direction, (asked, found) in pairings.items()
        if asked.width != found.width
    }
