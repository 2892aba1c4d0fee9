"""What a network scores on a benchmark, from the table of its outputs; one function per kind of benchmark."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord
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


def score_table(keys: Sequence[str], table: Table, test: Benchmark, database: Table | None = None) -> Result:
    """The measures of ``test`` for outputs ``{name: [n, ...]}`` of the places ``keys``.

    ``database``: outputs of another network for the same places, among which those of ``table`` are searched; None:
    its own. Poses are not searched for.

    Raises:
        UserError: the network does not give what is measured, such as poses.

    """
    scorer = next(scorer for kind, scorer in _SCORERS.items() if isinstance(test, kind))
    rows = _Rows(keys, table)
    return scorer(rows, rows if database is None else _Rows(keys, database), test)


def _places(asked: _Rows, found: _Rows, test: EvaluationSet) -> Result:
    from distilplace.evaluation.retrieval.precision_recall import with_f1
    from distilplace.evaluation.retrieval.runs import evaluate_runs

    database, queries = [found(run) for run in test.database], [asked(run) for run in test.queries]
    return with_f1(evaluate_runs(database, queries, test.query_sets, metric="cosine", rules=test.rules), test)


def _poses(asked: _Rows, _found: _Rows, test: PoseSet) -> Result:
    from distilplace.evaluation.poses import evaluate_poses

    return evaluate_poses(asked(test.records, "pose").numpy(), test, test.training_poses)


def _landmarks(asked: _Rows, found: _Rows, test: LandmarkSet) -> Result:
    from distilplace.evaluation.landmarks import evaluate_landmarks

    return evaluate_landmarks(asked(test.queries).numpy(), found(test.database).numpy(), test)


def _videos(asked: _Rows, found: _Rows, test: VideoSet) -> Result:
    from distilplace.evaluation.videos import evaluate_videos

    candidates = {name: found(frames).numpy() for name, frames in test.videos.items()}
    if asked is found:
        return evaluate_videos(candidates, test)
    return evaluate_videos(candidates, test, {name: asked(test.videos[name]).numpy() for name in {*test.queries}})


_SCORERS: dict[type[Benchmark], Callable[[_Rows, _Rows, Any], Result]] = {
    EvaluationSet: _places,
    PoseSet: _poses,
    LandmarkSet: _landmarks,
    VideoSet: _videos,
}
