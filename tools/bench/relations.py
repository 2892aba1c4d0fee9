"""Relational terms of large batches against their textbook form, and the memory of the largest one's angles."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from distilplace.common.randomness import generator
from distilplace.losses.distilvpr import rkdg_geodesic
from distilplace.losses.parts.cross_agent import Ball
from distilplace.losses.parts.relations import angle_loss, pairwise_distance
from distilplace.losses.rkd import rkd_distance
from distilplace.tools.bench.inputs import Case, Sizes
from distilplace.tools.bench.machine import peak_mib
from distilplace.tools.bench.reference import CURVATURE, all_angles, own_distances, own_geodesics

Term = Callable[[Tensor, Tensor], Tensor]

TERMS: dict[str, tuple[Term, Callable[[Tensor], Tensor], str]] = {
    "distance": (lambda s, t: rkd_distance(pairwise_distance(s), pairwise_distance(t)), own_distances, "BxBxD"),
    "geodesic": (lambda s, t: rkdg_geodesic(s, t, Ball(CURVATURE)), own_geodesics, "BxBxD Moebius additions"),
    "angle": (lambda s, t: angle_loss(pairwise_distance(s), pairwise_distance(t)), all_angles, "BxBxD, then B^3"),
}
"""Ours, the relation that its textbook form compares by smooth L1, and what that form holds."""


def embeddings(batch: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of a student, with gradient, and of a teacher: [B, D]."""
    draw = generator("bench", "relations", batch)
    student, teacher = (torch.from_numpy(draw.normal(size=(batch, width)) / 10).to(dtype) for _ in range(2))
    return student.requires_grad_(), teacher


def relation_cases(sizes: Sizes) -> Iterator[Case]:
    """Value and gradient of every term: in float64 with half of the large batch, in float32 with all of it."""
    for dtype, batch, tolerance in (
        (torch.float64, sizes.large_batch // 2, 1e-5),
        (torch.float32, sizes.large_batch, 1e-3),
    ):
        student, teacher = embeddings(batch, sizes.width, dtype)
        for name, (ours, relation, held) in TERMS.items():
            title = f"{name} term, forward+backward, B={batch} D={sizes.width} {str(dtype).removeprefix('torch.')}"
            mine = partial(_value_and_gradient, ours, student, teacher)
            other = partial(_value_and_gradient, _textbook(relation), student, teacher)
            yield Case(title, f"broadcasting: {held}", mine, other, tolerance, saves=True)


def _textbook(relation: Callable[[Tensor], Tensor]) -> Term:
    return lambda student, teacher: F.smooth_l1_loss(relation(student), relation(teacher))


def _value_and_gradient(term: Term, student: Tensor, teacher: Tensor) -> list[Tensor]:
    value = term(student, teacher)
    return [value.detach(), *torch.autograd.grad(value, student)]


def angle_peak(sizes: Sizes, *, alone: bool) -> str:
    """In words, what the angles of the largest batch take at most; ``alone``: in a process of its own, to be exact."""
    if alone:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(_angle_peak, sizes.largest_batch, sizes.width).result()
    else:
        found = _angle_peak(sizes.largest_batch, sizes.width)
    size = "unknown (no /proc)" if found is None else f"{found:.0f} MiB"
    whole = sizes.largest_batch**3 * 8 / 2**20
    return f"angle term, B={sizes.largest_batch} D={sizes.width}: {size} at its peak; B^3 angles, float64: {whole:.0f}"


def _angle_peak(batch: int, width: int) -> float | None:
    student, teacher = embeddings(batch, width, torch.float64)
    term, *_ = TERMS["angle"]
    _value_and_gradient(term, *embeddings(4, width, torch.float64))
    before = peak_mib(reset=True)
    _value_and_gradient(term, student, teacher)
    after = peak_mib()
    return None if before is None or after is None else after - before
