"""Where the first true neighbour of each query stands in the whole ranking, counted instead of sorted for."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.retrieval.ranking import (
    GRID,
    NEVER,
    Floats,
    Indices,
    PreparedRows,
    query_blocks,
    similarities,
)
from distilplace.evaluation.retrieval.rules import Candidates


class Hits(NamedTuple):
    """Of each query ``[Q]`` the rank (from 1 on) of its first true neighbour, which item that is, how similar it is."""

    ranks: Indices
    items: Indices
    similarities: Floats

    @classmethod
    def none(cls, count: int) -> "Hits":
        """Zeros for so many queries, to be filled in."""
        return cls(np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64), np.zeros(count))


def first_hits(
    queries: PreparedRows,
    asked: Indices,
    database: PreparedRows,
    truth: Indices,
    counts: Indices,
    candidates: Candidates | None = None,
) -> Hits:
    """The first true neighbour of each query among **all** items.

    The rank is 1 + items nearer than the nearest true one + items tied with it and of lower index. Done in blocks of
    queries, one matrix product each, so that memory stays bounded whatever the database's size.

    Args:
        queries: prepared queries.
        asked: ``[Q]`` which of them ask.
        database: prepared items.
        truth: true database indices of all asked queries, one query after the other, none of them excluded.
        counts: ``[Q]`` how many of them belong to each query; all at least 1.
        candidates: who may answer, where that is not everybody. The rank is then ``NEVER`` (and the index N) for a
            query whose true neighbours are all suppressed.

    """
    found = Hits.none(len(asked))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    for block in query_blocks(asked, database):
        similarity = similarities(queries, asked[block], database)
        if candidates is not None:
            candidates.suppress(similarity, asked[block])
        part = truth[offsets[block.start] : offsets[block.stop]]
        for values, block_values in zip(found, _of_block(similarity, part, counts[block]), strict=True):
            values[block] = block_values
    return found


def _of_block(similarity: Floats, truth: Indices, counts: Indices) -> Hits:
    """:func:`first_hits` of some queries, from their similarities with all items ``[Q, N]``, on the grid."""
    size = similarity.shape[1]
    owners, firsts = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
    values = similarity[owners, truth]
    best = np.maximum.reduceat(values, firsts)
    items = np.minimum.reduceat(np.where(values == best[owners], truth, size), firsts)
    ranks = _count(similarity >= best[:, None])
    tied = np.flatnonzero(_count(similarity == best[:, None]) > 1)
    if len(tied):
        after = (similarity[tied] == best[tied, None]) & (np.arange(size) > items[tied, None])
        ranks[tied] -= _count(after)
    lost = np.isneginf(best)
    return Hits(np.where(lost, NEVER, ranks), np.where(lost, size, items), best / GRID)


def _count(flags: NDArray[np.bool_]) -> Indices:
    """How many are set in each row."""
    return np.count_nonzero(flags, axis=1)
