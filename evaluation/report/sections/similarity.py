"""Similarity of first answers: how far apart right and wrong ones lie, which is how well a threshold can refuse."""

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.report import figures
from distilplace.evaluation.report.figures import COLUMN, CORRECT, FAINT, WRONG
from distilplace.evaluation.report.parts import Pictures, Section, Tile
from distilplace.evaluation.report.sections.places import Places

BINS = 24


def similarities(material: Places) -> Section | None:
    """A histogram per entry that has predictions; None without any."""
    tiles = []
    for entry in material.entries:
        if entry.predictions is None:
            continue
        first = entry.predictions.first()
        first = first.where(np.isfinite(first["similarity"]))
        values, correct = first["similarity"].astype(np.float64), first["correct"]
        asked, absent = first["evaluated"], first["positives"] == 0
        link = material.images.add(
            draw_histogram(values[correct & asked], values[asked & ~correct & ~absent], values[absent]), "png"
        )
        tiles.append(Tile(link, f"{entry.name}{_separation(correct[asked], values[asked])}"))
    if not tiles:
        return None
    text = (
        "Similarity of each query to what is retrieved first. A threshold can refuse wrong results where the two lie "
        "apart. AUROC: how often a correct result is more similar than a wrong one; 0.5 is chance."
    )
    return Section("Similarity of correct and wrong first results", [text, Pictures(tiles, "columns")])


def _separation(correct: NDArray[np.bool_], values: NDArray[np.float64]) -> str:
    """``, AUROC 0.83``; nothing where all results are correct, or all wrong."""
    from sklearn.metrics import roc_auc_score

    return f", AUROC {roc_auc_score(correct, values):.2f}" if 0 < correct.sum() < len(correct) else ""


def draw_histogram(correct: NDArray[np.float64], wrong: NDArray[np.float64], absent: NDArray[np.float64]) -> bytes:
    """Counts of similarities: correct, wrong, and of queries without a true place, which cannot be right."""
    figure, (axes,) = figures.panels(1, COLUMN, 2.7, grid="y")
    values = np.concatenate([correct, wrong, absent])
    edges = np.linspace(values.min(initial=1.0), values.max(initial=-1.0), BINS + 1) if len(values) else [0.0, 1.0]
    looks = (("correct", correct, CORRECT, "-"), ("wrong", wrong, WRONG, "-"), ("no true place", absent, FAINT, "--"))
    for name, found, colour, line in looks:
        if len(found):
            counts, _ = np.histogram(found, bins=edges)
            label = f"{name} ({len(found)})"
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(counts, edges, color=colour, linewidth=1.5, linestyle=line, label=label)
    axes.set(xlabel="similarity", ylabel="queries")
    figures.legend_above(figure)
    return figures.png(figure)
