"""Ranking cross-entropy of pairs: loops, small batches, images that are neither right nor wrong, and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.losses.parts.pairs import pairs_of
from distilplace.losses.tasks.ranking import (
    CorrelationRankingCrossEntropy,
    RankingCrossEntropy,
    ranking_loss,
    ranking_network,
)

BOTH = (RankingCrossEntropy, CorrelationRankingCrossEntropy)


def batch(seed: int, places: int, width: int = 4, share: float = 0.0) -> tuple[Tensor, Tensor]:
    """Embeddings of ``places`` consecutive pairs, and a mask of negatives that lacks a ``share`` of other places."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(2 * places, width, generator=generator, dtype=torch.float64)
    place = torch.arange(2 * places) // 2
    negatives = place.unsqueeze(0) != place.unsqueeze(1)
    near = torch.rand(2 * places, 2 * places, generator=generator) < share
    return embedding, negatives & ~(near | near.T)


def loss_of(loss_function, embedding: Tensor, negatives: Tensor, **extras):
    return loss_function({"embedding": embedding}, torch.zeros_like(negatives), negatives, **extras)


def cosine_table(embedding: Tensor, negatives: Tensor) -> list[list[float | None]]:
    """Cosines of even rows with odd rows; None where two places are not negatives."""
    rows = [[v / math.hypot(*row) for v in row] for row in embedding.tolist()]
    return [
        [
            sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) if i + 1 == j or negatives[i, j] else None
            for j in range(1, len(rows), 2)
        ]
        for i in range(0, len(rows), 2)
    ]


def cross_entropy(values: list[float], own: int) -> float:
    return math.log(sum(math.exp(value) for value in values)) - values[own]


def ranked_side(table: list[list[float | None]], network, top: int) -> float:
    errors = []
    for place, row in enumerate(table):
        ranked = sorted((j for j, value in enumerate(row) if value is not None), key=lambda j: -row[j])[:top]
        if place in ranked:
            shown = [row[j] for j in ranked] + [-1.0] * (top - len(ranked))
            scores = network(torch.tensor(shown, dtype=torch.float64)).tolist()[: len(ranked)]
            errors.append(cross_entropy(scores, ranked.index(place)))
    return sum(errors) / len(errors) if errors else 0.0


@given(seed=st.integers(0, 999), places=st.integers(1, 6), top=st.integers(1, 8), share=st.sampled_from([0, 0.3, 1]))
@settings(max_examples=30, deadline=None)
def test_by_loops(seed, places, top, share):
    embedding, negatives = batch(seed, places, share=share)
    table = cosine_table(embedding, negatives)
    turned = [list(column) for column in zip(*table, strict=True)]
    plain, full = RankingCrossEntropy(top).double(), CorrelationRankingCrossEntropy(top, 0.5).double()
    for value in [*plain.parameters(), *full.parameters()]:
        value.data += 0.1 * torch.sin(torch.arange(value.numel(), dtype=torch.float64)).reshape(value.shape)
    ranked = (ranked_side(table, plain.network, top) + ranked_side(turned, plain.network, top)) / 2
    assert loss_of(plain, embedding, negatives)[0].item() == pytest.approx(ranked, rel=1e-9, abs=1e-12)
    for side in (table, turned):
        for place, row in enumerate(side):
            kept = [value / 0.5 for value in row if value is not None]
            own = sum(value is not None for value in row[:place])
            ranked += cross_entropy(kept, own) / places
    loss, statistics = loss_of(full, embedding, negatives)
    assert loss.item() == pytest.approx(ranked, rel=1e-9)
    assert statistics["ranking"] + statistics["correlation_rows"] + statistics["correlation_columns"] == pytest.approx(
        loss.item()
    )


def test_a_network_that_hands_its_input_on():
    """Rows (0.5, 0.1) and (0.3, 0.2): the first ranks its partner first, the second ranks it last; columns alike."""
    similarity = torch.tensor([[0.5, 0.1], [0.3, 0.2]], dtype=torch.float64)
    loss, share = ranking_loss(similarity, lambda shown: shown, 4)
    rows = [cross_entropy([0.5, 0.1], 0), cross_entropy([0.3, 0.2], 1)]
    columns = [cross_entropy([0.5, 0.3], 0), cross_entropy([0.2, 0.1], 0)]
    assert loss.item() == pytest.approx(sum(rows + columns) / 4)
    assert share.item() == 1
    loss, share = ranking_loss(similarity, lambda shown: shown, 1)
    assert (loss.item(), share.item()) == (0, 0.75)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("places", [1, 2, 3])
def test_batches_smaller_than_the_network_is_wide_teach_it(kind, places):
    embedding, negatives = batch(0, places)
    embedding.requires_grad_()
    loss_function = kind(asht_topx=10)
    loss, statistics = loss_of(loss_function, embedding, negatives)
    loss.backward()
    assert statistics["partner_in_top"] == 1
    assert loss.isfinite()
    assert embedding.grad.isfinite().all()
    assert all(value.grad.isfinite().all() for value in loss_function.parameters())
    assert any(value.grad.any() for value in loss_function.parameters()) == (places > 1)


