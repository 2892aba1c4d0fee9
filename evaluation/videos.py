"""Near-duplicate video retrieval as SVD judges it (Jiang et al., ICCV 2019; similarities as in Whiten-MTD, AAAI 2024).

Similarity of two videos from the embeddings of their frames:

* ``fme``, ``fmx``: one vector a video, the mean or (element by element) the maximum of its frames as the network gives
  them, scaled to length 1; their dot product.
* ``sme``, ``smx``, ``cf``: the matrix of cosines between frames; its mean, its maximum, or chamfer: the mean over
  query frames of the maximum over candidate frames. Chamfer is not symmetric.

Query by query the candidates are its labelled videos and all unlabelled ones (wrong). A video is no candidate of
itself, unless labelled so. Average precision is taken over the whole list and over the first 100, there with both
divisors in use: the near-duplicates found among the 100 (the published code) and all of them (the data set's paper).
Ties go to the lower video name, which knows nothing of the labels (our reading: upstream leaves them in reading
order, so that constant embeddings would score what the label file's order gives).

No similarity is kept: candidates pass in blocks, and the ranks of the near-duplicates are counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError, unknown_name
from distilplace.evaluation.retrieval.intervals import Interval, resampled
from distilplace.evaluation.retrieval.measures import (
    expected_found_precision,
    expected_precision_sum,
    finite_mean,
    in_percent,
    percent,
)
from distilplace.evaluation.retrieval.ranking import Floats, Indices, as_matrix, unit_rows

if TYPE_CHECKING:
    from distilplace.datasets.benchmarks import VideoSet

Shares = NDArray[np.float64]
_Stack = tuple[Floats, Indices]
SIMILARITIES = ("fme", "fmx", "sme", "smx", "cf")
MEASURES = ("mAP@100", "mAP@100 (all)", "mAP")
DEPTH = 100
FIRST = 10
_BLOCK = 2**24  # similarities of frames held at once, float32: 64 MiB
_FRAME_GRID = 2.0**22  # cosines of frames (float32) that agree to 2e-7 are ties
_GRID = 2.0**42  # those of one vector a video (float64): as in distilplace.evaluation.retrieval.ranking


def average_precision(sorted_labels: Sequence[int] | NDArray[Any], k: int = 0, positives: int | None = None) -> float:
    """Mean precision at the near-duplicates, 0 to 1; 0 when none is found.

    Args:
        sorted_labels: 1 (near-duplicate) or 0, best candidate first.
        k: how many candidates count; 0 = all.
        positives: what the sum is divided by; None = the near-duplicates found among those k (published code).

    """
    labels = np.asarray(sorted_labels)
    ranks = 1 + np.flatnonzero((labels[:k] if k > 0 else labels) > 0)
    return _average_precision(ranks, len(ranks) if positives is None else positives)


def _average_precision(ranks: Indices, positives: int) -> float:
    """The sum of precisions at one-based ``ranks`` (rising), divided by ``positives``."""
    if positives < len(ranks):
        raise ValueError(f"{positives} near-duplicates, of which {len(ranks)} were found")
    return float((np.arange(1, len(ranks) + 1) / ranks).sum() / positives) if len(ranks) else 0.0


def video_similarity(query_frames: Any, candidate_frames: Any, kind: str = "fmx") -> float:
    """Similarity of two videos, -1 to 1 (module docstring).

    ``query_frames`` ``[F, D]`` and ``candidate_frames`` ``[G, D]``: embeddings of their frames, any length, NumPy or
    torch, no padding. UserError for an unknown kind, a video without frames, and NaN or infinity.
    """
    return float(similarity_matrix([query_frames], [candidate_frames], kind)[0, 0])


def similarity_matrix(queries: Sequence[Any], candidates: Sequence[Any], kind: str = "fmx") -> Shares:
    """Similarities of videos, float64 ``[Q, C]``: each an array ``[frames, D]`` as for :func:`video_similarity`."""
    left = _stack([_described(frames, f"query video {index}", kind) for index, frames in enumerate(queries)])
    right = _stack([_described(frames, f"candidate video {index}", kind) for index, frames in enumerate(candidates)])
    return _similarities(left, right, kind)


@dataclass(frozen=True, eq=False)
class VideoResult:
    """Average precisions, shares from 0 to 1, by measure.

    ``mAP@100``: over the first 100, divided by the near-duplicates found there; ``mAP@100 (all)``: the same divided by
    all of them; ``mAP``: over the whole list. ``average_precisions`` float64 ``[Q]``, NaN for queries without a
    near-duplicate, which leave the means; ``chance`` alike: expected of a random ranking; ``ranks``: per query the
    one-based ranks of its near-duplicates; ``first``: per query the names of its first 10 answers.
    """

    similarity: str
    average_precisions: dict[str, Shares] = field(repr=False)
    chance: dict[str, Shares] = field(repr=False)
    ranks: list[Indices] = field(repr=False)
    first: list[list[str]] = field(repr=False)

    def mean(self, measure: str = "mAP") -> float:
        """One of the three means, 0 to 1."""
        return finite_mean(self.average_precisions[measure])

    @property
    def evaluated(self) -> int:
        """How many queries have a near-duplicate."""
        return sum(len(row) > 0 for row in self.ranks)

    @property
    def selection_score(self) -> float:
        """The mAP over the whole list, percent."""
        return 100.0 * self.mean()

    @property
    def summary(self) -> str:
        """The mAP over the whole list."""
        return f"mAP {percent(self.mean())}"

    def columns(self) -> dict[str, str]:
        """The three means, percent."""
        return {name: percent(finite_mean(values)) for name, values in self.average_precisions.items()}

    @property
    def query_count(self) -> int:
        """How many queries have a near-duplicate."""
        return self.evaluated

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of the three means, percent, by bootstrap over queries."""
        bounds = {name: resampled(values) for name, values in self.average_precisions.items()}
        return {name: (100.0 * each[0], 100.0 * each[1]) for name, each in bounds.items() if each is not None}

    def chance_columns(self) -> dict[str, str]:
        """The same, expected of a random ranking."""
        return {name: percent(finite_mean(values)) for name, values in self.chance.items()}

    def scalars(self) -> dict[str, float]:
        """The three means, percent: ``mAP@100``, ``mAP@100_all``, ``mAP``."""
        return {_scalar_name(name): 100.0 * self.mean(name) for name in self.average_precisions}

    def to_dict(self) -> dict[str, Any]:
        """The similarity, the three means and their expectations in percent, how many queries count."""
        return {
            "similarity": self.similarity,
            **self.scalars(),
            "queries": self.evaluated,
            "chance": {_scalar_name(name): in_percent(finite_mean(values)) for name, values in self.chance.items()},
        }


