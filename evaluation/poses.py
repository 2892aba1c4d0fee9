"""Errors of camera poses: metres between positions, degrees between orientations (PoseNet, Kendall et al., ICCV 2015).

A pose is x y z (metres) and a quaternion w p q r, normalised here. The angle between orientations is that of the
rotation from one to the other, ``2 acos(min(1, |<n(q), q^>|))``, 0 to 180 degrees. It is computed in the form
``4 atan2(|a - b|, |a + b|)`` (Kahan), equal in exact arithmetic: acos loses half of its digits near 0, where good
predictions lie, while this gives exactly 0 for equal quaternions and cannot be NaN.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.evaluation.retrieval.intervals import Interval, resampled
from distilplace.evaluation.retrieval.ranking import unit_rows

if TYPE_CHECKING:
    from distilplace.datasets.benchmarks import PoseSet

Values = NDArray[np.float64]
QUANTILES = (25, 50, 75, 90, 95)
_TIE = 1e-9  # metres per degree: decides between equal medians only, less than a micrometre at 180 degrees


def pose_errors(found: Any, wanted: Any) -> tuple[Values, Values]:
    """Metres and degrees between poses, float64 ``[n]`` each.

    Args:
        found: ``[n, 7]`` predicted poses, NumPy or torch; quaternions of any length and sign. One of length zero names
            no orientation and counts as 180 degrees, the worst (our reading). NaN or infinity is a UserError.
        wanted: ``[n, 7]`` true poses; a quaternion of length zero is a UserError.

    """
    predicted, true = _as_poses(found, "predicted"), _as_poses(wanted, "true")
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predicted poses for {len(true)} true ones")
    a, b = unit_rows(predicted[:, 3:]), unit_rows(true[:, 3:])
    if not b.any(axis=1).all():
        raise UserError(
            f"true pose {int(np.flatnonzero(~b.any(axis=1))[0])} has a quaternion of length zero: check the pose list"
        )
    near, far = np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1)
    # the smaller over the larger, as q and -q turn alike; a = 0 makes them equal: 180 degrees
    degrees = np.degrees(4.0 * np.arctan2(np.minimum(near, far), np.maximum(near, far)))
    return np.linalg.norm(predicted[:, :3] - true[:, :3], axis=1), degrees


def median_errors(found: Any, wanted: Any) -> tuple[float, float]:
    """Median metres and median degrees of :func:`pose_errors`, as papers report them; UserError without any pose."""
    metres, degrees = pose_errors(found, wanted)
    if not len(metres):
        raise UserError("no pose to compare: the median of nothing is undefined")
    return float(np.median(metres)), float(np.median(degrees))


def constant_guess(poses: Any) -> Values:
    """The one pose that guesses best without looking, float64 ``[7]``: median position and mean orientation.

    The median is taken component by component. The orientation is the unit quaternion with the largest mean squared
    dot product with the given ones, whatever their signs (Markley et al., 2007): an eigenvector.
    """
    known = _as_poses(poses, "training")
    directions = unit_rows(known[:, 3:])
    _, vectors = np.linalg.eigh(directions.T @ directions)
    return np.concatenate([np.median(known[:, :3], axis=0), vectors[:, -1]])


@dataclass(frozen=True, eq=False)
class PoseResult:
    """Errors of predicted poses.

    ``metres``, ``degrees``: float64 ``[n]``, image by image; ``found``, ``wanted``: the poses ``[n, 7]``; ``chance``:
    median metres and degrees of :func:`constant_guess`.
    """

    metres: Values = field(repr=False)
    degrees: Values = field(repr=False)
    found: Values = field(repr=False)
    wanted: Values = field(repr=False)
    chance: tuple[float, float]

    @property
    def median_metres(self) -> float:
        """Median distance of positions, metres."""
        return float(np.median(self.metres))

    @property
    def median_degrees(self) -> float:
        """Median angle between orientations, degrees."""
        return float(np.median(self.degrees))

    @property
    def mean_metres(self) -> float:
        """Mean distance of positions, metres."""
        return float(self.metres.mean())

    @property
    def mean_degrees(self) -> float:
        """Mean angle between orientations, degrees."""
        return float(self.degrees.mean())

    @property
    def selection_score(self) -> float:
        """Minus the median metres; equal ones are told apart by the median degrees (at a nanometre a degree)."""
        return -self.median_metres - _TIE * self.median_degrees

    @property
    def summary(self) -> str:
        """Both medians: ``0.93 m, 5.96 deg``."""
        return f"{self.median_metres:.2f} m, {self.median_degrees:.2f} deg"

    def columns(self) -> dict[str, str]:
        """Both medians."""
        return _cells(self.median_metres, self.median_degrees)

    @property
    def query_count(self) -> int:
        """How many images there are."""
        return len(self.metres)

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of both medians, by bootstrap over images."""
        bounds = {"median m": resampled(self.metres, np.median), "median deg": resampled(self.degrees, np.median)}
        return {name: each for name, each in bounds.items() if each is not None}

    def chance_columns(self) -> dict[str, str]:
        """Both medians of the best constant guess."""
        return _cells(*self.chance)

    def scalars(self) -> dict[str, float]:
        """Medians, metres and degrees."""
        return {"median_metres": self.median_metres, "median_degrees": self.median_degrees}

    def to_dict(self) -> dict[str, Any]:
        """Medians, means and quantiles (percent -> value), and those of the best constant guess."""
        return {
            "images": len(self.metres),
            **self.scalars(),
            "mean_metres": self.mean_metres,
            "mean_degrees": self.mean_degrees,
            "quantiles_metres": _quantiles(self.metres),
            "quantiles_degrees": _quantiles(self.degrees),
            "chance": {"median_metres": self.chance[0], "median_degrees": self.chance[1]},
        }


