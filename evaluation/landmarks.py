"""Landmark retrieval as revisited Oxford and Paris judge it (Radenovic et al., CVPR 2018, "revisitop").

Three protocols: easy (right = easy; hard and junk are ignored), medium (right = easy and hard; junk ignored), hard
(right = hard; easy and junk ignored). Ignored images are taken out of the ranking before ranks are counted. Queries
without a right answer under a protocol are left out of its means. Rankings are by cosine similarity; ties go to the
lower database index (:mod:`distilplace.evaluation.retrieval.ranking`), and only a block of queries is ever ranked at
once: a million distractors need no large memory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError, unknown_name
from distilplace.evaluation.retrieval.intervals import Interval, resampled
from distilplace.evaluation.retrieval.measures import expected_precision_sum, finite_mean, in_percent, percent
from distilplace.evaluation.retrieval.ranking import EmbeddingSpace, Indices, as_matrix, query_blocks, similarities

if TYPE_CHECKING:
    from distilplace.datasets.benchmarks import LandmarkSet

Shares = NDArray[np.float64]
Truth = Mapping[str, Indices]
KINDS = ("easy", "hard", "junk")
RIGHT = {"easy": ("easy",), "medium": ("easy", "hard"), "hard": ("hard",)}
KAPPAS = (1, 5, 10)


def average_precision(ranks: Any, positives: int) -> float:
    """Area under precision over recall by trapezoids, 0 to 1 (the AP of Philbin et al., CVPR 2007).

    Args:
        ranks: zero-based ranks, rising, of the right answers that were found.
        positives: how many right answers there are, at least as many as were found.

    """
    rank = np.asarray(ranks, dtype=np.int64)
    if positives < max(1, len(rank)):
        raise ValueError(f"{positives} right answers, of which {len(rank)} were found")
    found = np.arange(len(rank))
    before = np.where(rank == 0, 1.0, found / np.maximum(rank, 1))
    return float((before + (found + 1) / (rank + 1)).sum() / (2 * positives))


def precision_at(ranks: Any, kappa: int) -> float:
    """Share of right answers among the first ``min(kappa, rank of the last right one)``; 0 when none was found.

    ``ranks``: as for :func:`average_precision`. A query with fewer than kappa right answers can so still reach 1.
    """
    rank = np.asarray(ranks, dtype=np.int64)
    if not len(rank):
        return 0.0
    depth = min(int(rank[-1]) + 1, kappa)
    return float(np.count_nonzero(rank < depth) / depth)


@dataclass(frozen=True, eq=False)
class ProtocolScore:
    """One protocol's numbers, shares from 0 to 1.

    ``average_precisions`` float64 ``[Q]`` and ``precisions`` float64 ``[Q, K]`` (precision at each of ``kappas``), NaN
    where a query has no right answer.
    """

    kappas: tuple[int, ...]
    average_precisions: Shares = field(repr=False)
    precisions: Shares = field(repr=False)

    @property
    def mean_ap(self) -> float:
        """The mAP over the queries that have a right answer; NaN when none has."""
        return finite_mean(self.average_precisions)

    @property
    def mean_precisions(self) -> dict[int, float]:
        """By kappa the mP@kappa over the same queries."""
        return {kappa: finite_mean(self.precisions[:, index]) for index, kappa in enumerate(self.kappas)}

    @property
    def evaluated(self) -> int:
        """How many queries have a right answer."""
        return int(np.count_nonzero(~np.isnan(self.average_precisions)))

    def to_dict(self) -> dict[str, float | None]:
        """The mAP and mP@kappa in percent, None where no query has a right answer."""
        precisions = {f"mP@{kappa}": in_percent(value) for kappa, value in self.mean_precisions.items()}
        return {"mAP": in_percent(self.mean_ap), **precisions}


@dataclass(frozen=True, eq=False)
class LandmarkResult:
    """Scores by protocol (easy, medium, hard), and ``chance``: those expected of a random ranking.

    ``space`` holds the embeddings: database and queries are those of its run 0.
    """

    scores: dict[str, ProtocolScore]
    chance: dict[str, ProtocolScore] = field(repr=False)
    space: EmbeddingSpace = field(repr=False)

    @property
    def selection_score(self) -> float:
        """The mAP of the medium protocol, percent."""
        return 100.0 * self.scores["medium"].mean_ap

    @property
    def summary(self) -> str:
        """The mAP of the medium protocol."""
        return f"mAP M {percent(self.scores['medium'].mean_ap)}"

    def columns(self) -> dict[str, str]:
        """The mAP of all protocols, mP@10 of medium and hard; percent."""
        return _cells(self.scores)

    @property
    def query_count(self) -> int:
        """How many queries have a right answer in the medium protocol."""
        return self.scores["medium"].evaluated

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of the mAP, percent, by bootstrap over queries."""
        bounds = {name: resampled(score.average_precisions) for name, score in self.scores.items()}
        letters = {name: f"mAP {name[0].upper()}" for name in bounds}
        return {letters[name]: (100.0 * each[0], 100.0 * each[1]) for name, each in bounds.items() if each is not None}

    def chance_columns(self) -> dict[str, str]:
        """The same, expected of a random ranking."""
        return _cells(self.chance)

    def scalars(self) -> dict[str, float]:
        """The mAP of every protocol in which a query has a right answer, percent."""
        means = {name: score.mean_ap for name, score in self.scores.items()}
        return {f"mAP_{name}": 100.0 * mean for name, mean in means.items() if not math.isnan(mean)}

    def to_dict(self) -> dict[str, Any]:
        """By protocol: mAP and mP@kappa in percent, what chance gives, how many queries count."""
        return {
            name: {**score.to_dict(), "queries": score.evaluated, "chance": self.chance[name].to_dict()}
            for name, score in self.scores.items()
        }

    def top(self, k: int = 10, queries: Sequence[int] | None = None) -> Indices:
        """Database indices ``[Q, min(k, N)]`` of the nearest images, junk among them, of all queries or those named."""
        rows = np.arange(len(self.space.queries[0])) if queries is None else np.asarray(queries, dtype=np.int64)
        return self.space.top(0, 0, k, rows)


