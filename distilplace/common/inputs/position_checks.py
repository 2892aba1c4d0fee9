"""Positions that are no metres (degrees, kilometres, millimetres), or that a receiver lost.

``runs``: float64 [n, 2] (northing, easting) each.
"""

from collections.abc import Sequence

import numpy as np

from distilplace.common.errors import UserError

STANDING = 0.01  # metres from frame to frame
SMALL = 1.0  # metres: no place-recognition set is smaller
LONGEST = 20.0  # degrees of a drive, or metres of a small run
CLOSE = 0.01  # between frames: a kilometre in degrees, hardly a movement in metres
FARTHEST = 1e8  # of an easting: Gauss-Krueger's, which begin with the zone, reach 4.6e7, Web Mercator's 2.1e7
WIDE = 200.0  # metres between frames: no robot's, but those of 20 cm in millimetres
JUMP = 1000  # usual steps
LOST = (100.0, 50)  # metres and usual steps to the nearest other frame, from which on a frame at (0, 0) has no fix


def spacing(places: Sequence[np.ndarray]) -> float:
    """Median distance of consecutive frames that move, metres; 0 where none does."""
    steps = np.concatenate([np.linalg.norm(np.diff(run, axis=0), axis=1) for run in places])
    moving = steps[steps > STANDING]
    return float(np.median(moving)) if len(moving) else 0.0


def span(runs: Sequence[np.ndarray]) -> float:
    """The largest diagonal of the runs' bounding boxes, metres."""
    return max((float(np.hypot(*np.ptp(places, axis=0))) for places in runs if len(places)), default=0.0)


def refuse_small_span(runs: Sequence[np.ndarray], what: str, smallest: float = SMALL) -> None:
    """:class:`UserError` when no run spans ``smallest`` metres, though positions differ: degrees, or kilometres.

    ``what``: whose positions, to begin the sentence with.
    """
    found = span(runs)
    if 0 < found < smallest:
        raise UserError(f"{what} span less than {_metres(smallest)} ({found:.2g} m): {_likely(runs)}")


def refuse_degrees(places: np.ndarray, what: str) -> None:
    """:func:`refuse_small_span` of ``places`` [n, 2] for those that could be latitudes and longitudes at all."""
    if len(places) and _within_degrees([places]):
        refuse_small_span([places], what)


def refuse_far(places: np.ndarray, what: str) -> None:
    """:class:`UserError` when one of ``places`` [n, 2] lies farther out than any coordinates in metres."""
    farthest = float(np.abs(places).max(initial=0))
    if farthest > FARTHEST:
        raise UserError(f"{what} reach {farthest:g}, farther than any metres on Earth: divide millimetres by 1000")


def refuse_outliers(where: Sequence[str], places: np.ndarray) -> None:
    """:class:`UserError` for a frame at (0, 0) far from all others, or one far from both its neighbours.

    ``where`` [n]: file, line and frame of each of a run's ``places`` [n, 2], to begin the sentence with.
    """
    lost = (np.abs(places) < 1e-6).all(axis=1)
    others = places[~lost]
    if lost.any() and len(others):
        nearest = float(np.linalg.norm(others, axis=1).min())
        if nearest > max(LOST[0], LOST[1] * spacing([others])):
            raise UserError(
                f"{where[int(np.flatnonzero(lost)[0])]} lies at (0, 0), {nearest:,.0f} m from the nearest other, as "
                f"where a receiver has no fix ({_counted(int(lost.sum()))}): correct or remove the row"
            )
    usual = spacing([places])
    if usual == 0:
        return
    far = np.linalg.norm(np.diff(places, axis=0), axis=1) > JUMP * usual
    back = np.linalg.norm(places[2:] - places[:-2], axis=1) <= JUMP * usual
    alone = np.flatnonzero(far[:-1] & far[1:] & back) + 1
    if len(alone):
        away = float(np.linalg.norm(places[alone[0]] - places[alone[0] - 1]))
        raise UserError(
            f"{where[alone[0]]} lies {away:,.0f} m from the frames before and after it, where {usual:.2g} m are usual "
            f"({_counted(len(alone))}): correct or remove the row"
        )


def jumps(where: Sequence[str], places: np.ndarray) -> list[str]:
    """A line for the log where frames of one run (as in :func:`refuse_outliers`) lie far from the ones before."""
    usual = spacing([places])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    far = np.flatnonzero(steps > JUMP * usual)
    if usual == 0 or len(far) == 0:
        return []
    return [
        f"{where[far[0] + 1]} lies {steps[far[0]]:,.0f} m from the frame before, where {usual:.2g} m are usual "
        f"({_counted(len(far))}): the gap counts as driven; correct the row if it is wrong, or part the run there"
    ]


def doubt(runs: Sequence[np.ndarray]) -> str | None:
    """A line for the log where positions may be degrees of a long journey, or millimetres; None: no reason to."""
    usual = spacing(runs)
    if usual > WIDE:
        return f"frames lie {usual:,.0f} m apart (median): metres are expected; divide by 1000 if these are millimetres"
    found = span(runs)
    steps = np.concatenate([np.linalg.norm(np.diff(places, axis=0), axis=1) for places in runs])
    moving = steps[steps > 0]
    slow = len(moving) > 0 and float(np.median(moving)) < CLOSE
    if slow and SMALL <= found < LONGEST and _within_degrees(runs) and not _starts_at_origin(runs):
        return f"positions span {found:.2g} m only: {_likely(runs)}"
    return None


def _counted(frames: int) -> str:
    return "1 such frame" if frames == 1 else f"{frames} such frames"


def _metres(value: float) -> str:
    return "a metre" if value == SMALL else f"{value:g} m"


def _likely(runs: Sequence[np.ndarray]) -> str:
    """What they look like, and the remedy."""
    northing, easting = np.concatenate(runs)[0]
    if not _within_degrees(runs) or _starts_at_origin(runs):
        return "metres are expected: convert them if they are degrees or kilometres"
    zone = int((easting + 180) // 6) % 60 + 1
    side, code = ("N", 32600 + zone) if northing >= 0 else ("S", 32700 + zone)
    return (
        f"they look like degrees (northing {northing:.6g}, easting {easting:.6g}): convert them to metres, such as UTM "
        f"zone {zone}{side} (EPSG:{code}), if these are latitude and longitude"
    )


def _within_degrees(runs: Sequence[np.ndarray]) -> bool:
    places = np.concatenate(runs)
    return bool((np.abs(places[:, 0]) <= 90).all() and (np.abs(places[:, 1]) <= 180).all())


def _starts_at_origin(runs: Sequence[np.ndarray]) -> bool:
    """Do the runs begin at (0, 0), as maps of one's own do?"""
    return all(bool((np.abs(places[0]) < 1e-6).all()) for places in runs)