def evaluate_poses(found: Any, pose_set: "PoseSet", training_poses: Any = None) -> PoseResult:
    """Errors of predicted poses ``[n, 7]`` of the set's images, in their order.

    ``training_poses`` ``[m, 7]`` make the constant guess that ``chance`` speaks of; without them the set's own do,
    which flatters the guess. Errors as :func:`pose_errors`; UserError for a set without images.
    """
    pose_set.require_queries()
    metres, degrees = pose_errors(found, pose_set.poses)
    known = pose_set.poses if training_poses is None or len(training_poses) == 0 else training_poses
    guess = np.tile(constant_guess(known), (len(metres), 1))
    wanted = _as_poses(pose_set.poses, "true")
    return PoseResult(metres, degrees, _as_poses(found, "predicted"), wanted, median_errors(guess, wanted))


def _as_poses(values: Any, kind: str) -> Values:
    """``values`` as float64 ``[n, 7]``; ValueError for another shape, UserError for NaN or infinity."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    poses = np.asarray(values, dtype=np.float64)
    if poses.ndim != 2 or poses.shape[1] != 7:
        raise ValueError(f"{kind} poses of shape {poses.shape}: [n, 7] expected, x y z and a quaternion w p q r")
    bad = np.flatnonzero(~np.isfinite(poses).all(axis=1))
    if len(bad):
        advice = "the network has diverged or its weights are damaged" if kind == "predicted" else "check the pose list"
        raise UserError(
            f"{kind} poses are not finite: {len(bad)} of {len(poses)} hold NaN or infinity, "
            f"the first is pose {bad[0]}; {advice}"
        )
    return poses


def _cells(metres: float, degrees: float) -> dict[str, str]:
    return {"median m": f"{metres:.2f}", "median deg": f"{degrees:.2f}"}


def _quantiles(values: Values) -> dict[str, float]:
    return {str(share): float(value) for share, value in zip(QUANTILES, np.percentile(values, QUANTILES), strict=True)}
