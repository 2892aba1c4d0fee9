"""Answers that may be refused: precision over recall, and what a threshold on the similarity gives."""

from collections.abc import Mapping

from distilplace.evaluation.report import figures
from distilplace.evaluation.report.figures import colour_of, literal, panels
from distilplace.evaluation.report.parts import Cell, Section, Table, wide_plot
from distilplace.evaluation.report.sections.places import Places
from distilplace.evaluation.retrieval.refusal import PrecisionRecall

SURE = 0.95
"""Precision of the threshold that is drawn and that routes are shown with."""
HEAD = ("model", "AUC", "F1 max", "at similarity", "R@95P", "at similarity", "R@100P", "at similarity")
READING = (
    "A first result is given as the answer when its similarity reaches a threshold, else refused. Precision: share of "
    "the answers that are correct. Recall: share of the queries with a match that are answered correctly. Circle: the "
    "largest F1. Diamond: the largest recall with 95 % precision (R@95P); no diamond: no threshold gives it."
)


def refusals(material: Places) -> Section | None:
    """Curves and operating points of the entries that have them; None without any."""
    found = {
        index: entry.result.precision_recall
        for index, entry in enumerate(material.entries)
        if entry.result.precision_recall is not None
    }
    if not found:
        return None
    names = [entry.name for entry in material.entries]
    plot = wide_plot(material.images.add(draw_precision_recall(found, names), "png"))
    rows: list[list[Cell | str]] = [
        [Cell(names[index], dot=colour_of(index)), *_operating_points(curve)] for index, curve in found.items()
    ]
    first = next(iter(found.values()))
    text = f"{READING} {first.matched:,} searches have a match, {first.unmatched:,} have none and must be refused."
    return Section("Precision and recall with refusals", [plot, Table(HEAD, rows), text])


def _operating_points(curve: PrecisionRecall) -> list[str]:
    f1, at = curve.f1_max
    cells = [f"{curve.auc:.3f}", f"{f1:.3f}", _threshold(at)]
    for precision in (SURE, 1.0):
        recall, at = curve.recall_at(precision)
        cells += [f"{100 * recall:.1f}", _threshold(at)]
    return cells


def _threshold(similarity: float | None) -> str:
    return "-" if similarity is None else f"{similarity:.3f}"


def draw_precision_recall(curves: Mapping[int, PrecisionRecall], names: list[str]) -> bytes:
    """Precision over recall (percent) with the operating points; keys are the entries' numbers."""
    figure, (axes,) = panels(1, 7.6, 3.9)
    for index, curve in curves.items():
        colour, line = colour_of(index), "-" if index < len(figures.PALETTE) else ":"
        recall, precision = 100 * curve.recall, 100 * curve.precision
        axes.plot(recall, precision, line, label=literal(names[index]), color=colour, linewidth=1.8)
        for threshold, marker in ((curve.f1_max[1], "o"), (curve.recall_at(SURE)[1], "D")):
            if threshold is not None:
                at = int((curve.thresholds == threshold).argmax())
                axes.plot(recall[at], precision[at], marker, color=colour, markersize=8, markeredgecolor="white")
    axes.axhline(100 * SURE, color=figures.FAINT, linewidth=1, linestyle="--")
    axes.set(xlim=(0, 101), ylim=(0, 102), xlabel="recall, percent", ylabel="precision, percent")
    axes.legend(frameon=False, fontsize=9, loc="best")
    return figures.png(figure)
