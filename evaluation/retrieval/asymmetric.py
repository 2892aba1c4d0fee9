"""Asymmetric retrieval: queries embedded by a student, the database by its teacher. What is measured, and how it reads.

A robot with a camera may be localised in a map that a vehicle with LiDAR and cameras has made (asymmetric metric
learning: Budnik and Avrithis, arXiv 2006.16331). Every direction ("student -> teacher": queries -> database) is ranked
by cosines, under the rules of the benchmark; in the space ``raw`` as the networks give them, in ``centred`` with each
network's mean training output subtracted, in ``aligned`` the student as it is and the teacher in the space in which the
student learnt from it (``--align_space``), where there is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distilplace.evaluation.retrieval.cosines import Spread
from distilplace.evaluation.retrieval.intervals import Interval
from distilplace.evaluation.retrieval.measures import Result
from distilplace.evaluation.retrieval.results import RetrievalResult

STUDENT, ACROSS, TEACHER = "student -> student", "student -> teacher", "teacher -> teacher"
SPACES = ("raw", "centred", "aligned")


@dataclass(frozen=True)
class Direction:
    """One direction in one space: the numbers of a result, without its embeddings.

    ``score``: percent, the benchmark's own (R@1, mAP). ``cells`` and ``scalars``: as the result has them. ``recall``:
    percent by number retrieved; empty where no places are retrieved.
    """

    score: float
    cells: Mapping[str, str]
    scalars: Mapping[str, float]
    recall: Mapping[int, float]
    intervals: Mapping[str, Interval]


@dataclass(frozen=True)
class SpaceResult:
    """All directions that were measured in one space.

    ``cosines``: of a student's and a teacher's outputs, by kind of pair (:mod:`evaluation.retrieval.cosines`).
    """

    directions: Mapping[str, Direction]
    cosines: Mapping[str, Spread] = field(default_factory=dict)

    def kept(self, of: str) -> float | None:
        """The score of student -> teacher as a share of that of direction ``of``, percent; None where undefined."""
        across, whole = self.directions.get(ACROSS), self.directions.get(of)
        if across is None or whole is None or not whole.score > 0:
            return None
        return 100.0 * across.score / whole.score


@dataclass(frozen=True)
class AsymmetricResult:
    """A student and one of its teachers, by space.

    ``directions``: all of them in order. ``absent``: those that cannot be measured, and why. ``chance`` and
    ``chance_recall``: cells and recalls of a random ranking. ``notes``: what to keep in mind.
    """

    teacher: str
    directions: Sequence[str]
    absent: Mapping[str, str]
    spaces: Mapping[str, SpaceResult]
    chance: Mapping[str, str]
    chance_recall: Mapping[int, float]
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``: by space the directions, the kept shares in percent, the cosines."""
        return {
            "chance": dict(self.chance),
            "absent": dict(self.absent),
            "notes": list(self.notes),
            **{name: _space_to_dict(space) for name, space in self.spaces.items()},
        }


def _space_to_dict(space: SpaceResult) -> dict[str, Any]:
    measured = {
        name: {
            **each.scalars,
            "recall": {str(rank): value for rank, value in each.recall.items()},
            "interval_95": {column: list(bounds) for column, bounds in each.intervals.items()},
        }
        for name, each in space.directions.items()
    }
    spreads = {kind: vars(each) for kind, each in space.cosines.items() if each.pairs}
    return {
        "directions": measured,
        "kept": {of: space.kept(of) for of in (TEACHER, STUDENT)},
        "cosines": spreads,
    }


def direction_of(result: Result) -> Direction:
    """The numbers of a result."""
    recall = dict(result.recall) if isinstance(result, RetrievalResult) else {}
    return Direction(result.selection_score, result.columns(), result.scalars(), recall, result.intervals())
