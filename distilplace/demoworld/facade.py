"""The wall shader: bricks, plaster, stone or boards; windows with frames and curtains, doors, shop fronts, cornices."""

import numpy as np

from distilplace.demoworld.buildings import BOARDS, BRICK, HOUSE, PLASTER, SHOP, STONE
from distilplace.demoworld.mesh import Floats
from distilplace.demoworld.textures import cell_hash, fractal

BASE_HEIGHT = 0.4
SHOP_HEIGHT = 3.1


def masonry(kind: np.ndarray, u: np.ndarray, v: np.ndarray, seed: np.ndarray) -> Floats:
    """Brightness [n] of the wall's texture around 1 for BRICK, PLASTER, STONE, BOARDS at metres (u, v)."""
    grain = fractal(u + seed * 3.1, v, 9.0)
    stains = fractal(u * 1.6 + seed * 1.7, v * 0.5, 4.0)
    value = 0.78 + 0.3 * grain + 0.3 * (stains - 0.5)
    courses = {BRICK: (0.15, 0.46, 0.022, 0.55), STONE: (0.36, 0.8, 0.03, 0.32), BOARDS: (0.2, 3.0, 0.03, 0.12)}
    for name, (course, length, joint, spread) in courses.items():
        chosen = np.flatnonzero(kind == name)
        if not len(chosen):
            continue
        row = np.floor(v[chosen] / course)
        along = u[chosen] / length + 0.5 * (row % 2)
        column = np.floor(along)
        brick = cell_hash(column, row, seed[chosen])
        in_joint = (v[chosen] - row * course < joint) | ((along - column) * length < joint)
        tone = 1 + spread * (brick - 0.5)
        tone = np.where(in_joint, 1.32 if name == BRICK else 0.72, tone)
        value[chosen] *= tone
    return value.astype(np.float32)


def shade_wall(
    u: np.ndarray,
    v: np.ndarray,
    size: np.ndarray,
    color: np.ndarray,
    accent: np.ndarray,
    style: np.ndarray,
    lit: float,
) -> tuple[Floats, Floats, Floats]:
    """Albedo [n,3], glass share [n] (how much the surface mirrors the sky) and emission [n,3] of wall points.

    ``style``: texture, floor height, bay width, window share of bay and floor, seed, ground kind, floors.
    ``lit``: 0..1, how much light burns behind the windows.
    """
    texture, floor_height, bay, wide, tall, seed, ground, floors = style.T
    albedo = color * masonry(texture, u, v, seed)[:, None]
    albedo *= (0.72 + 0.28 * np.clip(v / 1.1, 0, 1))[:, None]  # splashed and dirty near the street
    top = size[:, 1] - v
    trim = np.maximum(accent * 0.0 + 0.55, color * 1.15)
    level = np.floor((v - BASE_HEIGHT) / floor_height)
    height = (v - BASE_HEIGHT) - level * floor_height
    column = np.floor(u / bay)
    across = u - (column + 0.5) * bay
    band = ((top < 0.28) & (top > 0.05)) | ((np.abs(height) < 0.12) & (level == 1) & (texture == STONE))
    plinth = (v < BASE_HEIGHT) & (floors > 0)
    albedo = np.where((band & (floors > 0))[:, None], trim * 0.85, albedo)
    albedo = np.where(plinth[:, None], albedo * 0.6, albedo)
    quoin = (np.minimum(u, size[:, 0] - u) < 0.3 + 0.15 * (np.floor(v / 0.4) % 2)) & (cell_hash(seed, seed) > 0.5)
    albedo = np.where((quoin & (floors > 1) & (texture <= BRICK))[:, None], trim * 0.8, albedo)
    half_w, sill = wide * bay / 2, 0.3 * floor_height * (1.25 - tall * 0.5)
    head = sill + tall * floor_height
    usable = (level >= 0) & (level < floors) & (wide > 0) & (top > 0.35)
    is_front = (ground == HOUSE) | (ground == SHOP)
    open_ground = (level > 0) | ~(is_front & (ground == SHOP))
    blind = cell_hash(column * 3, level + 5, seed) > np.where(is_front, 0.97, 0.45)
    near = (np.abs(across) < half_w + 0.14) & (height > sill - 0.16) & (height < head + 0.16)
    fits = near & usable & open_ground & ~blind
    door_column = np.floor(cell_hash(seed, seed * 3, 9) * 1.5)
    doorway = (ground == HOUSE) & (level == 0) & (column == door_column)
    state = _Paint(albedo, np.zeros(len(u), np.float32), np.zeros((len(u), 3), np.float32))
    _paint_windows(
        state, np.flatnonzero(fits & ~doorway), across, height, half_w, sill, head, column, level, seed, trim, lit
    )
    _paint_door(state, np.flatnonzero(doorway & (np.abs(across) < 0.75) & (v < 2.95)), across, v, accent, trim, lit)
    _paint_shop(state, np.flatnonzero((ground == SHOP) & (v < SHOP_HEIGHT + 0.7)), u, v, size, accent, seed, lit)
    return state.albedo.astype(np.float32), state.glass, state.emission


class _Paint:
    """The three results being painted over."""

    def __init__(self, albedo: np.ndarray, glass: Floats, emission: Floats) -> None:
        self.albedo, self.glass, self.emission = albedo, glass, emission

    def put(self, where: np.ndarray, albedo: np.ndarray | tuple, glass: float | np.ndarray = 0.0) -> None:
        self.albedo[where] = albedo
        self.glass[where] = glass


