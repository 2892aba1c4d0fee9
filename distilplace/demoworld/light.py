"""Sky, sun, street lamps, headlights and fog: from surfaces to radiance."""

from dataclasses import dataclass

import numpy as np

from distilplace.demoworld.conditions import Condition, sun_direction
from distilplace.demoworld.mesh import Floats
from distilplace.demoworld.surfaces import Hits, Surface
from distilplace.demoworld.textures import fractal_smooth

LAMP_COLOR = np.array([1.0, 0.66, 0.34], np.float32)
LAMP_POWER = 8.5
NEAREST_LAMPS = 7


@dataclass
class Shadows:
    """What rays towards the light say about n points: 1 = open, 0 = blocked."""

    sun: Floats  # [n]
    sky: Floats  # [n] share of the nearby hemisphere that is open


def sky_radiance(direction: np.ndarray, condition: Condition, drift: float = 0.0) -> Floats:
    """Radiance [n,3] of the sky along unit directions [n,3]: gradient, clouds and the sun's glow."""
    up = np.clip(direction[:, 2], 0, 1)[:, None]
    zenith, horizon = np.array(condition.zenith), np.array(condition.horizon)
    color = horizon + (zenith - horizon) * (1 - np.exp(-3.2 * up))
    sun = sun_direction(condition)
    facing = np.clip(direction @ sun, 0, 1)
    strength = np.array(condition.sun) * 0.25
    if condition.clouds > 0:
        height = np.clip(direction[:, 2], 0.0, 1) + 0.09
        x, y = direction[:, 0] / height + drift, direction[:, 1] / height
        wisps = 0.7 * fractal_smooth(x, y, 7.0) + 0.3 * fractal_smooth(x + 5, y - 3, 26.0)
        edge = 0.78 - 0.56 * condition.clouds
        cover = np.clip((wisps - edge) * 5.0, 0, 1)
        body = np.array(condition.cloud_color) * (0.62 + 0.55 * wisps + 0.25 * facing**4)[:, None]
        share = (cover * np.clip(up[:, 0] * 9, 0, 1))[:, None]
        color = color + (body - color) * share
        strength = strength * (1 - 0.7 * share)
    glow = 0.35 * facing**12 + 2.5 * facing**180 + np.where(facing > 0.9993, 30.0, 0.0)
    return (color + strength * glow[:, None]).astype(np.float32)


def _ambient(normal: Floats, open_sky: Floats, condition: Condition) -> Floats:
    """Light from the sky dome and the bounce off the ground [n,3]."""
    zenith, horizon = np.array(condition.zenith), np.array(condition.horizon)
    clouds = np.array(condition.cloud_color)
    dome = (zenith * (1 - 0.7 * condition.clouds) + clouds * 0.7 * condition.clouds) * 0.65 + horizon * 0.35
    bounce = dome * 0.28 + np.array(condition.sun) * max(np.sin(np.radians(condition.sun_elevation)), 0) * 0.09
    if condition.snow > 0:
        bounce = bounce + dome * 0.45 * condition.snow
    facing = (0.5 + 0.5 * normal[:, 2])[:, None]
    return (dome * facing + bounce * (1 - facing)) * (0.12 + 0.88 * open_sky)[:, None]


def _lamp_light(hits: Hits, lamps: Floats, camera: Floats, condition: Condition) -> Floats:
    """Warm light of the lamps nearest to the camera's view [n,3]."""
    ahead = hits.view.mean(0)
    order = np.argsort(np.linalg.norm(lamps - (camera + ahead * 14), axis=1))[:NEAREST_LAMPS]
    light = np.zeros(len(hits.distance), np.float32)
    for lamp in lamps[order]:
        to_lamp = lamp - hits.point
        square = (to_lamp**2).sum(1) + 0.3
        cosine = np.clip((to_lamp * hits.normal).sum(1) / np.sqrt(square), 0, 1)
        downward = np.clip(to_lamp[:, 2] / np.sqrt(square), 0.06, 1)
        light += cosine * downward * LAMP_POWER / square
    return light[:, None] * LAMP_COLOR * condition.lamps


def _headlights(hits: Hits, ahead: Floats, condition: Condition) -> Floats:
    """The vehicle's own lights: a broad beam ahead, [n,3]."""
    along = hits.view @ ahead
    beam = np.clip((along - 0.72) * 3.2, 0, 1) ** 1.5 * np.clip(0.16 - hits.view[:, 2] * 1.2, 0.02, 0.4)
    facing = np.clip(-(hits.view * hits.normal).sum(1), 0.1, 1)
    value = beam * facing * 60.0 / (hits.distance**1.6 + 14)
    return (value * condition.lamps)[:, None] * np.array([1.0, 0.95, 0.85])


def radiance(
    hits: Hits,
    surface: Surface,
    shadows: Shadows,
    condition: Condition,
    lamps: Floats,
    camera: Floats,
    ahead: Floats,
    mirrored: Floats | None = None,
) -> Floats:
    """Light [n,3] that reaches the camera from the hits, fog included.

    ``mirrored`` [n,3]: what a mirror at each hit would show (the sky where not given).
    """
    sun = sun_direction(condition)
    cosine = hits.normal @ sun
    through = np.clip(-cosine, 0, 1) * surface.soft * 0.6  # leaves glow when lit from behind
    direct = (np.clip(cosine, 0, 1) * (1 - 0.3 * surface.soft) + through) * shadows.sun
    incoming = direct[:, None] * np.array(condition.sun) + _ambient(hits.normal, shadows.sky, condition)
    if condition.lamps > 0:
        incoming = incoming + _lamp_light(hits, lamps, camera, condition) + _headlights(hits, ahead, condition)
    color = surface.albedo * incoming
    shiny = np.flatnonzero(surface.glass > 0)
    if len(shiny):
        view, normal = hits.view[shiny], hits.normal[shiny]
        grazing = 1 - np.clip(-(view * normal).sum(1), 0, 1)
        fresnel = (0.05 + 0.75 * grazing**4) * surface.glass[shiny]
        if mirrored is None:
            bounce = view - 2 * (view * normal).sum(1, keepdims=True) * normal
            seen = sky_radiance(bounce, condition) * (0.35 + 0.65 * shadows.sky[shiny])[:, None]
            highlight = np.clip(bounce @ sun, 0, 1) ** 60 * shadows.sun[shiny] * 1.5
            seen = seen + highlight[:, None] * np.array(condition.sun)
        else:
            seen = mirrored[shiny]
        color[shiny] = color[shiny] * (1 - fresnel[:, None]) + seen * fresnel[:, None]
    color = color + surface.emission
    clear = np.exp(-condition.fog * hits.distance)[:, None]
    return (color * clear + np.array(condition.horizon) * (1 - clear)).astype(np.float32)
