"""Which epoch's weights are kept: the best of the validation split, or the last where there is none to choose by."""

import logging

from datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from datasets.records import Benchmark, EvaluationSet

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

    """

    def __init__(self, validation: Benchmark | None, least: int) -> None:
        self.validation = validation
        self.chooses = validation is not None and (count := query_count(validation)) >= least
        if validation is not None and not self.chooses:
            LOG.info(
                "validation split of %d queries is too small to choose an epoch by (--val_min_queries %d): "
                "its recalls are logged, the last epoch is kept",
                *(count, least),
            )