def evaluate_landmarks(query: Any, database: Any, landmark_set: "LandmarkSet") -> LandmarkResult:
    """All protocols' scores of embeddings, any length, NumPy or torch.

    Args:
        query: ``[Q, D]``, row i belongs to ``landmark_set.queries[i]``.
        database: ``[N, D]``, row i belongs to ``landmark_set.database[i]``.
        landmark_set: what is right. UserError when it asks nothing, or names images that it does not have.

    """
    landmark_set.require_queries()
    name = landmark_set.name
    space = EmbeddingSpace(
        [as_matrix(database, f"{name} (database)")], [as_matrix(query, f"{name} (queries)")], "cosine"
    )
    sizes = (len(space.queries[0]), len(space.database[0]))
    if sizes != (len(landmark_set.queries), len(landmark_set.database)):
        raise ValueError(f"{sizes[0]} query and {sizes[1]} database embeddings do not fit {landmark_set.summary()}")
    lists = zip(landmark_set.easy, landmark_set.hard, landmark_set.junk, strict=True)
    truth = [_as_truth(dict(zip(KINDS, row, strict=True))) for row in lists]
    _check_range(truth, sizes[1], name)
    places = _all_places(space, truth)
    return LandmarkResult(
        scores={protocol: _score(places, truth, KAPPAS, protocol) for protocol in RIGHT},
        chance={protocol: expected_score(truth, sizes[1], KAPPAS, protocol) for protocol in RIGHT},
        space=space,
    )


def mean_average_precision(
    ranks: Any, gnd: Sequence[Mapping[str, Any]], kappas: Sequence[int] = KAPPAS, protocol: str = "medium"
) -> ProtocolScore:
    """One protocol's scores of given rankings.

    Args:
        ranks: int ``[N, Q]``, column i = database indices as query i ranks them, best first. Right answers missing
            from a shortened ranking count as never found.
        gnd: per query ``{"easy", "hard", "junk"}``: database indices, upstream's structure (other keys are ignored).
        kappas: where precision is taken.
        protocol: "easy", "medium" or "hard".

    """
    order = np.asarray(ranks.detach().cpu() if hasattr(ranks, "detach") else ranks, dtype=np.int64)
    if order.ndim != 2 or order.shape[1] != len(gnd):
        raise ValueError(f"ranks {order.shape} do not fit {len(gnd)} queries: [N, Q] expected, a column per query")
    truth = [_as_truth(row) for row in gnd]
    places = [_places(column, row) for column, row in zip(order.T, truth, strict=True)]
    return _score(places, truth, kappas, protocol)


