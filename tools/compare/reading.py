"""A finished run as ``compare`` reads it: options, test results and first results of every query, from its folder."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.engine.options.yaml_files import read_typed_yaml
from distilplace.evaluation.retrieval.predictions_file import NAME as PREDICTIONS

if TYPE_CHECKING:
    import pandas as pd

CONFIG, TEST = "config.yaml", "test.json"
QUESTION = ["query_run", "database_run", "query_key"]
"""Columns that name a query put to one database run."""
_ANSWER = ["place", "correct", "evaluated", "positives", "similarity", "retrieved_key", "distance"]
AGAIN = "run its train.py command with --resume auto, which tests a finished run again"


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """The trained network of one run folder.

    ``result``: its entry of ``test.json``; ``first``: its first result of every query and database run, by
    ``QUESTION`` in order, with ``place``, ``correct``, ``evaluated``, ``positives``, ``similarity``, ``retrieved_key``.
    """

    path: Path
    options: dict[str, Any] = field(repr=False)
    result: dict[str, Any] = field(repr=False)
    first: "pd.DataFrame" = field(repr=False)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def recall(self, rank: int) -> float:
        """Recall at ``rank``, percent."""
        return float(self.result["recall"][str(rank)])


def read_run(path: Path) -> FinishedRun:
    """The run in the folder ``path``.

    Raises:
        UserError: no finished run of place retrieval lies there, or a file of it is damaged.

    """
    for name, why in ((CONFIG, "it is no run folder"), (TEST, "this run has not been tested")):
        if not (path / name).is_file():
            raise UserError(f"{path} holds no {name}: {why}; name folders such as logs/demo/distilled")
    if not (path / PREDICTIONS).is_file():
        raise UserError(f"{path} holds no {PREDICTIONS}, which single queries are compared by: {AGAIN}")
    options = read_typed_yaml(path / CONFIG, "put it back as it was")
    try:
        results = json.loads((path / TEST).read_text())
        model, result = next(iter(results.items()))
        retrieves = "recall" in result and "pairs" in result
    except (ValueError, AttributeError, TypeError, StopIteration):
        raise UserError(f"{path / TEST} is damaged: {AGAIN}") from None
    if not retrieves:
        raise UserError(f"{path} was not tested by recall between runs, which is what compare reads: leave it out")
    return FinishedRun(path, options, result, _first(path / PREDICTIONS, model))


def _first(path: Path, model: str) -> "pd.DataFrame":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = [("rank", "=", 1), ("model", "=", model)]
        table = pq.read_table(path, columns=[*QUESTION, *_ANSWER], filters=rows).to_pandas()
    except (pa.ArrowException, OSError):
        raise UserError(f"{path} is damaged: {AGAIN}") from None
    if not len(table):
        raise UserError(f"{path} holds nothing of {model}, the network that its test.json tells of: {AGAIN}")
    for name in (*QUESTION, "retrieved_key"):
        table[name] = table[name].astype(str)
    return table.sort_values(QUESTION, kind="stable", ignore_index=True)


def require_one_test_set(runs: list[FinishedRun]) -> None:
    """Refuse runs that were not tested by the same queries with the same true places.

    Raises:
        UserError: naming the first run that differs from the first one, and in what.

    """
    first = runs[0]
    for other in runs[1:]:
        if difference := _difference(first.first, other.first):
            raise UserError(
                f"{other.path} was tested on another set than {first.path} ({difference}): compare runs of one test set"
            )


def _difference(one: "pd.DataFrame", other: "pd.DataFrame") -> str | None:
    mine, theirs = (set(map(tuple, each[QUESTION].to_numpy())) for each in (one, other))
    if mine != theirs:
        odd = sorted(mine ^ theirs)
        return f"{len(odd)} queries are in one of them alone, such as {odd[0][2]} in {odd[0][1]}"
    counts = [each[["positives", "evaluated"]].to_numpy(dtype=np.int64) for each in (one, other)]
    if not np.array_equal(*counts):
        row = int(np.flatnonzero((counts[0] != counts[1]).any(axis=1))[0])
        return f"the same queries, other true places, such as those of {one['query_key'][row]}"
    return None
