"""Recall of sequences of images, where ``evaluate.py --sequence`` measured it."""

from distilplace.evaluation.report.parts import Section, Table
from distilplace.evaluation.report.sections.places import Places

READING = (
    "R@1 in percent when the last images of a query's run are used together: by a hidden Markov model over the map's "
    "places, without odometry, and in brackets by sums along diagonals (SeqSLAM). Mean over pairs of runs."
)


def sequences(material: Places) -> Section | None:
    """R@1 by number of images."""
    lengths = list(dict.fromkeys(each.length for entry in material.entries for each in entry.result.sequences))
    if not lengths:
        return None
    rows = []
    for entry in material.entries:
        cells = {each.length: f"{each.filtered:.1f} ({each.diagonals:.1f})" for each in entry.result.sequences}
        rows.append([entry.name, *(cells.get(length, "-") for length in lengths)])
    head = ["", *(f"{length} image{'' if length == 1 else 's'}" for length in lengths)]
    return Section("Sequences", [Table(head, rows), READING])
