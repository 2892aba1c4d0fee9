"""What a benchmark of ``tools.bench`` is (two callables with one result), the sizes, and generated street clouds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distilplace.common.randomness import generator
from distilplace.models.sparse import batched_coordinates, quantize

VOXEL = 0.01  # of clouds scaled to -1..1, as the Oxford benchmark's


@dataclass(frozen=True)
class Sizes:
    """How large the inputs are: the published training's, unless told otherwise."""

    batch: int = 128
    width: int = 384
    clouds: int = 8
    points: int = 4096
    places: int = 20000
    runs: int = 23
    run_length: int = 200
    image: tuple[int, int] = (240, 320)
    large_batch: int = 512
    largest_batch: int = 1024


QUICK = Sizes(16, 32, 2, 256, 500, 3, 30, (48, 64), 24, 40)


@dataclass(frozen=True)
class Case:
    """Two callables with the same result; ``tolerance`` is relative to its largest number.

    ``saves``: both build an autograd graph, so what they keep for the backward pass is measured too.
    """

    name: str
    against: str
    ours: Callable[[], Sequence[Tensor]]
    reference: Callable[[], Sequence[Tensor]]
    tolerance: float = 1e-4
    saves: bool = False


def street(points: int, number: int) -> np.ndarray:
    """A street seen from its middle, float32 [points, 3] within -1..1: ground, two rough facades, poles."""
    draw = generator("bench", "street", number)
    along, side, height = draw.uniform(-1, 1, points), draw.choice([-1.0, 1.0], points), draw.uniform(0, 1, points)
    facade = side * (0.3 + 0.02 * np.round(3 * np.sin(9 * along)) + draw.normal(0, 0.003, points))
    pole = np.round(along * 5) / 5
    part = draw.choice(3, points, p=[0.4, 0.5, 0.1])
    cloud = np.stack(
        [
            np.where(part == 2, pole + draw.normal(0, 0.005, points), along),
            np.select([part == 0, part == 1], [draw.uniform(-0.3, 0.3, points), facade], side * 0.22),
            np.where(part == 0, draw.normal(-0.1, 0.004, points), 0.6 * height**2 - 0.1),
        ],
        axis=1,
    )
    return cloud.astype(np.float32).clip(-1, 1)


def voxels(sizes: Sizes) -> Tensor:
    """Coordinates int32 [N, 4] of the batch of clouds."""
    grids = [quantize(street(sizes.points, number), VOXEL)[0] for number in range(sizes.clouds)]
    return torch.from_numpy(batched_coordinates(grids))
