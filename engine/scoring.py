"""What a network scores on a benchmark, from the table of its outputs; one function per kind of benchmark."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord
from distilplace.engine.teachers.sources import StoredTeacher
from distilplace.evaluation.retrieval.measures import Result

Table = dict[str, Tensor]


class _Rows:
    """Finds the outputs of records in tables ``{output: [n, ...]}`` by key."""

    def __init__(self, keys: Sequence[str], table: Table) -> None:
        self._rows = {key: row for row, key in enumerate(keys)}
        self._table = table

    def __call__(self, records: Sequence[PlaceRecord], output: str = "embedding") -> Tensor:
        if output not in self._table:
            raise UserError(f"this data set measures the output '{output}', which the network does not give")
        rows = torch.tensor([self._rows[record.key] for record in records], dtype=torch.long)
        return self._table[output][rows]


def score_table(keys: Sequence[str], table: Table, test: Benchmark) -> Result:
    """The measures of ``test`` for outputs ``{name: [n, ...]}`` of the places ``keys``.

    Raises:
        UserError: the network does not give what is measured, such as poses.

    """
    scorer = next(scorer for kind, scorer in _SCORERS.items() if isinstance(test, kind))
    return scorer(_Rows(keys, table), test)


def score_store(store: StoredTeacher, test: Benchmark) -> Result:
    """What the teacher whose outputs lie in a store scores."""
    keys = [record.key for record in test.distinct_records()]
    return score_table(keys, store.outputs({"keys": keys}), test)


def _places(rows: _Rows, test: EvaluationSet) -> Result:
    from distilplace.evaluation.retrieval.precision_recall import with_f1
    from distilplace.evaluation.retrieval.runs import evaluate_runs

    database, queries = [rows(run) for run in test.database], [rows(run) for run in test.queries]
    return with_f1(evaluate_runs(database, queries, test.query_sets, metric="cosine", rules=test.rules), test)


def _poses(rows: _Rows, test: PoseSet) -> Result:
    from distilplace.evaluation.poses import evaluate_poses

    return evaluate_poses(rows(test.records, "pose").numpy(), test, test.training_poses)


def _landmarks(rows: _Rows, test: LandmarkSet) -> Result:
    from distilplace.evaluation.landmarks import evaluate_landmarks

    return evaluate_landmarks(rows(test.queries).numpy(), rows(test.database).numpy(), test)


def _videos(rows: _Rows, test: VideoSet) -> Result:
    from distilplace.evaluation.videos import evaluate_videos

    return evaluate_videos({name: rows(frames).numpy() for name, frames in test.videos.items()}, test)


_SCORERS: dict[type[Benchmark], Callable[[_Rows, Any], Result]] = {
    EvaluationSet: _places,
    PoseSet: _poses,
    LandmarkSet: _landmarks,
    VideoSet: _videos,
}
