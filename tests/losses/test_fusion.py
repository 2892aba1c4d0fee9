"""Fusing teachers: recorded matrices, every strategy by loops, draws that depend on their key alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.losses.parts.fusion import DRAWING, STRATEGIES, drawn_teachers, fuse, winning_shares


def slow_fusion(similarities, strategy, drawn):
    """Entry by entry, in words of the paper."""
    teachers, places, _ = similarities.shape
    fused = torch.empty(places, places, dtype=similarities.dtype)
    for i in range(places):
        for j in range(places):
            said = [float(similarities[k, i, j]) for k in range(teachers)]
            others = {
                "mean": sum(said) / teachers,
                "maxmean": sum(said) / teachers,
                "maxmin": min(said),
                "maxfix": said[-1],
                "rand": said[int(drawn[i, j])],
                "maxrand": said[int(drawn[i, j])],
            }[strategy]
            fused[i, j] = max(said) if i == j and strategy not in ("mean", "rand") else others
    return fused


def test_recorded_matrices(golden):
    recorded = golden("l_whiten_mtd.pt")["fusion"]
    for strategy in ("mean", "maxmin", "maxmean", "maxfix"):
        found = fuse(recorded["similarities"], strategy)
        torch.testing.assert_close(found, recorded[f"s_{strategy}"], rtol=1e-6, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(STRATEGIES), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_every_strategy_by_loops(strategy, teachers, places, seed):
    generator = torch.Generator().manual_seed(seed)
    similarities = torch.randn(teachers, places, places, generator=generator, dtype=torch.float64)
    drawn = drawn_teachers(teachers, places, seed)
    before = similarities.clone()
    found = fuse(similarities, strategy, drawn)
    torch.testing.assert_close(found, slow_fusion(similarities, strategy, drawn), rtol=1e-12, atol=1e-12)
    assert torch.equal(similarities, before)
    turned = fuse(similarities.transpose(1, 2), strategy, drawn.T)
    assert torch.equal(turned, found.T)  # so one draw serves rows and columns


def test_one_teacher_is_itself_and_equal_teachers_are_one():
    similarities = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for strategy in STRATEGIES:
        for count in (1, 3):
            copies = similarities.expand(count, 6, 6)
            found = fuse(copies, strategy, drawn_teachers(count, 6, "x"))
            torch.testing.assert_close(found, similarities[0], rtol=1e-15, atol=1e-15)


def test_draws_are_uniform_and_depend_on_their_key_alone():
    first = drawn_teachers(3, 300, 5, 7)
    torch.manual_seed(0)
    assert torch.equal(first, drawn_teachers(3, 300, 5, 7))
    assert not torch.equal(first, drawn_teachers(3, 300, 7, 5))
    counts = torch.bincount(first.flatten(), minlength=3)
    assert len(counts) == 3
    assert (counts / 90_000 - 1 / 3).abs().max() < 0.01


def test_winning_shares():
    diagonals = torch.tensor([[0.1, 0.9, 0.3, 0.5], [0.2, 0.8, 0.4, 0.5], [0.0, 0.1, 0.2, 0.4]])
    similarities = torch.diag_embed(diagonals) + 5 * (1 - torch.eye(4))
    assert winning_shares(similarities) == [0.5, 0.5, 0]


def test_what_is_refused():
    with pytest.raises(UserError, match="unknown fusion strategy 'maxmn': did you mean 'maxmin'"):
        fuse(torch.zeros(2, 3, 3), "maxmn")
    for strategy in DRAWING:
        with pytest.raises(ValueError, match=strategy):
            fuse(torch.zeros(2, 3, 3), strategy)
