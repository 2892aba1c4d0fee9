"""What an evaluation found: recalls per pair, per run and on average, and the way back to single queries."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.retrieval.intervals import Interval, effective_queries, query_weights, wilson
from distilplace.evaluation.retrieval.ranking import EmbeddingSpace, Floats, Indices, Metric
from distilplace.evaluation.retrieval.refusal import PrecisionRecall
from distilplace.evaluation.retrieval.rules import Candidates, candidates_of

if TYPE_CHECKING:
    from distilplace.datasets.records import RankingRules


@dataclass(frozen=True, eq=False)
class PairResult:
    """One ordered pair of runs.

    ``ranks``: per query that of its first hit in the whole ranking; 0 = not evaluated, ``ranking.NEVER`` = a miss at
    every rank (no true neighbour where that counts as a miss, or all of them suppressed). ``unmatched``: how many
    queries have no true neighbour that may answer; they are in ``evaluated`` only where they count as misses.
    """

    database_run: int
    query_run: int
    recall: dict[int, float]
    one_percent_recall: float
    evaluated: int
    database_size: int
    top1_similarities: Floats = field(repr=False)
    ranks: Indices = field(repr=False)
    unmatched: int = 0


@dataclass(frozen=True)
class SkippedPair:
    """A pair that counts in no mean, and why."""

    database_run: int
    query_run: int
    reason: str


@dataclass(frozen=True)
class SequenceRecall:
    """R@1 in percent with sequences of ``length`` images: mean over ``pairs`` pairs of runs, ``queries`` in all."""

    length: int
    filtered: float
    diagonals: float
    queries: int
    pairs: int


@dataclass
class RetrievalResult:
    """What ``retrieval.evaluate_runs`` found; recalls in percent. ``result["recall"]`` works like ``result.recall``.

    ``recall`` rank -> mean over pairs; ``per_run`` database run -> rank -> mean over its evaluated pairs;
    ``top1_similarity`` mean similarity of right first answers (cosine, or the raw dot product for Euclidean; None when
    there is none); ``chance`` and ``one_percent_chance`` what a random ranking would expect on the same pairs;
    ``extra`` further measures by name (``precision_recall.with_f1``); ``rules`` how rankings were read; ``sequences``
    recalls of sequences of images, where they were measured (:mod:`evaluation.retrieval.sequences`).

    A run's last evaluation adds (:func:`evaluation.retrieval.bootstrap.with_certainty`) ``precision_recall`` of answers
    that may be refused, ``bounds``, the 95 % intervals over ``places`` by the names of the columns,
    and the ``conditions`` of the runs.
    """

    metric: Metric
    recall: dict[int, float]
    one_percent_recall: float
    pairs: list[PairResult]
    per_run: dict[int, dict[int, float]]
    per_run_one_percent: dict[int, float]
    skipped_pairs: list[SkippedPair]
    top1_similarity: float | None
    chance: dict[int, float]
    one_percent_chance: float
    runs: list[str]
    space: EmbeddingSpace = field(repr=False)
    rules: "RankingRules | None" = field(default=None, repr=False)
    extra: dict[str, float] = field(default_factory=dict)
    sequences: tuple[SequenceRecall, ...] = ()
    precision_recall: PrecisionRecall | None = field(default=None, repr=False)
    bounds: Mapping[str, Interval] = field(default_factory=dict)
    places: int = 0
    conditions: Sequence[str] = ()

    def __getitem__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self, name):
            raise KeyError(name)
        return getattr(self, name)

    @property
    def selection_score(self) -> float:
        """Recall@1, percent: the number epochs are chosen by."""
        return self.recall[1]

    @property
    def summary(self) -> str:
        """Recall@1, percent."""
        return f"R@1 {self.recall[1]:.2f}"

    def columns(self) -> dict[str, str]:
        """Recall@1, @5 and at one percent in percent, then the further measures: the table cells of a network."""
        return {**_cells(self.recall, self.one_percent_recall), **self.further()}

    def further(self) -> dict[str, str]:
        """The table cells of measures beside recall@N: recall at 95 % precision, percent, AUC, a protocol's own."""
        cells = {name: f"{value:.3f}" for name, value in self.extra.items()}
        if (curve := self.precision_recall) is None:
            return cells
        return {"R@95P": f"{100.0 * curve.recall_at(0.95)[0]:.2f}", "AUC": f"{curve.auc:.3f}", **cells}

    @property
    def query_count(self) -> int:
        """How many distinct query frames the recalls are over."""
        return len(query_weights(self.pairs))

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals: over places where they were measured, else of the recalls alone, over query frames.

        The second kind (Wilson) takes frames for independent, which those of one place are not: it is shorter.
        """
        if self.bounds:
            return dict(self.bounds)
        count = effective_queries(query_weights(self.pairs))
        recalls = {f"R@{rank}": self.recall[rank] for rank in (1, 5, 10) if rank in self.recall}
        recalls["R@1 %"] = self.one_percent_recall
        bounds = {name: wilson(min(recall / 100.0, 1.0), count) for name, recall in recalls.items()}
        return {name: (100.0 * low, 100.0 * high) for name, (low, high) in bounds.items()}

    def chance_columns(self) -> dict[str, str]:
        """The recalls that a random ranking would expect."""
        return _cells(self.chance, self.one_percent_chance)

    def scalars(self) -> dict[str, float]:
        """Recall@1, @5, @25 and at one percent, percent: what is logged after an epoch."""
        recalls = {f"recall@{rank}": self.recall[rank] for rank in (1, 5, 25) if rank in self.recall}
        return {**recalls, "recall@1%": self.one_percent_recall}

    @property
    def evaluated(self) -> int:
        """Number of (query, database run) questions asked, over all pairs."""
        return sum(pair.evaluated for pair in self.pairs)

    @property
    def unmatched(self) -> int:
        """Number of questions without a true neighbour in their pair's database, over all pairs."""
        return sum(pair.unmatched for pair in self.pairs)

    def candidates(self, database_run: int, query_run: int) -> Candidates | None:
        """Which items may answer the queries of one pair; None where all may."""
        asked = [(query_run, len(self.space.queries[query_run]))]
        return candidates_of(self.rules, database_run, len(self.space.database[database_run]), asked)

    def pair(self, database_run: int, query_run: int) -> PairResult:
        """The result of one pair; KeyError when it was skipped."""
        for pair in self.pairs:
            if (pair.database_run, pair.query_run) == (database_run, query_run):
                return pair
        raise KeyError(f"no result for database run {database_run} and query run {query_run}")

    def top(self, database_run: int, query_run: int, k: int = 25, queries: Sequence[int] | None = None) -> Indices:
        """Ranked database indices ``[Q, min(k, N)]`` of one pair, for all its queries or those named.

        They are what counted: excluded and suppressed items do not appear, -1 fills up where fewer than k are left.
        """
        rows = np.arange(len(self.space.queries[query_run])) if queries is None else np.asarray(queries, dtype=np.int64)
        return self.space.top(database_run, query_run, k, rows, self.candidates(database_run, query_run))

    def matrix(self, rank: int = 1) -> NDArray[np.float64]:
        """Recall at ``rank``, ``[database run, query run]``; NaN where no pair was evaluated."""
        table = np.full((len(self.runs), len(self.runs)), np.nan)
        for pair in self.pairs:
            table[pair.database_run, pair.query_run] = pair.recall[rank]
        return table

    def per_query_run(self) -> dict[int, dict[int, float]]:
        """Query run -> rank -> recall, percent: mean over the databases that its queries were put to."""
        runs = sorted({pair.query_run for pair in self.pairs})
        return {run: self._mean_recall([pair for pair in self.pairs if pair.query_run == run]) for run in runs}

    def per_condition(self) -> dict[str, dict[int, float]]:
        """Condition of the queries -> rank -> recall, percent: mean over its pairs; empty where there are none."""
        groups: dict[str, list[PairResult]] = {}
        for pair in self.pairs if self.conditions else ():
            groups.setdefault(self.conditions[pair.query_run], []).append(pair)
        return {condition: self._mean_recall(pairs) for condition, pairs in groups.items()}

    def _mean_recall(self, pairs: Sequence[PairResult]) -> dict[int, float]:
        return {rank: float(np.mean([pair.recall[rank] for pair in pairs])) for rank in self.recall}

    def to_dict(self) -> dict[str, Any]:
        """Everything but embeddings and per-query values, ready for ``json.dumps`` (keys are strings)."""
        names = ("database_run", "query_run", "one_percent_recall", "evaluated", "unmatched", "database_size")
        pairs = [{name: getattr(p, name) for name in names} | {"recall": _text_keys(p.recall)} for p in self.pairs]
        return {
            "metric": self.metric,
            "recall": _text_keys(self.recall),
            "one_percent_recall": self.one_percent_recall,
            "top1_similarity": self.top1_similarity,
            "chance": _text_keys(self.chance),
            "one_percent_chance": self.one_percent_chance,
            "evaluated": self.evaluated,
            "queries": self.query_count,
            "places": self.places,
            "interval_95": {name: list(bounds) for name, bounds in self.intervals().items()},
            "interval_kind": "bootstrap over places" if self.bounds else "Wilson, over query frames",
            "unmatched": self.unmatched,
            "precision_recall": None if self.precision_recall is None else self.precision_recall.to_dict(),
            "extra": dict(self.extra),
            "sequences": [asdict(each) for each in self.sequences],
            "runs": list(self.runs),
            "per_run": {str(run): _text_keys(recall) for run, recall in self.per_run.items()},
            "per_query_run": {str(run): _text_keys(recall) for run, recall in self.per_query_run().items()},
            "per_condition": {name: _text_keys(recall) for name, recall in self.per_condition().items()},
            "per_run_one_percent": {str(run): value for run, value in self.per_run_one_percent.items()},
            "pairs": pairs,
            "skipped_pairs": [vars(pair) for pair in self.skipped_pairs],
        }


def _cells(recall: dict[int, float], one_percent: float) -> dict[str, str]:
    cells = {f"R@{rank}": f"{recall[rank]:.2f}" for rank in (1, 5) if rank in recall}
    return {**cells, "R@1 %": f"{one_percent:.2f}"}


def _text_keys(recall: dict[int, float]) -> dict[str, float]:
    return {str(rank): value for rank, value in recall.items()}
