"""Radii of ``frames`` that were not given, from the spacing of the frames and what the runs leave to train on.

The usual ones are 10 m (positives), 50 m (negatives) and 25 m (found), made for frames up to 4 m apart in a town. They
grow with a wider spacing, and are halved, down to that of the spacing, until the training section holds a fifth of all
frames and the evaluation radius reaches over a fifth of a test section at most.
"""

from collections.abc import Callable, Sequence

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.position_checks import spacing
from distilplace.datasets.readers.frames.sections import TEST_SHARE, Section
from distilplace.datasets.relations import Radii
from distilplace.datasets.routes import travelled

POSITIVE, NEGATIVE, EVALUATION = 2.5, 12.5, 6.25  # times the unit
UNIT = 4.0  # metres; of the usual radii
SMALLEST_UNIT = 0.04  # metres: positives within 10 cm
SMALLEST_EXTENT = 1.0  # metres
TRAINED = 0.2  # share of the frames that train at least
REACH = 0.2  # of a test section's length, at most the evaluation radius
Cut = Callable[[Radii], list[Section]]


def choose_radii(
    given: tuple[float | None, float | None, float | None], places: Sequence[np.ndarray], cut: Cut
) -> tuple[Radii, str | None]:
    """The radii with those that are not given chosen, and a line that announces them; None where all are given.

    Args:
        given: positive, negative and evaluation radius, metres.
        places: float64 [n, 2] a run, metres.
        cut: sections of all runs at some radii; raises :class:`UserError` where runs are too short for them.

    Raises:
        UserError: the runs stand still, or their positions are no metres.


    """
    if all(value is not None for value in given):
        return _filled(given, UNIT), None
    step = spacing(places)
    extent = max(float(np.ptp(run, axis=0).max()) for run in places)
    if extent < SMALLEST_EXTENT:
        raise UserError(
            f"positions of the runs span {extent:.2g} m, from which no radius can be chosen: metres are expected (not "
            "degrees); record a longer run, or give --positive_radius, --negative_radius and --eval_radius"
        )
    longest = max(float(travelled(run)[-1]) for run in places)
    radii = _filled(given, max(step, SMALLEST_UNIT))
    for unit in _units(step):
        candidate = _filled(given, unit)
        short = given[2] is None and candidate.evaluation > REACH * TEST_SHARE * longest
        if not short and _leaves_enough(candidate, cut):
            radii = candidate
            break
    names = ("positive_radius", "negative_radius", "eval_radius")
    chosen = [
        f"--{name} {value:g}"
        for name, value, own in zip(names, (*radii[1:], radii.evaluation), given, strict=True)
        if own is None
    ]
    return radii, f"frames lie {step:.2g} m apart (median); chosen from that: {' '.join(chosen)} (metres)"


def _units(step: float) -> list[float]:
    """The usual unit, or the spacing where that is wider, and its halves down to the spacing."""
    units = [max(UNIT, step)]
    smallest = max(step, SMALLEST_UNIT)
    while units[-1] / 2 > smallest:
        units.append(units[-1] / 2)
    return units


def _filled(given: tuple[float | None, float | None, float | None], unit: float) -> Radii:
    """Radii of one unit with those given in their place; positives never exceed negatives because of a chosen one."""
    usual = [float(f"{factor * unit:.3g}") for factor in (POSITIVE, NEGATIVE, EVALUATION)]
    positive, negative, evaluation = (own if value is None else value for value, own in zip(given, usual, strict=True))
    if given[0] is None:
        positive = min(positive, negative)
    if given[1] is None:
        negative = max(positive, negative)
    return Radii(evaluation, positive, negative)


def _leaves_enough(radii: Radii, cut: Cut) -> bool:
    try:
        sections = cut(radii)
    except UserError:
        return False
    trained = sum(int(section.training.sum()) for section in sections)
    return trained >= TRAINED * sum(len(section.training) for section in sections)
