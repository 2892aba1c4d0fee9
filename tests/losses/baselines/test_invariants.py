"""Section 1.10 of the specification, by one property test over every term of the table."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilplace.common.outputs import layer_maps, with_maps
from distilplace.losses.combined import with_terms
from distilplace.losses.terms import TERMS

NEVER_ZERO = {"darkrank", "vid", "crd", "afd", "ail", "aml", "csd_bank", "align_projected"}
"""Not 0 when the student equals its teacher, as section 7 lists them."""
MAY_BE_NEGATIVE = {"vid"}
BY_ORDER = {"cc", "crd"}
"""A permutation of the batch changes them: cc compares neighbours, crd draws negatives by position."""
OPTIONS = {"crd_negatives": 7, "crd_dim": 5}
SIZE, PLACES = 6, 9


def network(seed: int, size: int = SIZE, width: int = 8, channels: int = 3, side: int = 4) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    maps = {"layer1": draw(size, channels, 2 * side, side), "layer2": draw(size, channels + 1, side, side)}
    embedding = draw(size, width)
    return {"embedding": embedding, "aligned_embedding": embedding, "pose": draw(size, 7), **with_maps(maps)}


def world(seed: int, size: int = SIZE) -> dict:
    generator = torch.Generator().manual_seed(seed)
    same = torch.arange(size) // 2
    positives = (same[:, None] == same) & ~torch.eye(size, dtype=torch.bool)
    indices = torch.randperm(PLACES, generator=generator)[:size]
    poses = torch.randn(size, 7, generator=generator)
    pairs = torch.arange(size // 2 * 2).view(-1, 2)
    return {
        "positives_mask": positives,
        "negatives_mask": same[:, None] != same,
        "indices": indices,
        "poses": poses,
        "pairs": pairs,
    }


def tensors(output: dict) -> list[Tensor]:
    return [output["embedding"], output["pose"], *layer_maps(output).values()]


def at_rows(values: dict, rows: Tensor) -> dict:
    """Rows of a network's output."""
    maps = {name: each[rows] for name, each in layer_maps(values).items()}
    plain = {name: values[name][rows] for name in ("embedding", "aligned_embedding", "pose")}
    return {**plain, **with_maps(maps)}


def reordered(batch: dict, rows: Tensor) -> dict:
    place = torch.empty_like(rows)
    place[rows] = torch.arange(len(rows))
    masks = {name: batch[name][rows][:, rows] for name in ("positives_mask", "negatives_mask")}
    return {**masks, "indices": batch["indices"][rows], "poses": batch["poses"][rows], "pairs": place[batch["pairs"]]}


def method(name: str, student: dict, teacher: dict, **options: object):
    built = with_terms(None, [name], **{**OPTIONS, **options})
    assert built.student_maps(("layer1", "layer2")) == built.teacher_maps(("layer1", "layer2"))
    first = torch.arange(min(2, len(student["embedding"])))
    if built.reads_bank:
        built.see_bank([network(5, PLACES, teacher["embedding"].shape[1])["embedding"]])
    built.prepare(at_rows(student, first), [at_rows(teacher, first)], PLACES)
    return built


def value(built, student: dict, teacher: dict, batch: dict) -> Tensor:
    (term,) = built(student, [teacher], batch).values()
    return term


