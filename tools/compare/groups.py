"""Runs that differ in their seed alone are one group: mean and spread (sample standard deviation) of its figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.engine.runs.folder import NEUTRAL
from distilplace.evaluation.retrieval.intervals import Interval
from distilplace.tools.compare.reading import FinishedRun

RANKS = (1, 5, 10)
SEED = "seed"
REFUSING = {"R@95P": "recall_at_95_precision", "AUC": "auc"}
"""Measures of answers that may be refused, and their names in ``test.json``."""


@dataclass(frozen=True, eq=False)
class Group:
    """One configuration: its runs, one per seed. It is the ``result`` of an entry of the report."""

    name: str
    runs: Sequence[FinishedRun]

    @property
    def seeds(self) -> list[Any]:
        """The seeds, in the order of the runs."""
        return [run.options.get(SEED) for run in self.runs]

    @property
    def measures(self) -> dict[str, list[float]]:
        """Measure -> its value in every run."""
        found = {f"R@{rank}": [run.recall(rank) for run in self.runs] for rank in RANKS if self._reaches(rank)}
        found["R@1 %"] = [float(run.result["one_percent_recall"]) for run in self.runs]
        for name, key in REFUSING.items():
            curves: list[dict[str, Any]] = [run.result.get("precision_recall") or {} for run in self.runs]
            if all(curves):
                found[name] = [float(curve[key]) for curve in curves]
        for name in self.runs[0].result.get("extra", {}):
            if all(name in run.result.get("extra", {}) for run in self.runs):
                found[name] = [float(run.result["extra"][name]) for run in self.runs]
        return found

    def curve(self) -> dict[int, float]:
        """Mean recall by rank, percent."""
        ranks = map(int, self.runs[0].result["recall"])
        return {rank: mean(run.recall(rank) for run in self.runs) for rank in ranks}

    def chance(self) -> dict[int, float]:
        """Recall by rank of a random ranking, percent."""
        return {int(rank): value for rank, value in self.runs[0].result["chance"].items()}

    def correct(self) -> NDArray[np.float64]:
        """Per question, the share of the runs whose first result is correct, ``[n]``."""
        return np.mean([run.first["correct"].to_numpy(dtype=np.float64) for run in self.runs], axis=0)

    def columns(self) -> dict[str, str]:
        """Mean and spread of every measure as cells of a table."""
        return {name: _cell(name, values) for name, values in self.measures.items()}

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals over places of a single run; none for several, whose spread is told instead."""
        if len(self.runs) > 1:
            return {}
        bounds: Mapping[str, Sequence[float]] = self.runs[0].result.get("interval_95", {})
        return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}

    def chance_columns(self) -> dict[str, str]:
        """What a random ranking would reach."""
        found = {f"R@{rank}": f"{self.chance()[rank]:.1f}" for rank in RANKS if self._reaches(rank)}
        return {**found, "R@1 %": f"{self.runs[0].result['one_percent_chance']:.1f}"}

    def _reaches(self, rank: int) -> bool:
        return all(str(rank) in run.result["recall"] for run in self.runs)


def _cell(name: str, values: Sequence[float]) -> str:
    decimals = 1 if name.startswith("R@") else 3
    middle = f"{mean(values):.{decimals}f}"
    return f"{middle} ± {stdev(values):.{decimals}f}" if len(values) > 1 else middle


def grouped(runs: Sequence[FinishedRun]) -> list[Group]:
    """The runs by configuration, in order of appearance; options that do not change numbers are left aside."""
    found: dict[str, list[FinishedRun]] = {}
    for run in runs:
        found.setdefault(repr(sorted(configuration(run).items())), []).append(run)
    names = [_name(group) for group in found.values()]
    count = Counter(names)
    return [
        Group(name if count[name] == 1 else str(group[0].path), group)
        for name, group in zip(names, found.values(), strict=True)
    ]


def configuration(run: FinishedRun) -> dict[str, Any]:
    """The options of a run that its numbers depend on, but for the seed."""
    return {name: value for name, value in run.options.items() if name not in {*NEUTRAL, SEED}}


def _name(runs: Sequence[FinishedRun]) -> str:
    """A run's name, or what the names of several begin with: ``distilled-seed1`` and ``-seed2`` are ``distilled``."""
    if len(runs) == 1:
        return runs[0].name
    letters = takewhile(lambda each: len(set(each)) == 1, zip(*(run.name for run in runs), strict=False))
    shared = "".join(each[0] for each in letters).rstrip("-_. ").removesuffix(SEED).rstrip("-_. ")
    return f"{shared or runs[0].name} ({len(runs)} seeds)"


def differing_options(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Rows ``option, value of every group`` of what is not the same in all; ``-``: a run's options lack it."""
    every = [configuration(group.runs[0]) for group in groups]
    names = list(dict.fromkeys(name for options in every for name in options))
    rows = [(name, *(_text(options.get(name, "-")) for options in every)) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
