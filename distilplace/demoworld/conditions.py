"""Weather, light and season of a traversal, and the dates under which traversals are filed.

Training and test traversals have conditions of their own: each test condition is akin to one that is trained on
(morning and noon, drizzle and overcast, two dusks, thaw and snow) and equal to none. Numbers are drawn around each
condition per seed and traversal. Light is in arbitrary linear units; the camera's exposure follows the frame.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from distilplace.common.randomness import generator

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Condition:
    """What a traversal looks like."""

    name: str
    season: str = "summer"  # leaf colours: spring, summer, autumn, winter
    foliage: float = 1.0  # share of leaves on the trees
    sun_elevation: float = 50.0  # degrees
    sun_azimuth: float = 200.0  # degrees, clockwise from north
    sun: Color = (3.4, 3.1, 2.6)  # irradiance of the direct sun
    zenith: Color = (0.22, 0.42, 0.80)  # sky radiance overhead
    horizon: Color = (0.75, 0.86, 1.00)  # sky radiance at the horizon, and the fog's colour
    clouds: float = 0.35  # cover 0..1
    cloud_color: Color = (1.15, 1.13, 1.10)
    fog: float = 0.0012  # extinction per metre
    wet: float = 0.0
    snow: float = 0.0
    lamps: float = 0.0  # street lamps, windows and headlights
    key: float = 0.40  # brightness the exposure aims at
    tint: Color = (1.0, 1.0, 1.0)  # white balance
    noise: float = 0.010  # sensor noise, standard deviation of the displayed value
    contrast: float = 1.0


_CLEAR = Condition("clear noon", "summer", 1.0, 56, 185, clouds=0.3)
_AUTUMN = Condition(
    "overcast autumn", "autumn", 0.6, 30, 160, (0.25, 0.25, 0.25), (0.66, 0.70, 0.75), (0.86, 0.88, 0.90), 0.95,
    (0.80, 0.82, 0.85), 0.003, 0.15, tint=(1.03, 1.0, 0.95))  # fmt: skip
_NIGHT = Condition(
    "dusk, lamps lit", "autumn", 0.4, -4, 270, (0.0, 0.0, 0.0), (0.030, 0.045, 0.095), (0.16, 0.11, 0.10), 0.5,
    (0.05, 0.05, 0.07), 0.003, 0.0, 0.0, 1.0, 0.27, (1.04, 1.0, 0.97), 0.022)  # fmt: skip
_SNOW = Condition(
    "snow", "winter", 0.06, 22, 150, (1.1, 1.05, 0.95), (0.55, 0.63, 0.75), (0.86, 0.90, 0.96), 0.7,
    (0.92, 0.94, 0.97), 0.004, 0.0, 0.9, 0.0, 0.52, (0.97, 1.0, 1.05))  # fmt: skip
_MORNING = Condition(
    "spring morning", "spring", 0.75, 24, 95, (3.0, 2.55, 1.85), (0.24, 0.42, 0.75), (0.90, 0.88, 0.85), 0.5,
    (1.1, 1.05, 1.0), 0.002, tint=(1.02, 1.0, 0.98))  # fmt: skip
_DRIZZLE = Condition(
    "drizzle", "summer", 1.0, 40, 200, (0.0, 0.0, 0.0), (0.50, 0.53, 0.57), (0.64, 0.67, 0.70), 1.0,
    (0.55, 0.57, 0.60), 0.005, 0.7, 0.0, 0.1, 0.36, (0.99, 1.0, 1.03), 0.012)  # fmt: skip
_LOW_SUN = Condition(
    "low autumn sun", "autumn", 0.8, 11, 245, (3.6, 2.3, 1.1), (0.25, 0.36, 0.58), (1.15, 0.85, 0.60), 0.4,
    (1.2, 0.95, 0.75), 0.003, tint=(1.08, 1.0, 0.88), contrast=1.1)  # fmt: skip

_LATE_DUSK = replace(_NIGHT, name="late dusk, damp", clouds=0.85, wet=0.35, zenith=(0.024, 0.034, 0.070), foliage=0.25)
_THAW = replace(_SNOW, name="thaw", snow=0.5, wet=0.3, clouds=0.45, sun=(1.9, 1.75, 1.5), sun_elevation=27)

TRAINING = (
    ("2014-06-26-12-08-31", _CLEAR),
    ("2014-10-21-15-16-24", _AUTUMN),
    ("2014-11-25-16-49-12", _NIGHT),
    ("2015-02-03-09-45-10", _SNOW),
    ("2015-10-29-16-18-17", _LOW_SUN),
)
TEST = (
    ("2015-04-17-08-06-25", _MORNING),
    ("2015-07-29-14-09-42", _DRIZZLE),
    ("2015-12-16-16-44-24", _LATE_DUSK),
    ("2016-02-09-10-42-08", _THAW),
)


def draw(run: str, base: Condition, seed: int) -> Condition:
    """The condition of one traversal: ``base`` with its numbers varied by (seed, run)."""
    random = generator("demo", seed, "weather", run)
    cast = 1.0 + random.normal(0, 0.015, 3)
    return replace(
        base,
        foliage=float(np.clip(base.foliage * random.uniform(0.9, 1.1), 0, 1)),
        sun_elevation=base.sun_elevation + float(random.uniform(-5, 5)) * (base.sun_elevation > 15),
        sun_azimuth=base.sun_azimuth + float(random.uniform(-25, 25)),
        clouds=float(np.clip(base.clouds + random.uniform(-0.12, 0.12), 0, 1)),
        fog=base.fog * float(random.uniform(0.8, 1.25)),
        key=base.key * float(random.uniform(0.92, 1.08)),
        tint=(base.tint[0] * float(cast[0]), base.tint[1] * float(cast[1]), base.tint[2] * float(cast[2])),
    )


def sun_direction(condition: Condition) -> np.ndarray:
    """Unit vector [3] towards the sun (x east, y north, z up)."""
    elevation, azimuth = np.radians(condition.sun_elevation), np.radians(condition.sun_azimuth)
    flat = np.cos(elevation)
    return np.array([np.sin(azimuth) * flat, np.cos(azimuth) * flat, np.sin(elevation)], np.float32)


def start_stamp(run: str) -> int:
    """Microseconds since 1970 of a run named YYYY-MM-DD-HH-MM-SS (UTC)."""
    moment = datetime.strptime(run, "%Y-%m-%d-%H-%M-%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000