@pytest.mark.parametrize("name", TERMS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 9999), size=st.integers(1, 7))
def test_invariants(name, seed, size):
    student, teacher, batch = network(seed, size), network(seed + 10000, size), world(seed, size)
    batch["poses"][0] = teacher["pose"][0]  # a teacher wrong everywhere is trusted nowhere: no gradient from aht
    built = method(name, student, teacher)
    for each in tensors(student) + tensors(teacher):
        each.requires_grad_()
    term = value(built, student, teacher, batch)
    assert math.isfinite(term.detach())
    assert term >= -1e-12 or name in MAY_BE_NEGATIVE
    assert term.shape == ()
    term.backward()
    assert all(each.grad is None for each in tensors(teacher))
    found = [each.grad for each in tensors(student) if each.grad is not None]
    assert found
    assert all(torch.isfinite(each).all() for each in found)
    if size > 3:
        assert any(each.abs().max() > 0 for each in found)
    for parameter in built.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()

    rows = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    if name not in BY_ORDER:
        fresh = method(name, student, teacher)
        other = value(fresh, at_rows(student, rows), at_rows(teacher, rows), reordered(batch, rows))
        torch.testing.assert_close(other, term, rtol=1e-6, atol=1e-12)

    twin = network(seed, size)
    alike = method(name, twin, twin, cc_dim=0)
    zero = value(alike, twin, twin, batch)
    if name not in NEVER_ZERO:
        assert abs(float(zero)) < 1e-7


@pytest.mark.parametrize("name", sorted(NEVER_ZERO))
def test_terms_that_are_not_zero_at_equality(name):
    student, batch = network(1), world(3)
    student["embedding"] *= 0.2
    assert abs(float(value(method(name, student, student), student, student, batch))) > 1e-3


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("kind", ["twins", "all equal", "zero row", "all zero", "equal to the teacher"])
def test_gradients_stay_finite_where_directions_end(name, kind):
    student, teacher, batch = network(1), network(2), world(3)
    for each in tensors(student):
        if kind == "twins":
            each[1] = each[0]
        elif kind == "all equal":
            each[:] = each[0].clone()
        elif kind == "zero row":
            each[2] = 0
        elif kind == "all zero":
            each[:] = 0
    if kind == "equal to the teacher":
        teacher = network(1)
    built = method(name, student, teacher)
    for each in tensors(student):
        each.requires_grad_()
    term = value(built, student, teacher, batch)
    term.backward()
    assert math.isfinite(term.detach())
    gradients = [each.grad for each in tensors(student) if each.grad is not None]
    gradients += [parameter.grad for parameter in built.parameters()]
    assert all(torch.isfinite(each).all() and each.abs().max() < 1e6 for each in gradients)


@pytest.mark.parametrize("name", ["cc", "crd"])
def test_the_two_terms_that_depend_on_the_order_of_the_batch_do(name):
    student, teacher, batch = network(1), network(2), world(3)
    rows = torch.tensor([3, 0, 5, 1, 4, 2])
    first = value(method(name, student, teacher), student, teacher, batch)
    other = value(
        method(name, student, teacher), at_rows(student, rows), at_rows(teacher, rows), reordered(batch, rows)
    )
    assert abs(float(first - other)) > 1e-4


def test_with_one_possible_negative_crd_does_not_depend_on_the_order():
    student, teacher = network(1), network(2)
    indices = torch.tensor([0, 1, 1, 0, 1, 0])
    rows = torch.tensor([3, 0, 5, 1, 4, 2])
    values = []
    for order in (torch.arange(SIZE), rows):
        built = with_terms(None, ["crd"], **OPTIONS)
        first = torch.arange(2)
        built.prepare(at_rows(student, first), [at_rows(teacher, first)], 2)
        ordered = at_rows(student, order), at_rows(teacher, order), {"indices": indices[order]}
        values.append([float(value(built, *ordered)) for _ in range(3)])
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert len({round(each, 3) for each in values[0]}) == 3


@pytest.mark.parametrize("name", TERMS)
def test_other_dimensions_are_compared_or_refused_in_one_line(name):
    from distilplace.common.errors import UserError

    student, teacher, batch = network(1), network(2, width=11, channels=5, side=3), world(3)
    direct = {"kd", "mse", "epcnet", "mkd", "dist", "afd", "csd", "align", "aml", "csd_bank"}
    if name in direct:
        with pytest.raises(UserError, match="--student_output_dim 11"):
            method(name, student, teacher)
    else:
        built = method(name, student, teacher)
        assert math.isfinite(value(built, student, teacher, batch))
    if name == "cc":
        with pytest.raises(UserError, match="--student_output_dim 11"):
            method(name, student, teacher, cc_dim=0)