def evaluate_videos(
    frames: Mapping[str, Any], video_set: "VideoSet", asked: Mapping[str, Any] | None = None
) -> VideoResult:
    """Average precisions of embedded videos.

    ``frames``: video -> ``[frames, D]`` embeddings, any length, NumPy or torch; looked up as candidates pass, so a
    mapping that reads from disk will do. ``asked``: likewise the query videos, where another network embeds them.
    UserError when a video that the set names is missing or empty.
    """
    video_set.require_queries()
    names = sorted({*video_set.unlabelled, *(video for row in video_set.labels for video in row)})
    missing = [video for video in (*video_set.queries, *names) if video not in frames]
    if missing:
        raise UserError(f"data set {video_set.name}: video {missing[0]} has no embedded frames; check its frame folder")
    kind = video_set.similarity
    pools = _pools(video_set, names)
    asked = frames if asked is None else asked
    queries = _stack([_described(asked[video], f"video {video}", kind) for video in video_set.queries])
    ranks, leading = _ranks(_Candidates(frames, names, queries, kind), pools)
    precisions, chance = np.full((2, len(pools), len(MEASURES)), np.nan)
    for row, (pool, found) in enumerate(zip(pools, ranks, strict=True)):
        if len(found):
            near = found[found <= DEPTH]
            divisors = ((near, len(near)), (near, len(found)), (found, len(found)))
            precisions[row] = [_average_precision(part, positives) for part, positives in divisors]
            chance[row] = _expected(pool.size, len(found))
    by_measure = [dict(zip(MEASURES, table.T, strict=True)) for table in (precisions, chance)]
    first = [[names[number] for number in row.tolist()] for row in leading]
    return VideoResult(kind, by_measure[0], by_measure[1], ranks, first)


def _expected(size: int, positives: int) -> tuple[float, float, float]:
    """The three measures of ``size`` candidates in random order."""
    shallow = expected_precision_sum(size, positives, DEPTH) / positives
    whole = expected_precision_sum(size, positives, size) / positives
    return expected_found_precision(size, positives, DEPTH), shallow, whole


def _described(frames: Any, name: str, kind: str) -> Floats:
    """What a video is compared by: one float64 row (``fme``, ``fmx``, ``sme``) or its unit frames in float32."""
    if kind not in SIMILARITIES:
        raise unknown_name("video similarity", kind, SIMILARITIES)
    rows = as_matrix(frames, name)
    if not len(rows):
        raise UserError(f"{name} has no frames: extract them again, or take it out of the lists")
    if kind == "fme":
        return unit_rows(rows.mean(axis=0, keepdims=True, dtype=np.float64))
    if kind == "fmx":
        return unit_rows(rows.max(axis=0, keepdims=True).astype(np.float64))
    rows = unit_rows(rows.astype(np.float64))
    return rows.mean(axis=0, keepdims=True) if kind == "sme" else rows.astype(np.float32)


def _stack(videos: Sequence[Floats]) -> _Stack:
    """The videos' rows one below the other, and where each begins."""
    lengths = [len(rows) for rows in videos]
    return np.concatenate(videos), np.cumsum([0, *lengths[:-1]])


