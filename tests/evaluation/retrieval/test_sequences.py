"""Recall of sequences: length 1 is the ranking of single images; longer ones help on a drive."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.records import EvaluationSet, PlaceRecord, RankingRules
from distilplace.evaluation.retrieval import evaluate_runs
from distilplace.evaluation.retrieval.sequences import sequence_text, with_sequences


def street(count=40, noise=0.9, seed=0, step=5.0, **rules):
    """Two drives along one street, each retrieving from the other, and their noisy embeddings."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(count, 12))
    runs, tables = [], []
    for run in ("monday", "tuesday"):
        runs.append([PlaceRecord(f"{run}/{i}", run, None, (), 0.0, step * i) for i in range(count)])
        tables.append((places + noise * rng.normal(size=places.shape)).astype(np.float32))
    near = [{m: [j for j in range(count) if abs(i - j) <= 1]} for m in (1, 0) for i in range(count)]
    sets = [dict(enumerate(near[:count])), dict(enumerate(near[count:]))]
    test = EvaluationSet("street", ["monday", "tuesday"], runs, runs, sets, 5.0, RankingRules(**rules))
    return evaluate_runs(tables, tables, sets), test


def test_one_image_is_the_ranking_and_more_are_better():
    single, test = street()
    found = with_sequences(single, test, [1, 5, 10])
    one, five, ten = found.sequences
    assert one.filtered == pytest.approx(single.recall[1])
    assert one.diagonals == pytest.approx(single.recall[1])
    assert min(five.filtered, ten.filtered, five.diagonals, ten.diagonals) > one.filtered + 10
    assert (one.queries, one.pairs) == (80, 2)
    assert "1: " in sequence_text(found)
    assert found.to_dict()["sequences"][2]["length"] == 10
    assert found.recall == single.recall


def test_a_jump_starts_a_new_sequence():
    """Where the street's second half lies 10 km away, images before the jump say nothing."""
    single, test = street(noise=1.6)
    moved = [
        [PlaceRecord(r.key, r.run, None, (), 0.0, r.easting + 10_000 * (i >= 20)) for i, r in enumerate(run)]
        for run in test.queries
    ]
    cut = EvaluationSet("cut", test.runs, moved, moved, test.query_sets, 5.0)
    whole = with_sequences(single, test, [12]).sequences[0]
    broken = with_sequences(single, cut, [12]).sequences[0]
    assert broken.filtered != whole.filtered or broken.diagonals != whole.diagonals


def test_protocols_that_take_items_out_and_places_without_positions_are_refused():
    single, test = street(groups={0: np.arange(40)})
    with pytest.raises(UserError, match="takes items out"):
        with_sequences(single, test, [5])
    single, test = street(step=0.0)
    with pytest.raises(UserError, match="no positions"):
        with_sequences(single, test, [5])
