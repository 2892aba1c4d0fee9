"""The page of ``compare``: the report's template and writer with sections of its own."""

from collections.abc import Sequence
from pathlib import Path

from distilplace.evaluation.report.figures import colour_of
from distilplace.evaluation.report.parts import (
    Cell,
    Details,
    Kind,
    Material,
    Part,
    ReportEntry,
    Section,
    Table,
    wide_plot,
)
from distilplace.evaluation.report.sections.recall import draw_curves
from distilplace.evaluation.report.sections.refusal import READING, draw_precision_recall
from distilplace.evaluation.report.sections.results import results
from distilplace.evaluation.report.writer import write_report
from distilplace.evaluation.retrieval.refusal import precision_recall
from distilplace.tools.compare.differences import changed_searches, difference
from distilplace.tools.compare.groups import SEED, Group, differing_options

Compared = Material[Group, Sequence[Group]]
SHOWN = 60
"""Changed searches on the page; ``--csv`` writes all."""


def write_page(folder: Path, groups: Sequence[Group], environment: dict[str, str]) -> Path:
    """Write ``folder/index.html`` and its pictures; the page's path."""
    entries = [ReportEntry(group.name, group) for group in groups]
    names = " and ".join(group.name for group in groups) if len(groups) < 3 else f"{len(groups)} configurations"
    return write_report(
        folder,
        COMPARISON,
        entries,
        groups,
        title=f"Comparison of {names}",
        notes=[f"{group.name}: {run.path.resolve()}" for group in groups for run in group.runs],
        environment=environment,
    )


def _lead(material: Compared) -> str:
    groups, first = material.benchmark, material.benchmark[0].runs[0]
    runs = sum(len(group.runs) for group in groups)
    found = first.result
    return (
        f"{runs} run{'' if runs == 1 else 's'} in {len(groups)} configuration{'' if len(groups) == 1 else 's'}, tested "
        f"by the same {found['queries']} query frames in {len(found['pairs'])} ordered pairs of runs of "
        f"{first.options.get('test_dataset') or first.options.get('dataset')}."
    )


def results_table(material: Compared) -> Section:
    """Measures of every group; seeds below."""
    groups = material.benchmark
    text = (
        "Recall in percent. One run: below it its 95 % interval over places. Several seeds of one configuration: "
        "mean ± standard deviation over the runs. Chance is what a random ranking would reach."
    )
    rows = [
        (group.name, ", ".join(map(str, group.seeds)), ", ".join(f"{run.recall(1):.2f}" for run in group.runs))
        for group in groups
    ]
    below: list[Part] = [text, Details("Runs", Table(("configuration", SEED, "R@1 of every run"), rows, "text"))]
    return results(material, below=below)


def recall_curves(material: Compared) -> Section:
    """Mean recall@N of every group."""
    groups = material.benchmark
    plot = draw_curves({group.name: group.curve() for group in groups}, groups[0].chance())
    return Section("Recall curves", [wide_plot(material.images.add(plot, "png"))])


def refusals(material: Compared) -> Section:
    """Precision over recall of every group's first run."""
    groups = material.benchmark
    curves = {}
    for index, group in enumerate(groups):
        first = group.runs[0].first
        curves[index] = precision_recall(first["similarity"], first["correct"], first["positives"] > 0)
    plot = wide_plot(material.images.add(draw_precision_recall(curves, [group.name for group in groups]), "png"))
    several = " Of several seeds the first run is drawn." if any(len(group.runs) > 1 for group in groups) else ""
    return Section("Precision and recall with refusals", [plot, READING + several])


def differences(material: Compared) -> Section | None:
    """Every group against the first one, on the same queries."""
    groups = material.benchmark
    if len(groups) < 2:
        return None
    rows: list[list[Cell | str]] = []
    for index, group in enumerate(groups[1:], start=1):
        found = difference(groups[0], group)
        low, high = found.interval
        sure = "yes" if low > 0 or high < 0 else "no"
        cells = (f"{found.points:+.2f}", f"{low:+.2f} to {high:+.2f}", sure)
        counts = (found.better, found.worse, found.same)
        rows.append([Cell(group.name, dot=colour_of(index)), *cells, *(f"{count:,}" for count in counts)])
    text = (
        f"R@1 in points against {groups[0].name}, on the same queries. The 95 % interval is a paired bootstrap over "
        "places; it excludes 0 where other places of the same kind would hardly have turned the difference. It does "
        "not tell how another seed would end. Better, worse: searches of a query in one database whose first result "
        "became correct or wrong; of several seeds, is correct in more or fewer runs."
    )
    head = ["configuration", "difference", "95 % interval", "excludes 0", "better", "worse", "same"]
    return Section(f"Differences to {groups[0].name}", [Table(head, rows), text])


def options(material: Compared) -> Section | None:
    """Options that are not the same in all groups."""
    groups = material.benchmark
    rows = differing_options(groups)
    if not rows:
        return None
    return Section("Options that differ", [Table(["option", *(group.name for group in groups)], rows, "wrapped")])


def changed(material: Compared) -> Section | None:
    """The searches in which groups differ most."""
    groups = material.benchmark
    rows = changed_searches(groups) if len(groups) > 1 else []
    if not rows:
        return None
    head = ["query run", "database run", "query", *(group.name for group in groups)]
    more = f"; the first {SHOWN}, all with --csv" if len(rows) > SHOWN else ""
    table = Details(f"{len(rows):,} searches{more}", Table(head, rows[:SHOWN], "wrapped"), is_open=False)
    return Section("Queries that changed", ["First result of every configuration for the same query.", table])


COMPARISON = Kind(lambda material: None, _lead, (results_table, differences, recall_curves, refusals, options, changed))