def _paint_windows(
    state: _Paint,
    at: np.ndarray,
    across: np.ndarray,
    height: np.ndarray,
    half_w: np.ndarray,
    sill: np.ndarray,
    head: np.ndarray,
    column: np.ndarray,
    level: np.ndarray,
    seed: np.ndarray,
    trim: np.ndarray,
    lit: float,
) -> None:
    if not len(at):
        return
    x, y, half, low, high = across[at], height[at], half_w[at], sill[at], head[at]
    inside = (np.abs(x) < half) & (y > low) & (y < high)
    style = cell_hash(seed[at], seed[at] * 5, 3)
    bars = (np.abs(x) < 0.035) & (style < 0.6) | (np.abs(y - (low + (high - low) * 0.55)) < 0.035) & (style > 0.3)
    frame = inside & ((half - np.abs(x) < 0.07) | (y - low < 0.07) | (high - y < 0.07) | bars)
    recess = inside & ~frame & ((high - y < 0.2) | (half - x < 0.13))
    ledge = ~inside & (y <= low)
    shutters = ~inside & (y > low) & (y < high)
    chance = cell_hash(column[at], level[at], seed[at])
    state.albedo[at] = np.where(ledge[:, None], trim[at] * 0.8, state.albedo[at])
    lintel = ~inside & (y >= high)
    state.albedo[at] = np.where(lintel[:, None], trim[at] * 0.65 + 0.1, state.albedo[at])
    state.albedo[at] = np.where((shutters & (style > 0.5))[:, None], state.albedo[at] * 0.75, state.albedo[at])
    curtain = inside & (chance > 0.55) & (np.abs(x) > half * (0.25 + 0.6 * (chance - 0.55)))
    blind = inside & (chance < 0.2) & (y > high - (high - low) * (0.2 + 2.5 * chance))
    pane = np.where((curtain | blind)[:, None], np.array([0.36, 0.34, 0.31]), np.array([0.035, 0.04, 0.045]))
    pane = np.where(recess[:, None], pane * 0.55, pane)
    pane = np.where(frame[:, None], np.where((style > 0.8)[:, None], 0.12, 0.68), pane)
    state.albedo[at] = np.where(inside[:, None], pane, state.albedo[at])
    state.glass[at] = np.where(inside & ~frame, 1.0, 0.0)
    if lit > 0:
        burning = inside & ~frame & (cell_hash(column[at] + 11, level[at] + 3, seed[at] + 7) < 0.38)
        warm = np.array([1.0, 0.68, 0.34]) * (0.55 + 0.7 * chance[:, None])
        warm = warm * np.where(curtain | blind, 0.6, 1.0)[:, None]
        state.emission[at] = np.where(burning[:, None], warm * 0.75 * lit, 0.0)


def _paint_door(
    state: _Paint, at: np.ndarray, across: np.ndarray, v: np.ndarray, accent: np.ndarray, trim: np.ndarray, lit: float
) -> None:
    if not len(at):
        return
    x, y = np.abs(across[at]), v[at]
    leaf = (x < 0.5) & (y < 2.25) & (y > 0.2)
    light = (x < 0.5) & (y >= 2.3) & (y < 2.65)
    panel = leaf & (np.abs(x - 0.25) < 0.15) & (np.abs((y - 0.2) % 1.0 - 0.5) < 0.35)
    color = np.where(leaf[:, None], accent[at] * np.where(panel, 0.75, 1.0)[:, None], trim[at] * 0.85)
    color = np.where((y <= 0.2)[:, None], 0.35, color)
    state.albedo[at] = np.where(light[:, None], 0.05, color)
    state.glass[at] = np.where(light, 1.0, 0.0)
    state.emission[at] = np.where(light[:, None], np.array([0.9, 0.6, 0.3]) * 0.6 * lit, 0.0)


def _paint_shop(
    state: _Paint,
    at: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    size: np.ndarray,
    accent: np.ndarray,
    seed: np.ndarray,
    lit: float,
) -> None:
    """Large panes between pilasters, wares behind them, a lettered sign above, a door in the middle."""
    if not len(at):
        return
    x, y, width = u[at], v[at], size[at, 0]
    sign = y > SHOP_HEIGHT - 0.15
    pilaster = np.minimum(x, width - x) < 0.35
    mullion = (np.abs((x / 1.7) % 1.0) < 0.05) | (np.abs(y - 2.5) < 0.04)
    stall = y < 0.55
    wares = cell_hash(np.floor(x / 0.35), np.floor(y / 0.3), seed[at]) * (y < 1.7)
    tone = cell_hash(np.floor(x / 0.7), np.floor(y / 0.6), seed[at] + 2)
    goods = np.column_stack([wares * tone, wares * (1 - tone) * 0.8, wares * 0.4]) * 0.5 + 0.03
    letters = sign & (np.abs(y - SHOP_HEIGHT - 0.28) < 0.17) & (np.abs(x - width / 2) < width * 0.36)
    letters &= cell_hash(np.floor(x / 0.13), np.floor(y / 0.12), seed[at]) > 0.42
    color = np.where((pilaster | mullion | stall)[:, None], accent[at] * 0.6 + 0.02, goods)
    color = np.where(sign[:, None], accent[at] * (0.9 + 0.1 * (y > SHOP_HEIGHT)[:, None]), color)
    color = np.where(letters[:, None], 0.78, color)
    glazed = ~(pilaster | mullion | stall | sign)
    state.albedo[at] = color
    state.glass[at] = np.where(glazed, 0.8, 0.0)
    glow = (goods * 1.6 + np.array([0.30, 0.25, 0.17])) * 0.9 * lit * (cell_hash(seed[at], seed[at], 4) < 0.6)[:, None]
    state.emission[at] = np.where(glazed[:, None], glow, np.where(letters[:, None], 0.25 * lit, 0.0))


__all__ = ["BOARDS", "BRICK", "PLASTER", "STONE", "masonry", "shade_wall"]
