"""Which epoch's weights are kept: the best of the validation split, or the last where there is none to choose by."""

import logging

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.datasets.records import Benchmark, EvaluationSet
from distilplace.evaluation.retrieval.measures import Result
from distilplace.evaluation.retrieval.results import RetrievalResult

LOG = logging.getLogger("distilplace")


def query_count(benchmark: Benchmark) -> int:
    """Queries that can be answered rightly: each counts once, however many databases it is put to."""
    if isinstance(benchmark, EvaluationSet):
        runs = range(len(benchmark.runs))
        entries = (entry for run in benchmark.query_sets for entry in run.values())
        return sum(any(len(entry.get(other, ())) for other in runs) for entry in entries)
    if isinstance(benchmark, PoseSet):
        return len(benchmark.records)
    if isinstance(benchmark, LandmarkSet):
        return sum(len(easy) + len(hard) > 0 for easy, hard in zip(benchmark.easy, benchmark.hard, strict=True))
    if isinstance(benchmark, VideoSet):
        return sum(any(row.values()) for row in benchmark.labels)
    raise TypeError(f"{type(benchmark).__name__} has no queries")


class Selection:
    """A validation split, and whether it is large enough to choose an epoch by; if not, the log says so.

    Args:
        validation: None where nothing is held back.
        least: queries that it must have to choose.
        metric: "auto", the selection metric of each benchmark (places: R@1), or "R@1", "R@5", "R@10" of places.

    Raises:
        UserError: a recall of a split that has none.

    """

    def __init__(self, validation: Benchmark | None, least: int, metric: str = "auto") -> None:
        if metric != "auto" and validation is not None and not isinstance(validation, EvaluationSet):
            raise UserError(f"--select_by {metric}: {validation.name} is not measured by recall; omit it")
        self.validation = validation
        self.rank = None if metric == "auto" else int(metric.removeprefix("R@"))
        self.chooses = validation is not None and (count := query_count(validation)) >= least
        if validation is not None and not self.chooses:
            LOG.info(
                "validation split of %d queries is too small to choose an epoch by (--val_min_queries %d): "
                "its recalls are logged, the last epoch is kept",
                *(count, least),
            )

    def value(self, result: Result) -> float:
        """The number that the epoch is chosen by; larger is better."""
        if self.rank is None or not isinstance(result, RetrievalResult):
            return result.selection_score
        return result.recall[self.rank]

    def told(self, result: Result) -> str:
        """The result in a few words, what is chosen by among them."""
        if self.rank in (None, 1):
            return result.summary
        return f"{result.summary}, R@{self.rank} {self.value(result):.2f}"
