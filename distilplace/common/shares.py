"""How several processes divide what they compute together: the rows of a batch, batches of a data set."""

import os
from dataclasses import dataclass
from itertools import accumulate


def asked_for() -> int:
    """How many processes were started together (``torchrun``), as the environment says; 1 where it says nothing."""
    told = os.environ.get("WORLD_SIZE", "1")
    return max(int(told), 1) if told.isdecimal() else 1


def evenly(total: int, parts: int) -> list[int]:
    """``total`` things in ``parts`` numbers that differ by one at most, the larger ones first."""
    least, more = divmod(total, parts)
    return [least + (part < more) for part in range(parts)]


@dataclass(frozen=True)
class Share:
    """The rows of a batch that one process computes: one run of rows for each process, in order of rank.

    ``sizes``: rows of every process; ``rank``: which of them is this one. A batch of fewer rows than there are
    processes is computed whole by each of them: one size, that of the batch.
    """

    sizes: tuple[int, ...]
    rank: int = 0

    @classmethod
    def of(cls, total: int, rank: int, processes: int) -> "Share":
        """The share of process ``rank`` in a batch of ``total`` rows."""
        return cls((total,)) if total < processes else cls(tuple(evenly(total, processes)), rank)

    @property
    def is_whole(self) -> bool:
        """Does every process compute the whole batch?"""
        return len(self.sizes) == 1

    @property
    def total(self) -> int:
        """Rows of the batch."""
        return sum(self.sizes)

    @property
    def rows(self) -> range:
        """The rows of this process."""
        start = sum(self.sizes[: self.rank])
        return range(start, start + self.sizes[self.rank])

    def parts(self, size: int) -> list[tuple[range, "Share"]]:
        """For passes of at most ``size`` rows: every part's rows within the share, and its share in that pass.

        Every process makes the same number of passes, for they meet within them: one of few rows makes smaller parts.
        """
        count = min(-(-max(self.sizes) // size), min(self.sizes))
        cut = [evenly(rows, count) for rows in self.sizes]
        stops = list(accumulate(cut[self.rank]))
        each = zip(cut[self.rank], stops, zip(*cut, strict=True), strict=True)
        return [(range(stop - length, stop), Share(sizes, self.rank)) for length, stop, sizes in each]