def _similarities(queries: _Stack, candidates: _Stack, kind: str) -> Shares:
    """float64 ``[Q, C]``; for ``sme`` the mean of all cosines is the dot product of the mean unit frames."""
    (left, left_starts), (right, right_starts) = queries, candidates
    products = left @ right.T
    if kind not in ("smx", "cf"):
        return products.astype(np.float64)
    best = np.maximum.reduceat(products, right_starts, axis=1)
    if kind == "smx":
        return np.maximum.reduceat(best, left_starts, axis=0).astype(np.float64)
    lengths = np.diff([*left_starts, len(left)])
    return np.add.reduceat(best, left_starts, axis=0, dtype=np.float64) / lengths[:, None]


@dataclass(frozen=True)
class _Candidates:
    """Candidate videos by number, the lower name first, described block by block."""

    frames: Mapping[str, Any]
    names: list[str]
    queries: _Stack
    kind: str

    def blocks(self, numbers: Indices) -> Iterator[tuple[Indices, Shares]]:
        """Parts of ``numbers`` (rising) and their similarities ``[Q, part]`` with all queries, on the grid."""
        held: list[Floats] = []
        start = room = 0
        grid = _FRAME_GRID if self.kind in ("smx", "cf") else _GRID
        for stop, number in enumerate(numbers.tolist(), start=1):
            held.append(_described(self.frames[self.names[number]], f"video {self.names[number]}", self.kind))
            room += len(held[-1]) * len(self.queries[0])
            if room >= _BLOCK or stop == len(numbers):
                yield numbers[start:stop], np.rint(_similarities(self.queries, _stack(held), self.kind) * grid)
                held, start, room = [], stop, 0


@dataclass(frozen=True)
class _Pool:
    """One query's candidates: numbers of its labelled videos and, of these, its near-duplicates; rising.

    ``unlabelled`` bool ``[candidates]`` is shared by all queries; ``own`` the query's number there or -1.
    """

    labelled: Indices
    positives: Indices
    own: int
    unlabelled: NDArray[np.bool_]

    def allowed(self, numbers: Indices) -> NDArray[np.bool_]:
        """Which of these videos answer the query."""
        return (self.unlabelled[numbers] & (numbers != self.own)) | np.isin(numbers, self.labelled)

    @property
    def size(self) -> int:
        """How many videos answer the query."""
        return int(np.count_nonzero(self.allowed(np.arange(len(self.unlabelled)))))


def _pools(video_set: "VideoSet", names: list[str]) -> list[_Pool]:
    number = {name: index for index, name in enumerate(names)}
    unlabelled = np.zeros(len(names), dtype=bool)
    unlabelled[[number[name] for name in video_set.unlabelled]] = True
    pools = []
    for query, labels in zip(video_set.queries, video_set.labels, strict=True):
        labelled = np.array(sorted(number[name] for name in labels), dtype=np.int64)
        positives = np.array(sorted(number[name] for name, label in labels.items() if label > 0), dtype=np.int64)
        pools.append(_Pool(labelled, positives, number.get(query, -1), unlabelled))
    return pools


def _ranks(candidates: _Candidates, pools: Sequence[_Pool]) -> tuple[list[Indices], list[Indices]]:
    """One-based ranks of each query's near-duplicates, rising: 1 + candidates nearer + tied ones of lower number.

    Then the numbers of each query's first answers, nearest first.
    """
    levels = [np.zeros(len(pool.positives)) for pool in pools]
    for numbers, similarity in candidates.blocks(np.unique(np.concatenate([pool.positives for pool in pools]))):
        for pool, level, line in zip(pools, levels, similarity, strict=True):
            here = np.isin(pool.positives, numbers)
            level[here] = line[np.searchsorted(numbers, pool.positives[here])]
    ranks = [np.ones(len(pool.positives), dtype=np.int64) for pool in pools]
    leading = [(np.empty(0), np.empty(0, dtype=np.int64)) for _ in pools]
    for numbers, similarity in candidates.blocks(np.arange(len(candidates.names))):
        for query, (pool, level, rank, line) in enumerate(zip(pools, levels, ranks, similarity, strict=True)):
            allowed = pool.allowed(numbers)
            mine, values = numbers[allowed], line[allowed]
            leading[query] = _nearest(*leading[query], values, mine)
            for index, (positive, value) in enumerate(zip(pool.positives, level, strict=True)):
                ahead = (values > value) & (mine != positive)  # products may differ by rounding from block to block
                rank[index] += np.count_nonzero(ahead | ((values == value) & (mine < positive)))
    return [np.sort(row) for row in ranks], [numbers for _, numbers in leading]


def _nearest(held: Shares, held_numbers: Indices, values: Shares, numbers: Indices) -> tuple[Shares, Indices]:
    """The first of what was held and what a block adds: values and numbers, nearest first, ties by lower number."""
    if len(held) == FIRST:  # later blocks hold higher numbers: a tie with the last one held comes after it
        better = values > held[-1]
        values, numbers = values[better], numbers[better]
    joined, named = np.concatenate([held, values]), np.concatenate([held_numbers, numbers])
    order = np.lexsort((named, -joined))[:FIRST]
    return joined[order], named[order]


def _scalar_name(measure: str) -> str:
    return "mAP@100_all" if measure == "mAP@100 (all)" else measure
