"""Put finished runs on one page: results with intervals, differences on the same queries, options that differ.

    distilplace compare logs/demo/alone logs/demo/distilled
    distilplace compare logs/demo_seeds/world1/*-seed* --csv

Runs that differ in ``--seed`` alone are one configuration: mean and standard deviation. Differences are taken against
the configuration of the first run.
"""

import argparse
import csv
import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.common.home import program
from distilplace.engine.program import exit_code
from distilplace.engine.runs.environment import environment, told
from distilplace.tools.compare.differences import changed_searches
from distilplace.tools.compare.groups import Group, grouped
from distilplace.tools.compare.page import write_page
from distilplace.tools.compare.reading import read_run, require_one_test_set

LOG = logging.getLogger("distilplace")


def compare(paths: Sequence[Path], report: Path | None, as_csv: bool) -> Path:
    """Read the runs, write the page; its path.

    Raises:
        UserError: a folder without a finished run, one run named twice, or different test sets.

    """
    real = [path.resolve() for path in paths]
    if twice := [str(path) for path, where in zip(paths, real, strict=True) if real.count(where) > 1]:
        raise UserError(f"{twice[0]} is named twice: name every run folder once")
    runs = [read_run(path) for path in paths]
    require_one_test_set(runs)
    groups = grouped(runs)
    folder = report or default_folder(real)
    page = write_page(folder, groups, told(environment("cpu")))
    if as_csv:
        head = ("configuration", "measure", "runs", "mean", "standard_deviation", "low_95", "high_95")
        write_csv(folder / "comparison.csv", head, measured_rows(groups))
        names = (group.name for group in groups)
        write_csv(folder / "changed.csv", ("query_run", "database_run", "query", *names), changed_searches(groups))
    lines = [f"{group.name}: " + ", ".join(f"{n} {cell}" for n, cell in group.columns().items()) for group in groups]
    LOG.info("%s\n\nreport: %s", "\n".join(lines), page)
    return page


def default_folder(paths: Sequence[Path]) -> Path:
    """``comparison-<hash of the runs>`` beside the first run: another choice of runs replaces no other page."""
    name = hashlib.sha256("\n".join(map(str, paths)).encode()).hexdigest()[:8]
    return paths[0].parent / f"comparison-{name}"


def measured_rows(groups: Sequence[Group]) -> list[tuple[object, ...]]:
    """A row per configuration and measure; what it has not (spread of one run, interval of several) is empty."""
    rows: list[tuple[object, ...]] = []
    for group in groups:
        bounds = group.intervals()
        for name, values in group.measures.items():
            spread = stdev(values) if len(values) > 1 else ""
            rows.append((group.name, name, len(values), mean(values), spread, *bounds.get(name, ("", ""))))
    return rows


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on a user's mistake."""
    parser = argparse.ArgumentParser(
        prog=program("tools.compare"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--report", type=Path, help="folder of the page (default: comparison-... beside the first run)")
    parser.add_argument("--csv", action="store_true", help="write comparison.csv and changed.csv beside the page too")
    known = parser.parse_args(arguments)
    return exit_code(lambda: compare(known.runs, known.report, known.csv))
