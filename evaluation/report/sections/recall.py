"""Place retrieval's figures: table, recall over N, recall of every pair of runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distilplace.datasets.records import EvaluationSet
from distilplace.evaluation.report.figures import COLUMN, FAINT, PALETTE, colour_of, literal, panels, png, short_name
from distilplace.evaluation.report.parts import Details, Items, Material, Part, Pictures, Section, Tile, wide_plot
from distilplace.evaluation.report.sections.results import results
from distilplace.evaluation.retrieval.results import RetrievalResult

Places = Material[RetrievalResult, EvaluationSet]


def recall_table(material: Places) -> Section:
    """Recalls in percent with one decimal and further measures, how to read them, which pairs of runs were skipped."""
    found = [entry.result for entry in material.entries]
    cells = [{**_cells(result.recall, result.one_percent_recall), **result.further()} for result in found]
    reading = (
        "Recall in percent: share of queries with a true neighbour among the first N retrieved, averaged over pairs of "
        "runs. R@1 % looks at one percent of the database. Below each: its 95 % interval over "
        f"{_sampled(found[0])}. Chance is what a random ranking would reach."
    )
    below: list[Part] = [" ".join([reading, *_reading(found[0])]), _skipped(found[0], material.benchmark.runs)]
    return results(material, cells, _cells(found[0].chance, found[0].one_percent_chance), below=below)


def _sampled(result: RetrievalResult) -> str:
    if not result.bounds:
        return f"{result.query_count} query frames"
    return f"{result.places} places ({result.query_count} query frames), by bootstrap"


def _cells(recall: Mapping[int, float], one_percent: float) -> dict[str, str]:
    values = {f"R@{rank}": recall.get(rank) for rank in (1, 5, 10)} | {"R@1 %": one_percent}
    return {name: "-" if value is None else f"{value:.1f}" for name, value in values.items()}


def _reading(result: RetrievalResult) -> list[str]:
    """Sentences on how rankings were read, where that is not "every item of the other run counts"."""
    rules, count = result.rules, result.unmatched
    sentences = []
    if count:
        noun = "query without a match is" if count == 1 else "queries without a match are"
        miss = ("a miss" if count == 1 else "misses") if rules is not None and rules.unmatched == "miss" else ""
        sentences.append(f"{count} {noun} {'counted as ' + miss if miss else 'left out'}.")
    if rules is not None and rules.groups:
        sentences.append("Of every panorama only the best-ranked image counts.")
    if rules is not None and rules.excluded:
        sentences.append("What must not be retrieved for a query (itself, what is near in time) is removed first.")
    if rules is not None and rules.f1_radii is not None and result.extra:
        correct, wrong = rules.f1_radii
        sentences.append(
            "F1max: the largest F1 of first results over all thresholds of similarity, correct within "
            f"{correct:g} m, wrong beyond {wrong:g} m."
        )
    if result.precision_recall is not None:
        sentences.append(
            "R@95P: share of queries with a match that are answered correctly when answers below a similarity are "
            "refused, so that 95 % of those given are correct. AUC: area under precision over recall (average "
            "precision). For both, a query without a match in a run must be refused."
        )
    return sentences


def _skipped(result: RetrievalResult, runs: Sequence[str]) -> Part:
    pairs = result.skipped_pairs
    if not pairs:
        return "No pair of runs was skipped."
    noun = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
    lines = [f"{runs[pair.query_run]} in {runs[pair.database_run]}: {pair.reason}" for pair in pairs]
    return Details(f"{noun} of runs skipped (they count in no mean)", Items(lines), is_open=len(pairs) <= 6)


def recall_curves(material: Places) -> Section:
    """Recall@1..k of every entry, and chance."""
    curves = {entry.name: entry.result.recall for entry in material.entries}
    plot = draw_curves(curves, material.entries[0].result.chance)
    return Section("Recall curves", [wide_plot(material.images.add(plot, "png"))])


def draw_curves(curves: Mapping[str, Mapping[int, float]], chance: Mapping[int, float]) -> bytes:
    """Recall@1..k of every entry (percent), with the expected recall of a random ranking as a dashed line."""
    figure, (axes,) = panels(1, 7.6, 3.9, grid="y")
    for index, (name, recall) in enumerate(curves.items()):
        line = "o-" if index < len(PALETTE) else "o:"
        axes.plot(
            list(recall), list(recall.values()), line, label=literal(name), color=colour_of(index), linewidth=1.8, ms=3
        )
    axes.plot(list(chance), list(chance.values()), label="chance", color=FAINT, linewidth=1.2, linestyle="--")
    last = max(chance)
    axes.set(xlim=(0.5, last + 0.5), ylim=(0, 102), xlabel="N retrieved", ylabel="recall@N, percent")
    axes.set_xticks([rank for rank in (1, 5, 10, 15, 20, 25, last) if rank <= last])
    axes.legend(frameon=False, fontsize=9, loc="best")
    return png(figure)


def run_matrices(material: Places) -> Section | None:
    """R@1 of every pair of runs; none for a single pair, which the table already states."""
    if len(material.entries[0].result.pairs) < 2:
        return None
    runs = material.benchmark.runs
    plots = {entry.name: draw_matrix(entry.result.matrix(1), runs) for entry in material.entries}
    tiles = [Tile(material.images.add(plot, "png"), name) for name, plot in plots.items()]
    text = "R@1 in percent. Rows: the database run. Columns: the query run, by its number. Blank: not evaluated."
    return Section("Every pair of runs", [text, Pictures(tiles, "columns")])


def draw_matrix(matrix: NDArray[np.float64], runs: Sequence[str]) -> bytes:
    """Recall@1 per pair: rows database runs, columns query runs; runs without a pair are left out, NaN stays blank.

    Runs are numbered; rows tell their names, so that columns need none. Up to 12 runs have their figure in the cell.
    """
    present = ~np.isnan(matrix)
    rows, columns = np.flatnonzero(present.any(axis=1)), np.flatnonzero(present.any(axis=0))
    shown = matrix[np.ix_(rows, columns)]
    written = max(shown.shape) <= 12
    cell = 0.45 if written else 0.2
    size = max(COLUMN, 1.9 + cell * len(columns)), max(1.6, 0.7 + cell * len(rows))
    figure, (axes,) = panels(1, *size, grid=None)
    image = axes.imshow(np.ma.masked_invalid(shown), cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_facecolor("#f3f4f6")
    names = [f"{literal(short_name(run, 19))}  {number}" for number, run in enumerate(runs, start=1)]
    axes.set_xticks(range(len(columns)), [str(index + 1) for index in columns], fontsize=9 if written else 7)
    axes.set_yticks(range(len(rows)), [names[index] for index in rows], fontsize=9 if written else 7)
    axes.set(xlabel="query run", ylabel="database run")
    if written:
        for (row, column), value in np.ndenumerate(shown):
            if not np.isnan(value):
                ink = "white" if value < 60 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=9, color=ink)
    else:
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=2)
    return png(figure)
