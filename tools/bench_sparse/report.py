"""The results of ``tools.bench_sparse``: as a table, and as the one line that says how much faster the trunk is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from distilplace.tools.bench_sparse.cases import TRUNK_BACKWARD, TRUNK_FORWARD
from distilplace.tools.bench_sparse.native import NAME as NATIVE

MINKOWSKI = ("minkowski", NATIVE)
HEADER = ("clouds", "batch", "case", "engine", "median ms", "spread", "times as fast", "peak MiB", "of the floor")


@dataclass(frozen=True)
class Result:
    """One engine on one case. ``times_ms``: every round, in order; rounds of one case belong together by number.

    ``speed_up``: the median over the rounds of reference / this; ``floor_share``: the bandwidth floor / the median.
    """

    clouds: str
    batch: int
    voxels: int
    case: str
    engine: str
    reference: str
    times_ms: list[float]
    speed_up: float
    deviation: float | None
    peak_bytes: int | None = None
    floor_share: float | None = None

    @property
    def median_ms(self) -> float:
        """The middle of the rounds."""
        return median(self.times_ms)

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median."""
        low, _, high = quantiles(self.times_ms, n=4)
        return (high - low) / self.median_ms


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as fast ours is: the median of the rounds' ratios."""
    return median(their / our for their, our in zip(theirs, ours, strict=True))


def choose_reference(engines: Sequence[str]) -> str:
    """The engine that the table's ratios refer to: MinkowskiEngine's own layers, its adapter, or plain PyTorch."""
    return next((name for name in (NATIVE, "minkowski", "torch") if name in engines), engines[0])


def table(results: Sequence[Result]) -> str:
    """The results, aligned; the reference's own rows read 1.00."""
    rows = [HEADER]
    for each in results:
        peak = "-" if each.peak_bytes is None else f"{each.peak_bytes / 2**20:.1f}"
        share = "-" if each.floor_share is None else f"{each.floor_share:.0%}"
        numbers = (f"{each.median_ms:.3f}", f"{each.spread:.0%}", f"{each.speed_up:.2f}", peak, share)
        rows.append((each.clouds, str(each.batch), each.case, each.engine, *numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, 2, 3) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def summary(results: Sequence[Result], ours: str, without: str) -> str:
    """``trunk batch B: forward ...x, forward+backward ...x vs OPPONENT`` of one batch of one source of clouds.

    The opponent is MinkowskiEngine ("minkowski"), at each of the two the faster of its adapter and its own layers;
    where it was not measured, the slowest other engine. With ``ours`` alone the line has milliseconds, and ``without``
    says why.
    """
    batch = results[0].batch
    others = {each.engine for each in results} - {ours}
    opponents = others & set(MINKOWSKI)
    picks = [_pick(results, case, ours, opponents or others) for case in (TRUNK_FORWARD, TRUNK_BACKWARD)]
    (own_forward, forward), (own_backward, backward) = picks
    if forward is None or backward is None:
        times = f"forward {own_forward.median_ms:.1f} ms, forward+backward {own_backward.median_ms:.1f} ms"
        return f"trunk batch {batch}: {times} ({without})"
    ratios = [ratio(their.times_ms, our.times_ms) for their, our in ((forward, own_forward), (backward, own_backward))]
    against = "minkowski" if opponents else " and ".join(dict.fromkeys((forward.engine, backward.engine)))
    return f"trunk batch {batch}: forward {ratios[0]:.2f}x, forward+backward {ratios[1]:.2f}x vs {against}"


def _pick(results: Sequence[Result], case: str, ours: str, against: set[str]) -> tuple[Result, Result | None]:
    """Ours and the opponent of one case: the faster MinkowskiEngine, or the slowest of other engines."""
    rows = {each.engine: each for each in results if each.case == case}
    chosen = sorted((rows[name] for name in against), key=lambda each: each.median_ms)
    best = None if not chosen else chosen[0] if chosen[0].engine in MINKOWSKI else chosen[-1]
    return rows[ours], best


def summaries(results: Sequence[Result], ours: str, without: str) -> Iterator[tuple[str, int, str]]:
    """(clouds, batch, line) of every measured trunk, in the order of measuring."""
    measured = [each for each in results if each.case in (TRUNK_FORWARD, TRUNK_BACKWARD)]
    for clouds, batch in dict.fromkeys((each.clouds, each.batch) for each in measured):
        rows = [each for each in measured if (each.clouds, each.batch) == (clouds, batch)]
        yield clouds, batch, summary(rows, ours, without)
