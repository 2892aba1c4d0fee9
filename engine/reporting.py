"""What a run says at its end: a table on the console, numbers in ``test.json``, pictures in ``report/index.html``."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import atomic_path
from datasets.records import EvaluationSet
from engine.run_folder import RunFolder
from evaluation.pictures import example_retrievals
from evaluation.report import ReportEntry, write_report
from evaluation.retrieval import RetrievalResult

LOG = logging.getLogger("distilplace")
RECALLS = ("R@1", "R@5", "R@1 %")
FACTS = ("parameters", "ms per place")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its folder, its networks with their test results (the trained one first), the test set."""

    folder: Path
    entries: list[ReportEntry]
    test: EvaluationSet
    notes: list[str]


def result_table(entries: Sequence[ReportEntry]) -> str:
    """A plain-text table: one line per network, recalls in percent, and what chance would give."""
    extra = list(dict.fromkeys(name for entry in entries for name in entry.result.extra))
    rows = [("", *RECALLS, *extra, *FACTS)]
    for entry in entries:
        result = entry.result
        recalls = (f"{result.recall[1]:.2f}", f"{result.recall[5]:.2f}", f"{result.one_percent_recall:.2f}")
        more = [f"{result.extra[name]:.3f}" if name in result.extra else "" for name in extra]
        rows.append((entry.name, *recalls, *more, *(entry.facts.get(name, "") for name in FACTS)))
    chance = entries[0].result
    odds = (f"{chance.chance[1]:.2f}", f"{chance.chance[5]:.2f}", f"{chance.one_percent_chance:.2f}")
    rows.append(("chance", *odds, *[""] * (len(extra) + len(FACTS))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def report_outcome(outcome: Outcome, *, title: str, seed: int, settings: Mapping[str, object] | None = None) -> Path:
    """Write ``test.json`` and the report below the outcome's folder, log the table; path of ``index.html``."""
    folder, entries = outcome.folder, outcome.entries
    asked = outcome.test.queries
    skipped = [pair for pair in entries[0].result.skipped_pairs if asked[pair.query_run]]
    if skipped:
        LOG.info("%d run pairs skipped, first: %s", len(skipped), skipped[0].reason)
    if unmatched := entries[0].result.unmatched:
        counted = "count as misses" if outcome.test.rules.unmatched == "miss" else "are left out"
        LOG.info("%d queries without a true match %s", unmatched, counted)
    numbers = {entry.name: {**entry.result.to_dict(), "facts": entry.facts} for entry in entries}
    with atomic_path(folder / "test.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=1))
    page = write_report(
        folder / "report", entries, outcome.test, title=title, notes=outcome.notes, settings=settings, seed=seed
    )
    LOG.info("\n%s\n\nreport: %s", result_table(entries), page)
    return page


def log_validation(folder: RunFolder, step: int, result: RetrievalResult, validation: EvaluationSet) -> None:
    """Recalls and example retrievals of a validation into TensorBoard and ``metrics.jsonl``."""
    recalls = {f"validation/recall@{rank}": result.recall[rank] for rank in (1, 5, 25)}
    folder.metrics(step, {**recalls, "validation/recall@1%": result.one_percent_recall})
    picture = example_retrievals(result, validation)
    if picture is not None:
        folder.board.add_image("validation/retrievals", picture, step, dataformats="HWC")
