"""A town of synthetic embeddings whose true figures are known, and worlds drawn from it.

Every place is passed by every run, with several queries each time. What changes a place's look (light, season) is drawn
once per place and run, and how much it changes is the place's own: so queries of one place are right or wrong together,
in all runs. Some places are passed by one run only: their queries have no match and must be refused. A world is a
number of places drawn from the town, with all their queries; every place stays in the databases, so that a world's true
figures are the town's.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from distilplace.datasets.records import EvaluationSet, PlaceRecord
from distilplace.evaluation.retrieval.bootstrap import figures
from distilplace.evaluation.retrieval.predictions import Predictions, predictions_of
from distilplace.evaluation.retrieval.runs import evaluate_runs

SPACING, RADIUS = 30.0, 10.0


@dataclass(frozen=True)
class Town:
    """``places`` passed by every run and, per run, ``strange`` more that no other run knows."""

    places: int = 1500
    strange: int = 200
    runs: int = 2
    queries: int = 5
    change: float = 0.6
    width: int = 16
    seed: int = 0

    def evaluate(self, chosen: np.ndarray) -> tuple[EvaluationSet, object]:
        """Benchmark and result of a world: the queries of the ``chosen`` places, all places in the databases."""
        database, queries = self._embeddings
        records, asked = [], []
        for run in range(self.runs):
            known = chosen[(chosen < self.places) | ((chosen - self.places) // self.strange == run)]
            offsets = np.random.default_rng([self.seed, run]).uniform(-3, 3, (len(queries[run]), self.queries))
            rows = np.where(known < self.places, known, known - run * self.strange)
            records.append(
                [self._record(p, offsets[r, q]) for p, r in zip(known, rows, strict=True) for q in range(self.queries)]
            )
            asked.append(queries[run][rows].reshape(-1, self.width))
        items = [[self._record(place, 0.0) for place in range(self.places)]] * self.runs
        truth = [
            {
                i: {m: [round(r.easting / SPACING)] for m in range(self.runs) if m != n and r.northing == 0}
                for i, r in enumerate(run)
            }
            for n, run in enumerate(records)
        ]
        names = [f"run {n}" for n in range(self.runs)]
        test = EvaluationSet("town", names, items, records, truth, RADIUS)
        return test, evaluate_runs(list(database), asked, truth, runs=names)

    def _record(self, place: int, offset: float) -> PlaceRecord:
        """Known places stand in one street, strange ones in another."""
        key = f"{place} {offset:.6f}"
        return PlaceRecord(key, "", None, (Path(key),), 1000.0 * (place >= self.places), SPACING * place + offset)

    @cached_property
    def _embeddings(self) -> tuple[np.ndarray, np.ndarray]:
        """Database ``[runs, places, D]``; queries ``[runs, places + strange, queries, D]``."""
        random = np.random.default_rng(self.seed)
        common = random.standard_normal((self.places, self.width))
        own = random.standard_normal((self.runs, self.strange, self.width))
        looks = np.stack([np.concatenate([common, each]) for each in own])
        change = self.change * random.lognormal(0.0, 0.6, (looks.shape[1], 1))
        seen = looks + change * random.standard_normal(looks.shape)
        queries = seen[:, :, None] + 0.25 * random.standard_normal((*seen.shape[:2], self.queries, self.width))
        return seen[:, : self.places].astype(np.float32), queries.astype(np.float32)


@dataclass(frozen=True)
class Population:
    """First answers of all of a town's queries, the place of each, and the true figures (shares)."""

    first: Predictions
    labels: np.ndarray
    truth: dict[str, float]

    @classmethod
    def of(cls, town: Town) -> "Population":
        test, result = town.evaluate(np.arange(town.places + town.runs * town.strange))
        first = predictions_of(result, test, depth=1)
        labels = first["place"].astype(np.int64)
        whole = figures(first, labels, np.ones((1, labels.max() + 1)))
        return cls(first, labels, {name: float(values[0]) for name, values in whole.items()})

    def world(self, places: int, seed: int) -> tuple[Predictions, np.ndarray]:
        """The answers of ``places`` places drawn at random, and the place of each, numbered from 0."""
        count = self.labels.max() + 1
        chosen = np.random.default_rng([seed, 1]).choice(count, places, replace=False)
        mine = np.isin(self.labels, chosen)
        return self.first.where(mine), np.unique(self.labels[mine], return_inverse=True)[1]