def test_no_partner_among_the_largest_is_no_loss():
    similarity = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss, share = ranking_loss(similarity, torch.nn.Linear(1, 1).double(), 1)
    loss.backward()
    assert (loss.item(), share.item()) == (0, 0)
    assert (similarity.grad == 0).all()


@pytest.mark.parametrize("kind", BOTH)
def test_a_place_within_the_radius_is_no_wrong_answer(kind):
    """Two places next to each other, seen alike: each image has one possible answer, so nothing is left to learn."""
    embedding, negatives = batch(0, 2)
    embedding[2:] = embedding[:2]
    loss_function = kind()
    assert loss_of(loss_function, embedding, negatives)[0].item() > 0.1
    assert loss_of(loss_function, embedding, torch.zeros_like(negatives))[0].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", BOTH)
def test_neither_length_nor_order_of_the_embeddings_counts(kind):
    embedding, negatives = batch(1, 5, share=0.2)
    loss_function = kind(asht_topx=3)
    wanted = loss_of(loss_function, embedding, negatives)[0].item()
    lengths = torch.arange(1.0, 11.0, dtype=torch.float64).unsqueeze(1)
    assert loss_of(loss_function, lengths * embedding, negatives)[0].item() == pytest.approx(wanted)
    order = torch.tensor([3, 8, 1, 0, 9, 2, 4, 7, 6, 5])
    where = order.argsort()
    pairs = where.reshape(-1, 2)[torch.tensor([4, 2, 0, 1, 3])]
    moved = loss_of(loss_function, embedding[order], negatives[order][:, order], pairs=pairs)
    assert moved[0].item() == pytest.approx(wanted)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rows_that_coincide_or_vanish_give_finite_gradients(kind, dtype):
    embedding, negatives = batch(2, 4)
    embedding[2] = embedding[0]
    embedding[5] = 0
    embedding = embedding.to(dtype).requires_grad_()
    loss, statistics = loss_of(kind(), embedding, negatives)
    loss.backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert loss.item() >= 0
    assert embedding.grad.isfinite().all()
    assert all(math.isfinite(value) for value in statistics.values())


def test_the_gradient_is_that_of_the_loss():
    embedding, negatives = batch(3, 4, share=0.2)
    loss_function = CorrelationRankingCrossEntropy(3).double()
    assert torch.autograd.gradcheck(lambda x: loss_of(loss_function, x, negatives)[0], embedding.requires_grad_())


def test_a_new_network_scores_by_the_cosines_and_all_of_it_learns():
    for top in (3, 40):
        network = ranking_network(top)
        shown = torch.linspace(-1, 1, top).flip(0).unsqueeze(0)
        torch.testing.assert_close(network(shown), shown / 0.07)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
        start = [value.detach().clone() for value in network.parameters()]
        for _ in range(2):
            torch.nn.functional.cross_entropy(network(shown), torch.tensor([1])).backward()
            optimiser.step()
        assert all((value != before).any() for value, before in zip(network.parameters(), start, strict=True))
        assert (network[0].weight != start[0])[2 * top :].any() or 2 * top >= 64


@pytest.mark.parametrize("seed", range(3))
def test_training_by_ranking_alone_puts_the_partners_first(seed):
    embedding, negatives = batch(seed, 8, width=16)
    embedding = embedding.float().requires_grad_()
    loss_function = RankingCrossEntropy()
    optimiser = torch.optim.Adam([{"params": embedding, "lr": 0.02}, {"params": loss_function.parameters()}])
    before = loss_of(loss_function, embedding, negatives)[1]
    for _ in range(100):
        optimiser.zero_grad()
        loss_of(loss_function, embedding, negatives)[0].backward()
        optimiser.step()
    assert before["recall@1"] < 0.5
    assert loss_of(loss_function, embedding, negatives)[1]["recall@1"] == 1


def test_the_network_is_the_same_in_every_run_and_draws_from_no_global_state():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = RankingCrossEntropy()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    for one, other in zip(first.parameters(), RankingCrossEntropy().parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_pairs_of_a_batch():
    negatives = torch.ones(5, 5, dtype=torch.bool)
    negatives[4, 3] = False
    chosen = pairs_of(torch.zeros(5, 2), negatives, torch.tensor([[0, 1], [4, 2], [0, 3]]))
    assert chosen.queries.tolist() == [0, 4, 0]
    assert chosen.database.tolist() == [1, 2, 3]
    assert chosen.ambiguous.tolist() == [[False] * 3, [False, False, True], [False] * 3]


@pytest.mark.parametrize("rows", [0, 3])
def test_rows_without_a_partner_are_refused(rows):
    with pytest.raises(UserError, match=f"batch of {rows} rows is not made of pairs"):
        loss_of(RankingCrossEntropy(), torch.ones(rows, 2), torch.ones(rows, rows, dtype=torch.bool))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"asht_topx": 0}, "at least 1"), ({"asht_topx": 2.5}, "whole number"), ({"tau_student": 0}, "above 0")],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CorrelationRankingCrossEntropy(**options)
