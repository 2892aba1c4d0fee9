"""What a run says at its end: a table on the console, numbers in ``test.json``, pictures in ``report/index.html``."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distilplace.common.files import atomic_path
from distilplace.datasets.records import Benchmark, EvaluationSet
from distilplace.engine import processes
from distilplace.engine.options import TrainOptions
from distilplace.engine.runs.environment import environment, told
from distilplace.engine.runs.folder import RunFolder
from distilplace.engine.runs.predictions import write_predictions
from distilplace.engine.teachers.loading import LoadedTeacher
from distilplace.evaluation.report.kinds import kind_of
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.report.sections.contact_sheet import example_retrievals
from distilplace.evaluation.report.writer import write_report
from distilplace.evaluation.retrieval.asymmetric import STUDENT
from distilplace.evaluation.retrieval.bootstrap import with_certainty
from distilplace.evaluation.retrieval.intervals import FEW, interval_text
from distilplace.evaluation.retrieval.measures import Result
from distilplace.evaluation.retrieval.predictions import predictions_of
from distilplace.evaluation.retrieval.results import RetrievalResult

LOG = logging.getLogger("distilplace")
FACTS = ("parameters", "ms per place")
BARE = ("R@95P", "AUC")
"""Columns whose intervals stand in the report and in ``test.json`` only: a console is 100 to 150 characters wide."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its folder, its networks with their test results (the trained one first), the test set."""

    folder: Path
    entries: list[ReportEntry]
    test: Benchmark
    notes: list[str]
    device: str = "cpu"


def role_name(options: TrainOptions) -> str:
    """Name of the network that a run trains, in tables."""
    if options.train_mode == "train_teacher":
        return f"teacher {options.model[0]}"
    return f"student {options.student_model} ({' + '.join([options.distil_method, *options.kd])})"


def log_start(folder: RunFolder, lines: Sequence[str], teachers: Sequence[LoadedTeacher]) -> None:
    """What is about to happen, in a few lines."""
    for line in lines:
        LOG.info("%s", line)
    for teacher in teachers:
        LOG.info("teacher %s: test %s", teacher.name, teacher.result.summary)
    LOG.info("run folder: %s (watch: tensorboard --logdir %s)", folder.path, folder.path.parent)


def result_table(entries: Sequence[ReportEntry]) -> str:
    """A plain-text table: one line per network, its measures, and what chance would give."""
    columns = list(dict.fromkeys(name for entry in entries for name in entry.result.columns()))
    rows = [("", *columns, *FACTS)]
    for entry in entries:
        bounds = {name: interval_text(each) for name, each in entry.result.intervals().items()}
        values = entry.result.columns()
        cells = {n: f"{cell} ({bounds[n]})" if n in bounds and n not in BARE else cell for n, cell in values.items()}
        facts = (entry.facts.get(name, "") for name in FACTS)
        rows.append((entry.name, *(cells.get(name, "") for name in columns), *facts))
    if chance := entries[0].result.chance_columns():
        rows.append(("chance", *(chance.get(name, "") for name in columns), *[""] * len(FACTS)))
    return _plain_table(rows)


def asymmetric_tables(entries: Sequence[ReportEntry]) -> list[str]:
    """A plain-text table for every student and each of its teachers: who asks in whose map, raw and centred."""
    tables = []
    for student, found in [(entry.name, each) for entry in entries for each in entry.asymmetric]:
        names = list(next(iter(found.spaces.values())).directions[STUDENT].cells)
        rows = [("queries -> database", *(f"{space} {name}" for space in found.spaces for name in names))]
        for direction in found.directions:
            measured = [space.directions.get(direction) for space in found.spaces.values()]
            cells = [each.cells.get(name, "") if each else "-" for each in measured for name in names]
            rows.append((direction, *cells))
        rows.append(("chance", *(found.chance.get(name, "") for _ in found.spaces for name in names)))
        tables.append(f"{student} and teacher {found.teacher}\n{_plain_table(rows)}")
    return tables


def _plain_table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def certainty(entries: Sequence[ReportEntry]) -> str:
    """What the intervals of a table are of, and whether there are too few queries to tell networks apart."""
    result = entries[0].result
    count, what = result.query_count, f"{result.query_count} queries"
    if isinstance(result, RetrievalResult) and result.bounds:
        count, what = result.places, f"bootstrap over {result.places} places, {what}"
    few = f"; fewer than {FEW} are too few to tell networks apart" if count < FEW else ""
    return f"in brackets: 95 % interval, {what}{few}"


def report_outcome(
    outcome: Outcome,
    *,
    title: str,
    seed: int,
    settings: Mapping[str, object] | None = None,
    predictions: str = "parquet",
) -> Path:
    """Write ``test.json``, the predictions and the report below the outcome's folder, log the table.

    Returns the path of ``index.html``; ``predictions``: as ``--predictions`` has it.
    """
    folder = outcome.folder
    entries = [_measured(each, outcome.test) for each in outcome.entries]
    write_predictions(folder, entries, predictions)
    if isinstance(outcome.test, EvaluationSet):
        _state_what_was_left_out(entries[0].result, outcome.test)
    numbers = {entry.name: entry_numbers(entry) for entry in entries}
    with atomic_path(folder / "test.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=1))
    notes = [*outcome.notes, certainty(entries)]
    kind, target = kind_of(outcome.test), folder / "report"
    page = write_report(
        target,
        kind,
        entries,
        outcome.test,
        title=title,
        notes=notes,
        settings=settings,
        environment=told(environment(outcome.device)),
        seed=seed,
    )
    tables = "\n\n".join([f"{result_table(entries)}\n({certainty(entries)})", *asymmetric_tables(entries)])
    LOG.info("\n%s\n\nreport: %s", tables, page)
    return page


def entry_numbers(entry: ReportEntry) -> dict[str, Any]:
    """A network's numbers for ``test.json``; of a student also those in the maps of its teachers, by teacher."""
    numbers = {**entry.result.to_dict(), "facts": entry.facts}
    if entry.asymmetric:
        numbers["asymmetric"] = {each.teacher: each.to_dict() for each in entry.asymmetric}
    return numbers


def _measured(entry: ReportEntry, test: Benchmark) -> ReportEntry:
    """The entry with its predictions and, of places, precision and recall with refusals and intervals over places."""
    predictions, result = predictions_of(entry.result, test), entry.result
    if predictions is not None and isinstance(test, EvaluationSet):
        result = with_certainty(result, predictions, test)
    return replace(entry, result=result, predictions=predictions)


def log_validation(folder: RunFolder, step: int, result: Result, validation: Benchmark) -> None:
    """Measures, and example retrievals where places are retrieved, into TensorBoard and ``metrics.jsonl``."""
    if not processes.is_first():
        return
    folder.metrics(step, {f"validation/{name}": value for name, value in result.scalars().items()})
    if isinstance(result, RetrievalResult) and isinstance(validation, EvaluationSet):
        picture = example_retrievals(result, validation)
        if picture is not None:
            folder.board.add_image("validation/retrievals", picture, step, dataformats="HWC")


def _state_what_was_left_out(result: Any, test: EvaluationSet) -> None:
    skipped = [pair for pair in result.skipped_pairs if test.queries[pair.query_run]]
    if skipped:
        LOG.info("%d run pairs skipped, first: %s", len(skipped), skipped[0].reason)
    if result.unmatched:
        counted = "count as misses" if test.rules.unmatched == "miss" else "are left out"
        LOG.info("%d queries without a true match %s", result.unmatched, counted)
