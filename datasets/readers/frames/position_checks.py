"""Positions that are no metres: latitudes and longitudes in degrees, or kilometres."""

from collections.abc import Sequence

import numpy as np

from distilplace.common.errors import UserError

SMALL = 1.0  # metres: no place-recognition set is smaller
LONGEST = 20.0  # degrees of a drive, or metres of a small run
CLOSE = 0.01  # between frames: a kilometre in degrees, hardly a movement in metres


def span(runs: Sequence[np.ndarray]) -> float:
    """The largest diagonal of the runs' bounding boxes, metres; ``runs``: float64 [n, 2] (northing, easting) each."""
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


def doubt(runs: Sequence[np.ndarray]) -> str | None:
    """A line for the log where positions may be degrees of a long journey; None: no reason to think so."""
    found = span(runs)
    steps = np.concatenate([np.linalg.norm(np.diff(places, axis=0), axis=1) for places in runs])
    moving = steps[steps > 0]
    slow = len(moving) > 0 and float(np.median(moving)) < CLOSE
    if slow and SMALL <= found < LONGEST and _within_degrees(runs) and not _starts_at_origin(runs):
        return f"positions span {found:.2g} m only: {_likely(runs)}"
    return None


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