def expected_score(
    gnd: Sequence[Mapping[str, Any]], size: int, kappas: Sequence[int] = KAPPAS, protocol: str = "medium"
) -> ProtocolScore:
    """The scores expected of random rankings of ``size`` images, every order equally likely; exact, query by query.

    With P right answers among the N images not ignored, the trapezoids' left ends average P / N and their right ends
    are the expected precision at the positives. ``gnd``: as for :func:`mean_average_precision`.
    """
    right = _right(protocol)
    average, precisions = np.full(len(gnd), np.nan), np.full((len(gnd), len(kappas)), np.nan)
    for row, entry in enumerate(map(_as_truth, gnd)):
        positives = sum(len(entry[kind]) for kind in right)
        items = size - sum(len(entry[kind]) for kind in KINDS if kind not in right)
        if positives:
            average[row] = (positives / items + expected_precision_sum(items, positives, items) / positives) / 2
            precisions[row] = [_expected_precision(items, positives, kappa) for kappa in kappas]
    return ProtocolScore(tuple(kappas), average, precisions)


def _expected_precision(items: int, positives: int, kappa: int) -> float:
    """Expected :func:`precision_at` of a random ranking: P / N, but P / L where the last of P lies at L < kappa."""
    expected = min(kappa, items) * positives / items / kappa
    for last in range(positives, min(kappa - 1, items) + 1):
        probability = math.comb(last - 1, positives - 1) / math.comb(items, positives)
        expected += probability * (positives / last - positives / kappa)
    return expected


def _score(places: Sequence[Truth], truth: Sequence[Truth], kappas: Sequence[int], protocol: str) -> ProtocolScore:
    right = _right(protocol)
    average, precisions = np.full(len(truth), np.nan), np.full((len(truth), len(kappas)), np.nan)
    for row, (found, entry) in enumerate(zip(places, truth, strict=True)):
        positives = sum(len(entry[kind]) for kind in right)
        if positives:
            ignored = np.sort(np.concatenate([found[kind] for kind in KINDS if kind not in right]))
            ranks = np.sort(np.concatenate([found[kind] for kind in right]))
            ranks = ranks - np.searchsorted(ignored, ranks)
            average[row] = average_precision(ranks, positives)
            precisions[row] = [precision_at(ranks, kappa) for kappa in kappas]
    return ProtocolScore(tuple(kappas), average, precisions)


def _all_places(space: EmbeddingSpace, truth: Sequence[Truth]) -> list[Truth]:
    """:func:`_places` of every query that has a right answer, ranked block by block; nothing for the others."""
    places: list[Truth] = [dict.fromkeys(KINDS, np.empty(0, dtype=np.int64))] * len(truth)
    asked = np.flatnonzero([len(row["easy"]) + len(row["hard"]) > 0 for row in truth])
    queries, database = space.prepared_queries([0]), space.prepared_database(0)
    for block in query_blocks(asked, database):
        similarity = similarities(queries, asked[block], database)
        for line, row in zip(similarity, asked[block].tolist(), strict=True):
            places[row] = _places(np.argsort(-line, kind="stable"), truth[row])
    return places


def _places(order: Indices, truth: Truth) -> Truth:
    """Where the images of each kind stand in a ranking: zero-based, rising."""
    return {kind: np.flatnonzero(np.isin(order, truth[kind])) for kind in KINDS}


def _as_truth(entry: Mapping[str, Any]) -> Truth:
    """The kinds' indices, rising and distinct; ValueError when an image is of two kinds."""
    truth = {kind: np.unique(np.asarray(entry[kind], dtype=np.int64)) for kind in KINDS}
    joined = np.concatenate(list(truth.values()))
    if len(np.unique(joined)) != len(joined):
        raise ValueError("an image is in more than one of the lists easy, hard and junk of one query")
    return truth


def _check_range(truth: Sequence[Truth], size: int, name: str) -> None:
    for row, entry in enumerate(truth):
        named = np.concatenate(list(entry.values()))
        outside = named[(named < 0) | (named >= size)]
        if len(outside):
            raise UserError(
                f"data set {name}: query {row} names database image {outside[0]}, but there are {size}: the ground "
                "truth and the image list do not belong together"
            )


def _right(protocol: str) -> tuple[str, ...]:
    if protocol not in RIGHT:
        raise unknown_name("protocol", protocol, RIGHT)
    return RIGHT[protocol]


def _cells(scores: Mapping[str, ProtocolScore]) -> dict[str, str]:
    cells = {f"mAP {name[0].upper()}": percent(score.mean_ap) for name, score in scores.items()}
    precise = {f"mP@10 {name[0].upper()}": percent(scores[name].mean_precisions[10]) for name in ("medium", "hard")}
    return {**cells, **precise}
