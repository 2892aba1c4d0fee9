"""Whether an exported network answers as its own: recall and first answers decide, the cosine is only told."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from distilplace.common.errors import UserError
from distilplace.datasets.records import Benchmark, EvaluationSet
from distilplace.engine.scoring import score_table

Run = Callable[[np.ndarray], np.ndarray]
"""Uint8 [b, H, W, 3] -> float32 [b, D]."""
_BLOCK = 512  # rows of similarities at once


@dataclass(frozen=True)
class Limits:
    """What an export may lose."""

    score_drop: float
    """Points of recall@1 (of landmarks and videos: of mAP); of poses: percent of the median error."""
    agreement: float
    """Percent of images whose first answer has to stay the same."""


DEFAULTS = {"float32": Limits(0.1, 99.0), "int8": Limits(0.5, 80.0)}
"""By precision. Of labelled images another first answer may be as right as the first: recall is the stricter one."""


@dataclass(frozen=True)
class Parity:
    """An exported network beside the network itself, in float32 with PyTorch, on the same pixels."""

    images: str
    """Which images, and how many."""
    agreement: float
    """Percent of queries with the same first answer."""
    queries: int
    cosine_mean: float
    cosine_min: float
    difference: float
    """Largest difference of a number, as a share of the largest number."""
    eager: str | None = None
    """The score on the test set in words; None: the images have no ground truth."""
    exported: str | None = None
    drop: float | None = None
    """How much lower the exported one scores, as in :class:`Limits`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: round(value, 7) if isinstance(value, float) else value for name, value in asdict(self).items()}

    def told(self) -> str:
        """One line for the log."""
        score = "" if self.drop is None else f"{self.eager} -> {self.exported}, "
        return (
            f"{score}same first answer for {self.agreement:.1f} % of {self.queries}, cosine {self.cosine_mean:.5f} "
            f"(lowest {self.cosine_min:.5f}), on {self.images}"
        )

    def require(self, limits: Limits, precision: str) -> None:
        """Refuse what loses more than ``limits``: :class:`UserError` with both figures and what may help."""
        faults = []
        if self.drop is not None and not self.drop <= limits.score_drop:
            faults.append(f"{self.eager} became {self.exported} (--max_drop {limits.score_drop:g})")
        if not self.agreement >= limits.agreement:
            share = f"{self.agreement:.1f} % of {self.queries} first answers stayed"
            faults.append(f"{share} (--min_agreement {limits.agreement:g})")
        if faults:
            remedy = (
                "calibrate on more or other images, or omit --int8" if precision == "int8" else "report this network"
            )
            raise UserError(
                f"the {precision} export answers otherwise, nothing was written: {'; '.join(faults)}, "
                f"on {self.images}; {remedy}"
            )


def outputs(batches: Iterable[np.ndarray], eager: Run, exported: Run) -> tuple[np.ndarray, np.ndarray]:
    """What both give for the images, float32 [n, D] each; every image is read once."""
    pairs = [(eager(batch), exported(batch)) for batch in batches]
    if not pairs:
        raise UserError("there is no image to compare the export on: give --calibrate a folder of images")
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    for rows, name in ((first, "network"), (second, "export")):
        if not np.isfinite(rows).all():
            raise UserError(f"the {name} gives numbers that are not finite: its weights are damaged or have diverged")
    return first, second


def compare(
    first: np.ndarray, second: np.ndarray, images: str, output: str, keys: Sequence[str], test: Benchmark | None
) -> Parity:
    """The parity of two tables [n, D] of the images ``keys``.

    First answers: on a place-recognition test set, of every query in every other run; else every image's nearest other
    image; of poses, whether an image's pose lies nearest to its own among all of the network's.
    """
    same, queries = _first_answers(first, second, output, keys, test)
    cosines = (_unit(first) * _unit(second)).sum(axis=1)
    measured: dict[str, Any] = {}
    if test is not None:
        results = [score_table(keys, {output: torch.from_numpy(rows)}, test) for rows in (first, second)]
        scores = [result.selection_score for result in results]
        drop = scores[0] - scores[1]
        if output == "pose":  # scores are errors with a minus
            drop = 100.0 * drop / max(-scores[0], 1e-9)
        measured = {"eager": results[0].summary, "exported": results[1].summary, "drop": float(drop)}
    return Parity(
        images=images,
        agreement=100.0 * same / max(queries, 1),
        queries=queries,
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        difference=float(np.abs(first - second).max() / max(float(np.abs(first).max()), 1e-30)),
        **measured,
    )


def _first_answers(
    first: np.ndarray, second: np.ndarray, output: str, keys: Sequence[str], test: Benchmark | None
) -> tuple[int, int]:
    """How many first answers are the same, and how many there are."""
    if output == "pose":
        nearest = [np.linalg.norm(first - row, axis=1).argmin() for row in second]
        return int((np.array(nearest) == np.arange(len(first))).sum()), len(first)
    tables = _unit(first), _unit(second)
    if isinstance(test, EvaluationSet):
        return _across_runs(tables, {key: row for row, key in enumerate(keys)}, test)
    if len(first) < 2:
        raise UserError("one image has no other to be like: give two or more to compare the export on")
    everything = np.arange(len(first))
    answers = [_nearest(rows, everything, everything) for rows in tables]
    return int((answers[0] == answers[1]).sum()), len(first)


def _across_runs(
    tables: tuple[np.ndarray, np.ndarray], rows: Mapping[str, int], test: EvaluationSet
) -> tuple[int, int]:
    database, queries = (
        [np.array([rows[record.key] for record in run], dtype=np.int64) for run in runs]
        for runs in (test.database, test.queries)
    )
    same = count = 0
    for m, known in enumerate(database):
        for n, asking in enumerate(queries):
            if m != n and len(known) and len(asking):
                first, second = (_nearest(table, asking, known) for table in tables)
                same, count = same + int((first == second).sum()), count + len(asking)
    return same, count


def _nearest(unit: np.ndarray, queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Of every query row the most similar database row that is not itself, int64 [q]."""
    found = []
    for start in range(0, len(queries), _BLOCK):
        part = queries[start : start + _BLOCK]
        similarity = unit[part] @ unit[database].T
        similarity[part[:, None] == database[None]] = -np.inf
        found.append(database[similarity.argmax(axis=1)])
    return np.concatenate(found)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
