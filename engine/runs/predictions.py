"""``--predictions``: what was retrieved for every query, written into the run folder or beside the report."""

import logging
from collections.abc import Sequence
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import LandmarkSet
from distilplace.datasets.records import Benchmark, EvaluationSet
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.retrieval.predictions_file import CSV, NAME, write_csv, write_parquet

LOG = logging.getLogger("distilplace")


def require_ranked(how: str, test: Benchmark) -> None:
    """:class:`UserError` where predictions are wanted as text of a benchmark that ranks nothing: before any work."""
    if how == "csv" and not isinstance(test, EvaluationSet | LandmarkSet):
        raise UserError(f"--predictions csv: {test.name} retrieves no single images to list; omit it")


def write_predictions(folder: Path, entries: Sequence[ReportEntry], how: str) -> None:
    """The predictions of all entries that have some; an earlier evaluation's files do not outlive it."""
    found = {entry.name: entry.predictions for entry in entries if entry.predictions is not None}
    for name, write, wanted in ((NAME, write_parquet, how != "none"), (CSV, write_csv, how == "csv")):
        if wanted and found:
            write(folder / name, found)
        else:
            (folder / name).unlink(missing_ok=True)
    if how != "none" and not found:
        LOG.info("no %s: this data set retrieves no single images to list", NAME)
