"""Ground truth that measures little: said once per data set, with counts."""

import numpy as np

from distilplace.datasets.records import EvaluationSet, distance_text, positions

MOST = 0.5  # share of the database that matches a query on average
SMALL = 1.0  # metres


def doubts(test: EvaluationSet) -> list[str]:
    """Notes where the truth of ``test`` is degenerate: (nearly) everything matches, or all positions are one.

    A query's candidates are the database images of the other runs that ``rules`` do not exclude.
    """
    matched = candidates = 0
    for query_run, entries in enumerate(test.query_sets):
        for run, database in enumerate(test.database):
            excluded = test.rules.excluded.get((run, query_run))
            for index, entry in entries.items():
                if run in entry:
                    matched += len(entry[run])
                    candidates += len(database) - (0 if excluded is None else len(excluded[index]))
    notes = []
    if matched and matched == candidates:
        notes.append(
            f"ground truth: every database image matches every query ({matched} pairs), so that any network scores "
            "100: check the radius or tolerance, and the positions"
        )
    elif matched > MOST * candidates:
        notes.append(
            f"ground truth: a query matches {matched / candidates:.0%} of the database on average ({matched} of "
            f"{candidates} pairs), so that chance alone scores high: check the radius or tolerance"
        )
    return notes + _narrow(test)


def unmatched(test: EvaluationSet) -> list[str]:
    """A note on the queries that match nothing in any other run; none where all do."""
    matched = test.matched()
    bare = matched.count(False)
    if bare == 0:
        return []
    counted = "they count as misses" if test.rules.unmatched == "miss" else "left out of recall"
    reach = f" within {distance_text(test.radius, test.unit)}" if test.unit == "m" else ""
    return [f"{bare} of {len(matched)} queries have no match{reach}: {counted}"]


def _narrow(test: EvaluationSet) -> list[str]:
    places = positions(test.distinct_records())
    if test.unit != "m" or len(places) < 2:
        return []
    extent = float(np.ptp(places, axis=0).max())
    if extent >= SMALL:
        return []
    what = "are all equal" if extent == 0 else f"span {extent:.3g} m only"
    return [f"positions of the {len(places)} tested items {what}: metres are expected (not degrees or kilometres)"]
